"""`ribs search`, in one process and under torchrun."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys

import pytest
import torch

import ribs
from ribs.cli import main

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
"""
ARGUMENTS = ["search", "own_model:build", "--data", "data.pt", "--input-size", "1x8x8", "--budget-bops", "4/4"]
OPTIONS = ["--units", "layer", "--batch-size", "16", "--iterations", "3", "--json", "--no-progress"]


def run(folder, *command, **kwargs):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, **kwargs)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_two_processes_print_what_one_does_from_their_journal(tmp_path):
    (tmp_path / "own_model.py").write_text(MODEL)
    torch.save(torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)), tmp_path / "data.pt")
    journal = ["--journal", "run"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ribs"]
    code, together, errors = run(tmp_path, *launcher, *ARGUMENTS, *OPTIONS, *journal)
    assert code == 0, errors
    code, alone, errors = run(tmp_path, sys.executable, "-m", "ribs", *ARGUMENTS, *OPTIONS, *journal)
    assert code == 0, errors
    first, second = (json.loads(text) for text in (together, alone))
    assert first.pop("seconds") > 0 and second.pop("seconds") > 0
    assert first == second
    assert sorted(path.name for path in (tmp_path / "run").glob("*.sqlite")) == ["losses-0.sqlite", "losses-1.sqlite"]
    code, _, errors = run(tmp_path, sys.executable, "-m", "ribs", *ARGUMENTS, *OPTIONS, *journal, "--seed", "1")
    assert code == 2
    assert "seed" in errors and "Traceback" not in errors


def test_samples_held_out(tmp_path, monkeypatch, capsys):
    """The loss on what comes after the calibration samples, as one would measure it by hand."""
    (tmp_path / "own_model.py").write_text(MODEL)
    images = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "data.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    flags = [*ARGUMENTS, *OPTIONS, "--samples", "20", "--out", "run"]
    assert main.main([*flags, "--held-out", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = importlib.import_module("own_model").build().eval()
    result = ribs.search(model, [images[:16], images[16:20]], ribs.Budget(bops="4/4"), iterations=3, progress=False)
    assert {unit: tuple(bits) for unit, bits in found["bits"].items()} == result.bits
    x = images[32:42]  # the batches of 16 after the two that 20 samples come from
    expected = ribs.evaluate(model, ribs.load("run", model), [x], progress=False)
    assert found["held_out"] == pytest.approx(dataclasses.asdict(expected), rel=1e-6)
    assert expected.samples == 10 and expected.loss != pytest.approx(found["loss"], rel=1e-3)

    text = [flag for flag in flags[:-2] if flag != "--json"]
    assert main.main([*text, "--held-out", "10"]) == 0
    assert capsys.readouterr().out.endswith(f"held out: {expected}, which nothing was chosen on\n")
    assert main.main([*text, "--held-out", "17"]) == 2
    assert (
        "--data ends 1 samples before 17 could be held out, after the batches of the 20 calibration"
        in capsys.readouterr().err
    )


def test_reconstruction_is_passed_on(tmp_path, monkeypatch, capsys):
    def search(*args, reconstruct=None, finish=None, **options):
        raise ValueError(f"{reconstruct} and {finish}")

    (tmp_path / "own_model.py").write_text(MODEL)
    torch.save(torch.randn(2, 1, 8, 8), tmp_path / "data.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ribs, "search", search)
    for flags, expected in (
        ([], "None and None"),
        (["--reconstruct", "brecq"], f"{ribs.BRECQ(iterations=200)} and {ribs.BRECQ(iterations=20_000)}"),
        (
            ["--reconstruct", "qdrop", "--reconstruct-iterations", "5", "--finish-iterations", "7"],
            f"{ribs.QDrop(iterations=5)} and {ribs.QDrop(iterations=7)}",
        ),
    ):
        assert main.main([*ARGUMENTS, *flags]) == 2
        assert capsys.readouterr().err == f"ribs: {expected}\n"
