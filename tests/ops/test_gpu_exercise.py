import subprocess
import sys
from pathlib import Path

import torch

EXERCISE = Path(__file__).parents[2] / "benchmarks" / "gpu_exercise.py"


def test_every_operator_has_an_exercise(device: torch.device) -> None:
    """On the CPU this compares an operator with itself; it shows that the script for the GPU is complete and runs."""
    command = [sys.executable, "-W", "error", str(EXERCISE), "--device", device.type]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "fake_quantize: as on the CPU" in found.stdout
