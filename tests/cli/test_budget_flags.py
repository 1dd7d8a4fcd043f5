"""The flags of `ribs search` that say what may be spent and chosen, and the table of `ribs count`."""

import json

import pytest
import torch
from torch import nn

from ribs.cli.main import main


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    torch.save(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), "data.pt")
    model = f"{__name__}:build"
    size = ["--input-size", "1x8x8", "--units", "layer"]
    search = ["search", model, *size, "--data", "data.pt", "--iterations", "2", "--no-progress", "--json"]
    return {"search": search, "count": ["count", model, *size]}


def test_all_flags_together(command, capsys):
    rows = [f"{unit},{w},{a},{0.1 * w * a:.1f}" for unit in "024" for w in (2, 4, 8) for a in (4, 8)]
    with open("energy.csv", "w") as file:
        file.write("\n".join(["unit,weight_bits,activation_bits,cost", *rows]))
    flags = [
        "--budget-bops", "2/2..5/5", "--budget-size", "1 B..1 KiB", "--budget-bits", "6", "--budget-weight-bits", "..7",
        "--budget-memory", "90% of 8/8", "--budget-cost", "energy.csv=9", "--accounting", "deployment",
        "--bits", "2,4,8", "--activation-bits", "4,8", "--pin", "last=8/4", "--allow", "0=2,4/8", "--tie", "0,2",
        "--target", "onnxruntime",
    ]  # fmt: skip
    assert main([*command["search"], *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits"]["4"] == [8, 4]
    assert tuple(found["bits"]["0 + 2"]) in {(2, 4), (2, 8), (4, 8)}
    assert list(found["spending"]) == [
        "bops", "size", "average_bits", "average_weight_bits", "activation_memory", "energy.csv"
    ]  # fmt: skip
    for each in found["spending"].values():
        assert (each["least"] or 0) <= each["spent"] <= each["most"]
    assert found["spending"]["energy.csv"]["spent"] == pytest.approx(
        3.2 + 2 * 0.1 * found["bits"]["0 + 2"][0] * found["bits"]["0 + 2"][1]
    )


def test_automatic_ties(command, capsys):
    assert main([*command["search"], "--budget-bops", "4/4", "--tie", "auto"]) == 0
    assert list(json.loads(capsys.readouterr().out)["bits"]) == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "no bound given"),
        (["--budget-bops", "four"], 2, "bops='four' cannot be read"),
        (["--budget-bops", "5/5..4/4"], 2, "the lower bound is above the upper one"),
        (["--budget-cost", "energy.csv"], 2, "--budget-cost 'energy.csv' cannot be read"),
        (["--budget-cost", "none.csv=3"], 2, "none.csv cannot be read"),
        (["--budget-bops", "4/4", "--pin", "x*=8"], 2, "pin 'x*' names no unit"),
        (["--budget-bops", "4/4", "--pin", "0=4,8"], 2, "--pin '0=4,8' cannot be read"),
        (["--budget-bops", "4/4", "--allow", "0"], 2, "--allow '0' cannot be read"),
        (["--budget-bops", "4/4", "--activation-bits", "eight"], 2, "--activation-bits 'eight' cannot be read"),
        (["--budget-bops", "4/4", "--target", "abacus"], 2, "target='abacus' is not known"),
        (["--budget-bops", "2/2", "--pin", "0=8"], 3, "The nearest configuration has bops"),
    ],
)
def test_bad_flags(command, capsys, flags, code, message):
    assert main([*command["search"], *flags]) == code
    assert message in capsys.readouterr().err


def test_count_shows_every_accounting(command, capsys):
    assert main(command["count"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} GBOPs" in shown for name in ("paper", "deployment", "hawq", "ompq"))


def test_help_names_what_a_bound_may_be(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    assert '"50% of 8/8"' in " ".join(capsys.readouterr().out.split())
