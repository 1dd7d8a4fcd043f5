"""`ribs search --out` and `ribs evaluate`."""

import json

import pytest
import torch

pytest.importorskip("timm")

from PIL import Image

import ribs
from ribs.cli.evaluate import evaluate, labelled_images
from ribs.cli.main import main

# timm leaves the file of an image for Python to close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
MODEL = """
import torch
from torch import nn

def saved_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
"""
SEARCH = ["search", "saved_net_module:saved_net", "--data", "data.pt", "--input-size", "3x8x8", "--budget-bops", "4/4"]
SEARCH += ["--iterations", "2", "--bits", "2,4,8", "--json", "--no-progress"]
EVALUATE = ["saved_net_module:saved_net", "--data", "images", "--input-size", "3x8x8", "--no-progress"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "saved_net_module.py").write_text(MODEL)
    torch.save(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), "data.pt")
    for label in range(3):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for number in range(4):
            color = (label * 100, number * 60, 255 - label * 60)
            Image.new("RGB", (8, 8), color).save(tmp_path / "images" / str(label) / f"{number}.png")
    return tmp_path


def test_what_is_searched_is_saved_and_evaluated(folder, capsys):
    assert main([*SEARCH, "--out", "run"]) == 0
    searched = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "run", *EVALUATE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    from saved_net_module import saved_net

    result = ribs.load("run", saved_net().eval())
    assert {unit: list(bits) for unit, bits in result.bits.items()} == searched["bits"]
    images = labelled_images(folder / "images", saved_net(), (3, 8, 8), batch_size=5, workers=0)
    accuracy = evaluate(result.model, images, progress=False)
    assert (found["top1"], found["images"], found["bops"]) == (accuracy.top1, 12, searched["bops"])
    assert main(["evaluate", "run", *EVALUATE]) == 0
    assert f"top-1 {accuracy}, at" in capsys.readouterr().out


def test_a_folder_of_others_is_refused_before_the_search(folder, capsys):
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")
    assert main([*SEARCH, "--data", "missing.pt", "--out", "run"]) == 2
    assert "holds 'notes.txt', which ribs did not write" in capsys.readouterr().err


def test_another_model_is_refused(folder, capsys):
    assert main([*SEARCH, "--out", "run"]) == 0
    assert main(["evaluate", "run", "resnet18", *EVALUATE[1:]]) == 2
    assert "the model is not the one that was saved" in capsys.readouterr().err
