"""What commands do in processes of their own: exit codes, signals, pipes and terminals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "command_processes.py"
KEPT = "ribs: interrupted; all that was measured is kept in run; the same command goes on from there\n"
NOT_SAVED = "ribs: interrupted; nothing was saved; with --journal FOLDER the same command would go on\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    command = [sys.executable, SCRIPT, tmp_path_factory.mktemp("commands")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("ctrl-c", 4, KEPT),
        ("terminated", 4, KEPT),
        ("resumed", 0, ""),
        ("ctrl-c early", 130, NOT_SAVED),
        ("ctrl-c alone", 130, NOT_SAVED),
        ("terminated alone", 143, NOT_SAVED),
        ("closed pipe", 141, ""),
    ],
)
def test_exit_codes_and_what_is_said(found, name, code, message):
    assert (found[name]["code"], found[name]["err"]) == (code, message)
    assert bool(found[name]["out"]) == (code == 0)


@pytest.mark.parametrize(
    ("name", "code", "message"), [("bad usage", 2, "usage: ribs"), ("infeasible", 3, "The nearest configuration")]
)
def test_what_cannot_be_done(found, name, code, message):
    assert (found[name]["code"], found[name]["out"]) == (code, "")
    assert message in found[name]["err"] and "Traceback" not in found[name]["err"]


def test_what_goes_on_ends_as_if_nothing_had_been(found):
    whole, resumed = (json.loads(found[name]["out"]) for name in ("whole", "resumed"))
    assert whole.pop("seconds") > 0 and resumed.pop("seconds") > 0
    assert resumed == whole
    assert found["resumed"]["calls"] < found["resumed"]["calls of the whole"]


def test_bars_are_for_terminals_and_lines_for_the_rest(found):
    lines = found["whole"]["err"].splitlines()
    history = json.loads(found["whole"]["out"])["history"]
    assert lines[0].startswith("ribs: 2 units") and len(lines) == 1 + len(history)
    for number, (line, record) in enumerate(zip(lines[1:], history, strict=True), 1):
        assert line.startswith(f"ribs: iteration {number} of at most 4: loss {record['loss']:.6g} +- ")
    assert found["terminal"]["err"].startswith("ribs: 2 units") and "\rsearch: " in found["terminal"]["err"]
    assert found["quiet terminal"]["err"] == ""
    for name in ("terminal", "quiet terminal"):
        assert "bits" in json.loads(found[name]["out"])
