"""Docstrings on their way to the reference: no word is lost, and what is indented belongs to what stands above."""

import inspect
import re

import pytest
from docstrings import as_rst

import ribs

PUBLIC = {f"ribs.{name}": getattr(ribs, name) for name in ribs.__all__}
PUBLIC |= {f"ribs.ops.{name}": getattr(ribs.ops, name) for name in ribs.ops.__all__}
CALLS = {name: each for name, each in PUBLIC.items() if callable(each)}


def _words(lines: list[str]) -> list[str]:
    """What a reader sees, but for colons, which definitions do without."""
    return re.findall(r"[^\s:]+", " ".join(lines).replace("`", "").replace("\\", ""))


@pytest.mark.parametrize("name", CALLS)
def test_words_stay(name):
    lines = inspect.getdoc(CALLS[name]).split("\n")
    found = list(lines)
    as_rst(found)
    assert _words(found) == _words(lines)


def test_facts_become_definitions():
    lines = [
        "A sentence.",
        "",
        "x, y: two",
        "    numbers.  z: one.",
        "",
        "Args:",
        "    a_b: `c` or *",
        "Returns: d.",
        "e.",
    ]
    as_rst(lines)
    assert [line for line in lines if line] == [
        "A sentence.",
        "``x``, ``y``",
        "    two",
        "    numbers.",
        "``z``",
        "    one.",
        "Args",
        "    ``a_b``",
        "        ``c`` or \\*",
        "Returns",
        "    d.",
        "    e.",
    ]
