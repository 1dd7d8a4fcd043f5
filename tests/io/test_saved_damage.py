"""Damaged results: a typed error that says what is wrong, and no memory for what is only claimed."""

import json
import os

import pytest
import safetensors.torch
from damage import Damage, run
from saved import quantized

import ribs
from ribs.io import folder as files
from ribs.io import schema
from ribs.io.content import Content
from small import loader, network


@pytest.fixture
def saved(tmp_path):
    quantized(network(), loader()[0], 4).save(tmp_path / "a")
    return tmp_path / "a"


def rewritten(folder, **changes):
    """With other fields and a checksum that fits."""
    content = json.loads((folder / files.RESULT).read_text())["content"]
    (folder / files.RESULT).write_bytes(files.result_file(content | changes))


def readers(folder):
    """By file: the function of `load` that reads it."""
    content = schema.decode(Content, files.read_result(folder), "")
    stored = safetensors.torch.load_file(folder / files.WEIGHTS)
    expected = {name: (each.dtype, tuple(each.shape)) for name, each in stored.items()}
    return {
        files.RESULT: lambda: files.read_result(folder),
        files.WEIGHTS: lambda: files.read_weights(folder, content.weights, expected),
    }


@pytest.mark.parametrize("name", [files.RESULT, files.WEIGHTS])
def test_cut_at_any_byte(name, saved):
    whole, read = (saved / name).read_bytes(), readers(saved)[name]
    assert read()
    for length in reversed(range(len(whole.rstrip(b"\n")))):
        os.truncate(saved / name, length)
        with pytest.raises(ribs.FormatError, match="damaged"):
            read()


@pytest.mark.parametrize("name", [files.RESULT, files.WEIGHTS])
def test_every_byte_counts(name, saved):
    """A bit that is not as it was is noticed wherever it is, but in white space and in the e of a number."""
    whole, read = (saved / name).read_bytes(), readers(saved)[name]
    with (saved / name).open("r+b", buffering=0) as file:
        for at, byte in enumerate(whole):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
            try:
                read()
            except ribs.FormatError:
                pass
            else:
                assert name == files.RESULT and json.loads((saved / name).read_bytes()) == json.loads(whole), at
            os.pwrite(file.fileno(), bytes([byte]), at)


def test_random_damage(tmp_path):
    """No other error than that of the format comes out; `python tests/io/damage.py 20000` does the same for longer."""
    found = list(run(tmp_path, 300))
    assert 20 < found.count("loaded") < 100  # most is noticed, and not all is refused


def test_random_damage_can_do_harm(tmp_path, monkeypatch):
    """Without its checks the format lets other errors out, so that the test above can fail."""
    monkeypatch.setattr("ribs.io.saved.check_content", lambda content: None)
    monkeypatch.setattr("ribs.io.saved.check_fits", lambda content, model: None)
    damage = Damage(tmp_path / "a", "convs", 0)
    with pytest.raises(Exception) as error:
        for _ in range(300):
            damage.values()
            damage.load()
    assert not isinstance(error.value, ribs.FormatError)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b"NaN", b"", b"[1, 1"]
)
def test_what_is_no_json_is_refused(text, saved):
    (saved / files.RESULT).write_bytes(text)
    with pytest.raises(ribs.FormatError, match="damaged"):
        ribs.load(saved, network())


def test_long_files_are_refused_unread(saved):
    with (saved / files.RESULT).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ribs.FormatError, match="no result has 1,099,511,627,776 bytes"):
        ribs.load(saved, network())


def test_long_headers_are_refused_unread(saved):
    found = bytearray((saved / files.WEIGHTS).read_bytes())
    found[:8] = (2**62).to_bytes(8, "little")
    (saved / files.WEIGHTS).write_bytes(found)
    with pytest.raises(ribs.FormatError, match="no header has"):
        ribs.load(saved, network())


