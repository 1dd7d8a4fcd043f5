"""The files of rows: what they say against the paper's own lines, and what their reader refuses."""

import copy
import json

import pytest

from ribs.cli import paper

# Table 1 as the paper prints it: method, weight/activation bits, MiB or GBOPs, top-1.
TABLE_1 = {
    "table1a": (
        """
        FP32 32/32 44.6 72.54
        QDROP† 4/4 5.81 69.62
        OMPQ† MP/4 5.5 69.38
        EMQ† MP/4 5.5 70.12
        recRIBS (ours)*† MP/4 5.5 70.60
        BRECQ† MP/8 4.0 68.82
        OMPQ† MP/8 4.0 69.41
        EMQ† MP/8 4.0 69.92
        recRIBS (ours)*† MP/8 4.0 70.74
        """,
        """
        FP32 32/32 1858 72.54
        MSEinit* 4/4 29.0 52.0
        RIBS (ours)* MP/MP 28.5 53.36
        QDROP* 4/4 29.0 69.13
        MRECG 4/4 29.0 69.46
        recRIBS (ours)* MP/MP 28.5 70.20
        MSEinit* 6/6 65.3 71.61
        HAWQ-V3† MP/MP 72 70.22
        RIBS (ours)* MP/MP 64.8 71.73
        """,
    ),
    "table1b": (
        """
        FP32 32/32 13.4 72.89
        BRECQ MP/8 1.3 68.99
        OMPQ MP/8 1.3 69.62
        EMQ MP/8 1.3 70.72
        recRIBS (ours) MP/8 1.3 70.97
        BRECQ MP/8 1.5 70.28
        EMQ MP/8 1.5 70.75
        recRIBS (ours) MP/8 1.5 71.99
        """,
        """
        FP32 32/32 307 72.89
        MSEinit* 4/4 4.8 13.81
        RIBS (ours)* MP/MP 4.8 40.59
        QDROP* 4/4 4.8 66.77
        recRIBS (ours)* MP/MP 4.8 68.36
        recRIBS (ours)* MP/MP 5.36 69.36
        """,
    ),
    "table1c": (
        "",
        """
        FP32 32/32 1284 72.13
        RepQViT+* 6/6 45.13 71.12
        RIBS (ours)* MP/MP 45.13 71.21
        RepQViT+* 4/4 20.06 54.32
        RIBS (ours)* MP/MP 20.01 59.94
        RepQViT† 4/4 21.46 57.43
        RepQViT+*† 4/4 21.46 59.08
        RIBS (ours)* MP/MP 21.39 62.15
        RepQViT+* 3/3 11.28 12.72
        RIBS (ours)* MP/MP 11.28 20.58
        RepQViT+*† 3/3 12.88 21.02
        RIBS (ours)* MP/MP 12.85 32.64
        """,
    ),
}
M = {"resnet18": 5, "mobilenetv2": 15, "deit-t": 28}
STEPS = {"resnet18": 200, "mobilenetv2": 1000}


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_is_the_papers(name):
    for cost, text in zip(("mib", "gbops"), TABLE_1[name], strict=True):
        rows = [row for row in paper.tables()[name].rows if getattr(row.published, cost)]
        lines = [f"{row.method} {row.bits} {getattr(row.published, cost)} {row.published.top1}" for row in rows]
        assert lines == [line.strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize("name", TABLE_1)
def test_searches_of_table_1_are_set_as_the_paper_says(name):
    table = paper.tables()[name]
    assert table.samples == 1024 and table.candidates == (2, 3, 4, 5, 6, 7, 8)
    searches = [row for row in table.rows if isinstance(row.run, paper.Search)]
    assert [row.name for row in searches] == [row.name for row in table.rows if "ours" in row.method]
    for row in searches:
        assert (row.run.update_size, row.run.iterations) == (M[row.network], 10)
        assert (row.run.reconstruction is not None) == row.method.startswith("recRIBS")
        if row.run.reconstruction:
            assert row.run.reconstruction.search_iterations == STEPS[row.network]
        activation = row.bits.partition("/")[2]
        assert row.run.activation_bits == (None if activation == "MP" else int(activation))


@pytest.mark.parametrize("name", TABLE_1)
def test_daggers_are_ends_at_8_bits(name):
    for row in paper.tables()[name].rows:
        if getattr(row.run, "bits", None) or isinstance(row.run, paper.Search):
            assert getattr(row.run, "ends", None) == (8 if "†" in row.method else None), row.name


def test_all_that_the_paper_shows_is_there():
    assert sorted(paper.tables()) == [*(f"figure{number}" for number in "13456"), "table1a", "table1b", "table1c"]
    assert {row.network for row in paper.tables()["figure5"].rows} == {"resnet18", "mobilenetv2"}
    assert all(row.run.iterations == 1 and row.run.units == "layer" for row in paper.tables()["figure5"].rows)


def test_the_regulariser_of_mobilenet_is_the_papers():
    for name, table in paper.tables().items():
        for row in table.rows:
            if (asked := getattr(row.run, "reconstruction", None)) is not None:
                assert asked.penalty == (0.1 if row.network == "mobilenetv2" else 0.01), f"{name}/{row.name}"


def test_rows_are_found_by_name():
    table, row = paper.find_row("table1a/ribs-28.5")
    assert row in table.rows and row.run.gbops == 28.5
    with pytest.raises(ValueError, match="the rows of table1c are table1c/fp32, "):
        paper.find_row("table1c/ribs")
    with pytest.raises(ValueError, match=r"'ribs-28\.5' is no row; give TABLE/ROW, TABLE being one of figure1"):
        paper.find_row("ribs-28.5")


def test_the_float_network_stands_beside_every_row():
    table, row = paper.find_row("table1a/ribs-64.8")
    assert [other.name for other in table.beside(row)] == ["fp32", "mseinit-65.3", "hawqv3-72", "ribs-64.8"]


TABLE = {
    "title": "a table",
    "measure": "top-1",
    "samples": 16,
    "candidates": [2, 4],
    "seed": 0,
    "rows": [
        {
            "name": "a",
            "method": "RIBS",
            "bits": "MP/MP",
            "network": "resnet18",
            "group": "g",
            "published": {"gbops": "28.5"},
            "run": {"job": "search", "units": "block", "iterations": 2, "update_size": 5, "gbops": 28.5},
        }
    ],
}


def changed(path, value):
    """TABLE's text with one value replaced, added, or taken out where `value` is ...."""
    table = copy.deepcopy(TABLE)
    *parents, last = path
    place = table
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(table)


def test_a_table_is_read():
    read = paper.parse(paper.Table, json.dumps(TABLE), "t.json")
    assert read.rows[0].run == paper.Search("search", "block", 2, 5, 28.5)
    assert read.rows[0].published == paper.Published(gbops="28.5") and read.candidates == (2, 4)


RUN = ("rows", 0, "run")
REFUSED = {
    "unknown key": (("colour",), "red", r"t\.json: unknown keys colour; known ones are title, "),
    "unknown key of a run": ((*RUN, "m"), 5, r"t\.json, rows\[0\] \(a\), run: unknown keys m"),
    "key of another job": ((*RUN, "others"), 8, "unknown keys others"),
    "missing key": (("samples",), ..., r"t\.json: missing keys samples"),
    "no job": ((*RUN, "job"), ..., "job=None is not allowed; give one of float, cited, uniform, search"),
    "unknown job": ((*RUN, "job"), "guess", "job='guess' is not allowed"),
    "run of another type": (RUN, 3, "job=None is not allowed"),
    "text for a number": (("samples",), "16", r"t\.json, samples: '16' is not allowed; give int"),
    "bool for a number": (("samples",), True, "samples: True is not allowed"),
    "float for an int": (("samples",), 16.0, r"samples: 16\.0 is not allowed; give int"),
    "number for text": (("title",), 3, "title: 3 is not allowed; give str"),
    "unknown choice": (("measure",), "top-5", "measure: 'top-5' is not allowed; give one of 'top-1', 'task loss'"),
    "bits": (("candidates",), [2, 9], r"candidates\[1\]: 9 is not allowed; give one of 1, 2, "),
    "bool for bits": (("candidates",), [True], r"candidates\[0\]: True is not allowed"),
    "no list": (("candidates",), 4, "candidates: 4 is not allowed"),
    "no candidates": (("candidates",), [], "at least one candidate"),
    "no samples": (("samples",), 0, "samples is at least 1"),
    "two budgets": ((*RUN, "mib"), 5.5, r"run: a search has one budget: give gbops or mib"),
    "no budget": ((*RUN, "gbops"), ..., "a search has one budget"),
    "unreadable budget": ((*RUN, "gbops"), "4", r"gbops='4' cannot be read; give a number or \"W/A\""),
    "bool for a budget": ((*RUN, "gbops"), True, "gbops: True is not allowed"),
    "no iterations": ((*RUN, "iterations"), 0, "iterations and update_size are at least 1"),
    "no update size": ((*RUN, "update_size"), ..., "update_size may only be left out where there is one iteration"),
    "number for digits": (("rows", 0, "published", "gbops"), 28.5, r"gbops: 28\.5 is not allowed; give str"),
    "no digits": (("rows", 0, "published", "gbops"), "28.5 G", "give the digits printed"),
    "two rows of one name": (("rows",), TABLE["rows"] * 2, "rows share a name: a"),
    "no object": (("rows", 0), "a", r"t\.json, rows\[0\]: 'a' is not allowed; give an object"),
}


@pytest.mark.parametrize(("path", "value", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_table_is_refused_by_its_place(path, value, message):
    with pytest.raises(paper.RowsError, match=message):
        paper.parse(paper.Table, changed(path, value), "t.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"t\.json: Expecting"),
        ("[]", r"t\.json: \[\] is not allowed; give an object"),
        ('{"title": "a", "title": "b"}', "repeated keys: title"),
        ('{"title": NaN}', "NaN is not a number"),
    ],
    ids=["not json", "no object", "repeated", "nan"],
)
def test_wrong_text_is_refused(text, message):
    with pytest.raises(paper.RowsError, match=message):
        paper.parse(paper.Table, text, "t.json")


def test_an_unknown_network_is_refused(monkeypatch):
    monkeypatch.setattr(paper, "networks", lambda: {"another": None})
    paper.tables.cache_clear()
    with pytest.raises(paper.RowsError, match=r"figure1\.json, mobilenetv2: 'mobilenetv2' is none of another"):
        paper.tables()
