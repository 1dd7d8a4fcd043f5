"""`ribs qat`: from images to a trained network, by a budget, by bits, and by a saved result."""

import argparse
import json
from dataclasses import fields

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState
from PIL import Image

import ribs
from ribs.cli.commands.qat import add_flags
from ribs.cli.evaluate import evaluate, labelled_images
from ribs.cli.main import main

# timm leaves the file of an image for Python to close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
MODEL = """
import torch
from torch import nn

def net(seed=0):
    torch.manual_seed(seed)
    convs = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*convs, nn.Linear(32, 3))

def teacher():
    return net(1)

def other_teacher():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
"""
QAT = ["qat", "qat_net_module:net", "--data", "images", "--input-size", "3x8x8", "--no-progress", "--json"]
QAT += ["--batch-size", "6", "--lr", "0.05", "--least-crop", "0.9"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "qat_net_module.py").write_text(MODEL)
    for split, count in (("train", 8), ("val", 4)):
        for label, color in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200)]):
            place = tmp_path / "images" / split / str(label)
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), tuple(each + 5 * number for each in color)).save(place / f"{number}.png")
    yield tmp_path
    AcceleratorState._reset_state(True)


def found(capsys, *arguments):
    assert main([*QAT, *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_budget_is_searched_for_trained_at_and_saved(folder, capsys):
    budget = ["--budget-bops", "4/4", "--bits", "2,4,8", "--epochs", "3", "--checkpoints", "run", "--out", "saved"]
    first = found(capsys, *budget)
    from qat_net_module import net

    result = ribs.load("saved", net().eval())
    assert {unit: list(bits) for unit, bits in result.bits.items()} == first["result"]["bits"]
    assert result.bops <= result.limits["bops"] and len(result.history) == 1
    images = labelled_images(folder / "images" / "val", net(), (3, 8, 8), batch_size=5, workers=0)
    accuracies = [each["accuracy"] for each in first["history"]]
    assert evaluate(result.model, images, progress=False).top1 == max(accuracies) > 60
    assert found(capsys, *budget)["history"] == first["history"], "a run that is done is read"
    again = found(capsys, "--at", "saved", "--epochs", "1")
    assert again["result"]["bits"] == first["result"]["bits"]


def test_given_bits_a_teacher_and_an_optimizer_of_timm(folder, capsys):
    torch.save({"state_dict": __import__("qat_net_module").net(1).state_dict()}, "teacher.pt")
    options = ["--teacher", "qat_net_module:teacher", "--teacher-checkpoint", "teacher.pt", "--optimizer", "adamw"]
    numbers = found(
        capsys,
        "--at",
        "4/8",
        *options,
        "--epochs",
        "2",
        "--augment",
        "rand-m3",
        "--ema",
        "0.5",
        "--progressive",
        "8",
        "--features",
        "2,4=4",
    )
    assert set(map(tuple, numbers["result"]["bits"].values())) == {(4, 8)}
    assert [each["number"] for each in numbers["history"]] == [0, 1]


def test_every_fact_of_training_has_a_flag():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert {each.name for each in fields(ribs.qat.Training)} <= {action.dest for action in parser._actions}


def test_what_is_refused(folder, capsys):
    cases = {
        ("--at", "4", "--budget-bops", "4/4"): "has its bits, so there is nothing to bound",
        (): "no bound given",
        ("--at", "4", "--teacher", "qat_net_module:other_teacher"): "a teacher of the same classes",
        ("--at", "4", "--data", "nowhere"): "is no folder",
        ("--at", "bits.txt"): "is no table of bits",
        ("--at", "4", "--lr", "-1"): "lr=-1.0 is not supported",
        (
            "--at",
            "4",
            "--features",
            "2,4=3",
        ): "features=(('2', '2'), ('4', '3')) are those of a teacher, and there is none",
    }
    for arguments, message in cases.items():
        assert main([*QAT, *arguments]) == 2
        assert message in capsys.readouterr().err
