"""`ribs compare` on a model and data of one's own."""

import json
from pathlib import Path

import pytest
import torch

import ribs
from ribs.cli.main import main

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
"""


def build():
    namespace = {}
    exec(MODEL, namespace)
    return namespace["build"]().eval()


@pytest.fixture
def command(tmp_path, monkeypatch):
    (tmp_path / "compared_model.py").write_text(MODEL)
    torch.save(torch.randn(32, 1, 8, 8), tmp_path / "data.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--input-size", "1x8x8", "--units", "layer", "--iterations", "2", "--no-progress"]
    return ["compare", "compared_model:build", "--data", "data.pt", *options]


def test_all_methods_at_all_budgets(command, capsys, tmp_path):
    budgets = ["--budget-bops", "3/3", "--budget-bops", "20000", "--budget-size", "4/4", "--budget-bits", "..7"]
    assert main([*command, *budgets, "--methods", "ribs,uniform", "--seeds", "2", "--json", "--plot", "p.png"]) == 0
    rows = json.loads(capsys.readouterr().out)
    words = [f"bops {bops}, size 4/4, average_bits ..7" for bops in ("3/3", "20000")]
    methods = [("ribs", 0), ("ribs", 1), ("uniform", 0)]
    assert [(row["budget"], row["method"], row["seed"]) for row in rows] == [(b, *m) for b in words for m in methods]
    assert all(row["bops"] <= 20000 for row in rows if row["budget"] == words[1])
    for row in rows:
        assert list(row["spending"]) == ["bops", "size", "average_bits"]
        assert all(each["spent"] <= each["most"] for each in row["spending"].values())
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_budgets_and_candidates_are_those_of_the_search(command, capsys):
    (Path.cwd() / "ms.csv").write_text(
        "unit,weight_bits,activation_bits,cost\n"
        + "".join(f"{unit},{w},{a},0.{w}{a}\n" for unit in "03" for w in (2, 4, 8) for a in (4, 8))
    )
    flags = ["--budget-cost", "ms.csv=1.3", "--budget-bits", "4..7", "--accounting", "deployment", "--bits", "2,4,8"]
    flags += ["--activation-bits", "4,8", "--allow", "0=2,4", "--pin", "last=8/4", "--target", "onnxruntime", "--json"]
    assert main([*command, *flags, "--budget-cost", "ms.csv=1.1", "--methods", "ribs", "--seeds", "1"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert [row["budget"] for row in compared] == [
        f"average_bits 4..7, ms.csv {most}, accounting deployment" for most in ("1.3", "1.1")
    ]
    assert main(["search", *command[1:], *flags]) == 0
    searched = json.loads(capsys.readouterr().out)
    assert {key: compared[0][key] for key in ("bits", "loss", "spending")} == {
        key: searched[key] for key in ("bits", "loss", "spending")
    }
    assert main(["search", *command[1:], *flags, "--budget-bits", "6"]) == 2
    assert "the flags make 2 budgets" in capsys.readouterr().err


def test_a_table_for_people_and_bad_input(command, capsys):
    assert main([*command, "--budget-bops", "4/4", "--methods", "kl,uniform"]) == 0
    assert "one standard error of the first" in capsys.readouterr().out
    assert main([*command, "--budget-bops", "4/4", "--methods", "best"]) == 2
    assert "give some of ribs, paper, uniform" in capsys.readouterr().err
    assert main([*command, "--budget-bops", "1/1"]) == 3
    assert main([*command]) == 2
    assert "no bound given" in capsys.readouterr().err


def test_losses_and_what_is_skipped(command, capsys):
    """What the flags name is what the functions of these names give."""
    (Path.cwd() / "own_loss.py").write_text("def squared(a, b):\n    return (a - b).square().sum(1)\n")
    flags = ["--budget-bops", "..20000000", "--pin", "*=4", "--bits", "4,8", "--skip", "3", "--json"]
    model, data = build(), torch.load("data.pt")
    losses = {"embedding": ribs.losses.Embedding(), "own_loss:squared": lambda a, b: (a - b).square().sum(1)}
    for name, loss in losses.items():
        with pytest.warns(UserWarning, match="skipped 3"):
            expected = ribs.quantize(model, [data], 4, skip=["3"], loss=loss, progress=False)
        with pytest.warns(UserWarning, match="skipped 3"):
            assert main(["search", *command[1:], *flags, "--loss", name]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["bits"] == {"0": [4, 4]} and found["loss"] == pytest.approx(expected.loss)
    flags[2:4] = []
    with pytest.warns(UserWarning, match="skipped 3"):
        assert main([*command, *flags, "--loss", name, "--methods", "uniform", "--budget-bits", "4"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["loss"] == pytest.approx(expected.loss)
    for name, message in [
        ("best", "give one of kl-divergence, dense, embed"),
        ("own_loss:no", "'own_loss:no' cannot be"),
    ]:
        assert main(["search", *command[1:], *flags, "--loss", name]) == 2
        assert message in capsys.readouterr().err
    assert main(["count", "compared_model:build", "--input-size", "1x8x8", "--skip", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == ["3"]
