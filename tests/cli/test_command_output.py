"""What all commands print: help without torch, and one JSON document."""

import json
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import ribs
from ribs.cli import demo, output
from ribs.cli.main import COMMANDS, main

HELP = """
import io, sys
from contextlib import redirect_stdout
from ribs.cli.main import main
for command in sys.argv[1:]:
    with redirect_stdout(io.StringIO()) as text:
        try:
            main([command, "--help"])
        except SystemExit as ended:
            assert ended.code == 0
    assert text.getvalue().startswith(f"usage: ribs {command} ") and "--json" in text.getvalue()
sys.exit(str({"torch", "numpy", "tqdm", "highspy"} & {name.partition(".")[0] for name in sys.modules} or ""))
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP, *COMMANDS], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"ribs {ribs.__version__}\n"


def test_numbers_that_are_not_finite_are_null(capsys):
    output.print_json({"a": [math.nan, (1.5, math.inf)], "b": {"c": -math.inf, "d": "nan", "e": 2**70}})
    read = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert read == {"a": [None, [1.5, None]], "b": {"c": None, "d": "nan", "e": 2**70}}


def test_rows_of_the_paper(capsys):
    assert main(["reproduce", "--list", "--json"]) == 0
    rows = {each["row"]: each for each in json.loads(capsys.readouterr().out)}
    assert rows["table1a/ribs-28.5"]["published"]["gbops"] == "28.5"
    assert rows["table1a/ribs-28.5"]["waits_for"] == ["ImageNet"] and rows["table1a/mrecg-29.0"]["waits_for"] is None


def test_demo_prints_its_words_elsewhere(capsys, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.randn(16, 1, 8, 8)
    monkeypatch.setattr(demo, "demo_network", lambda progress: network)
    monkeypatch.setattr(demo, "two_digits", lambda *given, seed: (images, network(images).argmax(1)))
    monkeypatch.setattr(demo, "batches", lambda *given, seed: [torch.randn(16, 1, 8, 8)])
    assert main(["demo", "--seeds", "2", "--json"]) == 0
    printed = capsys.readouterr()
    compared = json.loads(printed.out)
    assert [each["seed"] for each in compared] == [0, 1] and "handwritten digits" in printed.err
    names = ["float", "uniform 3/3", "Algorithm 1, by block", "ribs"]
    for each in compared:
        assert [row["name"] for row in each["networks"]] == names
        floating, uniform, paper, found = each["networks"]
        assert (floating["top1"], floating["loss"]) == (100, 0)
        assert max(paper["bops"], found["bops"]) <= uniform["bops"]
    assert main(["demo"]) == 0
    assert "seed 0" in capsys.readouterr().out
