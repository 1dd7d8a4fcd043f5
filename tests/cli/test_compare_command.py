"""`ribs compare` on a model and data of one's own."""

import json

import pytest
import torch

from ribs.cli.main import main

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    (tmp_path / "compared_model.py").write_text(MODEL)
    torch.save(torch.randn(32, 1, 8, 8), tmp_path / "data.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--input-size", "1x8x8", "--units", "layer", "--iterations", "2", "--no-progress"]
    return ["compare", "compared_model:build", "--data", "data.pt", *options]


def test_all_methods_at_all_budgets(command, capsys, tmp_path):
    budgets = ["--budget-bops", "3/3", "--budget-bops", "20000", "--budget-size", "4/4"]
    assert main([*command, *budgets, "--methods", "ribs,uniform", "--seeds", "2", "--json", "--plot", "p.png"]) == 0
    rows = json.loads(capsys.readouterr().out)
    words = ["bops 3/3", "bops 20000.0", "size_mib 4/4"]
    methods = [("ribs", 0), ("ribs", 1), ("uniform", 0)]
    assert [(row["budget"], row["method"], row["seed"]) for row in rows] == [(b, *m) for b in words for m in methods]
    assert all(row["bops"] <= 20000 for row in rows if row["budget"] == "bops 20000.0")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_for_people_and_bad_input(command, capsys):
    assert main([*command, "--budget-bops", "4/4", "--methods", "kl,uniform"]) == 0
    assert "one standard error of the first" in capsys.readouterr().out
    assert main([*command, "--budget-bops", "4/4", "--methods", "best"]) == 2
    assert "give some of ribs, paper, uniform" in capsys.readouterr().err
    assert main([*command, "--budget-bops", "1/1"]) == 3
    assert main([*command]) == 2
    assert "0 budgets" in capsys.readouterr().err
