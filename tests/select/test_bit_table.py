"""Tables of bits that other programs read and write."""

import csv
import json

import pytest

import ribs
from ribs.select.bit_table import as_csv, as_json, read_bits
from small import loader, network

BITS = {"0": (2, 3), "2": (8, 4), "5": (32, 8)}


@pytest.mark.parametrize("name", ["bits.json", "bits.csv"])
def test_a_table_drives_quantize(name, tmp_path):
    (tmp_path / name).write_text({"bits.json": as_json, "bits.csv": as_csv}[name](BITS))
    result = ribs.quantize(network(), loader(), tmp_path / name, progress=False)
    assert result.bits == BITS == ribs.quantize(network(), loader(), str(tmp_path / name), progress=False).bits


def test_a_saved_table_drives_reconstruction_and_training(tmp_path):
    ribs.quantize(network(), loader(), BITS, progress=False).save(tmp_path / "a")
    table = tmp_path / "a" / "bits.csv"
    assert ribs.reconstruct(network(), loader(), table, iterations=2, progress=False).bits == BITS
    trained = ribs.qat.prepare(network(), loader(), table)
    assert ribs.qat.finish(trained, network(), loader()).bits == BITS


def test_tables_are_what_other_readers_read():
    odd = {'a "b", c': (2, 3), "d\ne": (4, 5)}
    assert json.loads(as_json(odd)) == {unit: list(pair) for unit, pair in odd.items()}
    rows = list(csv.reader(as_csv(odd).splitlines(keepends=True)))
    assert rows == [["unit", "weight_bits", "activation_bits"], ['a "b", c', "2", "3"], ["d\ne", "4", "5"]]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("bits.txt", "{}", "give the path of a .json or a .csv file"),
        ("bits.json", "{", "cannot be read as a table of bits"),
        ("bits.json", "[" * 100_000, "cannot be read as a table of bits"),
        ("bits.json", "[[2, 3]]", "it must be an object"),
        ("bits.json", '{"a": [2, 3], "a": [2, 4]}', "has a unit twice"),
        ("bits.json", '{"a": [9, 3]}', r"bits=\[9, 3\] is not allowed"),
        ("bits.json", '{"a": {"b": 3}}', "is not allowed"),
        ("bits.csv", "unit,bits\na,3\n", "it must have the columns unit,weight_bits,activation_bits"),
        ("bits.csv", "unit,weight_bits,activation_bits\na,3\n", "invalid literal for int"),
        ("bits.csv", "unit,weight_bits,activation_bits\na,3,4,5\n", "it must have the columns"),
        ("bits.csv", 'unit,weight_bits,activation_bits\n"a', "cannot be read as a table of bits"),
    ],
)
def test_other_files_are_refused(name, text, what, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=what):
        read_bits(tmp_path / name)


def test_long_files_are_refused_unread(tmp_path):
    with (tmp_path / "bits.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="too long for a table of bits"):
        read_bits(tmp_path / "bits.json")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        ribs.quantize(network(), loader(), tmp_path / "none.csv")
