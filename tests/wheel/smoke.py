"""What an installed wheel must do: `python smoke.py` in an environment that has it, anywhere but beside its sources."""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import ribs
from ribs.ops import pack_bits, search_steps, unpack_bits


def main() -> None:
    assert Path(ribs.__file__).is_relative_to(sys.prefix), f"{ribs.__file__} is not what was installed"
    built = ribs.build_info()
    assert version("ribs-quant") == ribs.__version__ == built["version"]
    codes = torch.arange(32, dtype=torch.uint8) % 8
    assert torch.equal(unpack_bits(pack_bits(codes.view(1, -1), 3), 3, 32), codes.view(1, -1))
    assert search_steps(torch.randn(4, 64), [2, 4, 8], symmetric=True, axis=0).step.shape == (3, 4)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.randn(32, 1, 8, 8)
    result = ribs.search(model, [images], ribs.Budget(bops="4/4"), iterations=3, progress=False)
    assert result.bops <= result.costs.bops(4)
    with tempfile.TemporaryDirectory() as folder:
        result.save(f"{folder}/run")
        assert torch.equal(ribs.load(f"{folder}/run", model).model(images), result.model(images))
    help_text = subprocess.run([sys.executable, "-m", "ribs", "--version"], capture_output=True, text=True, check=True)
    assert help_text.stdout.strip() == f"ribs {ribs.__version__}"
    print(json.dumps(built | {"bits": result.bits, "loss": result.loss}))


if __name__ == "__main__":
    main()