def test_weights_of_another_result_are_refused(saved, tmp_path):
    quantized(network(seed=1), loader()[0], 4).save(tmp_path / "b")
    (saved / files.WEIGHTS).write_bytes((tmp_path / "b" / files.WEIGHTS).read_bytes())
    with pytest.raises(ribs.FormatError, match=r"it is not what was written with result\.json"):
        ribs.load(saved, network())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"bits": {"0": [4, 4], "2": [4, 4], "5": [4, 5]}}, "'5' do not have the bits of its unit"),
        ({"bits": {"0": [4, 4], "2": [4, 4]}}, "the bits are not those of the units"),
        ({"bits": {"0": [4, 4], "2": [4, 4], "5": [4, 0]}}, "unit '5' has 0 bits"),
        ({"bops": 5}, "its costs are not those of its bits"),
        ({"loss": "1"}, r"loss is damaged: '1' is no such value"),
        ({"loss": True}, "loss is damaged: True is no such value"),
        ({"stopped": 1}, "stopped is damaged"),
        ({"accounting": "mine"}, "accounting is damaged: 'mine' is no such value"),
        ({"units": []}, "not every layer is in one unit"),
        ({"layers": {}}, "not every layer has its quantizers"),
        ({"more": 1}, r"the saved result is damaged"),
    ],
)
def test_contradictions_are_named(changes, what, saved):
    rewritten(saved, **changes)
    with pytest.raises(ribs.FormatError, match=what):
        ribs.load(saved, network())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"kind": "mine"}, r"quantizer 0 of '0' is of the kind 'mine'; known are uniform"),
        ({"step": [0.0]}, "steps that are not positive and finite"),
        ({"step": ["nan"]}, "steps that are not positive and finite"),
        ({"step": [1e-60]}, "steps that are not positive and finite"),
        ({"step": [1e300]}, "steps that are not positive and finite"),
        ({"step": [0.1, 0.2]}, "has 2 steps and 1 zero points"),
        ({"step": [], "zero_point": []}, "has 0 steps"),
        ({"zero_point": [2**40]}, "zero point beyond"),
    ],
)
def test_quantizers_that_cannot_be_are_refused(change, what, saved):
    content = json.loads((saved / files.RESULT).read_text())["content"]
    content["layers"]["0"]["inputs"][0].update(change)
    rewritten(saved, layers=content["layers"])
    with pytest.raises(ribs.FormatError, match=what):
        ribs.load(saved, network())


def test_shapes_that_are_only_claimed_take_no_memory(saved):
    content = json.loads((saved / files.RESULT).read_text())["content"]
    content["layers"]["0"]["weight"].update(shape=[2**45, 1, 1, 1], stride=[1, 1, 1, 1])
    content["trace"]["layers"][0]["weights"] = 2**45
    table = ribs.load(saved, network()).costs
    content["size_mib"] = (table.weight_bits(4) + 4 * (2**45 - 36)) / 2**23
    rewritten(saved, **{name: content[name] for name in ("layers", "trace", "size_mib")})
    with pytest.raises(ribs.FormatError, match=r"its '0.weight' is torch.float32 \(4, 1, 3, 3\), saved was"):
        ribs.load(saved, network())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"stride": [18, 9, 3, 1]}, "the weights of '0' have gaps"),
        ({"stride": [1, 1, 1, 1]}, "the weights of '0' have gaps"),
        ({"stride": [9, 9, 3]}, "'0' has no such shape"),
        ({"shape": [2, 2, 3, 3], "stride": [18, 9, 3, 1]}, "its '0.weight' is .*4, 1, 3, 3.*, saved was .*2, 2, 3, 3"),
        ({"shape": [4, 1, 3, 4]}, "'0' has another number of weights"),
        ({"axis": 4}, "'0' has steps along no dimension"),
        ({"bits": 3}, "the weights of '0' do not have the bits of its unit"),
    ],
)
def test_weights_that_cannot_be_are_refused(changes, what, saved):
    content = json.loads((saved / files.RESULT).read_text())["content"]
    content["layers"]["0"]["weight"].update(changes)
    rewritten(saved, layers=content["layers"])
    with pytest.raises(ribs.FormatError, match=what):
        ribs.load(saved, network())


def test_fields_that_are_there_twice_are_refused():
    with pytest.raises(ribs.FormatError, match="it has a field twice"):
        schema.parse(b'{"a": 1, "b": {"c": 1, "c": 2}}', "x")
    with pytest.raises(ribs.FormatError, match="it has a key twice"):
        schema.decode(dict[tuple[int, int], float], [[[1, 2], 0.5], [[1, 2], 0.25]], "x")
