"""How much memory a search takes beside the model and one pass of it."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="high-water marks are counted in other units elsewhere")

# In a process of its own: its high-water mark is that of nothing else. First as much runs as any use of the model
# takes, so that what is counted is what the search adds.
SCRIPT = """
import resource, sys
import timm, torch
import ribs

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

cache = float(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
model = timm.create_model("resnet18", num_classes=10).eval()
batches = list(torch.randn(32, 3, 64, 64).split(8))
with torch.no_grad():
    for batch in batches:
        model(batch)
warm = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)).eval()
ribs.search(warm, [torch.randn(8, 3, 8, 8)], ribs.Budget(bops="4/4"), iterations=1, progress=False)
before = used()
options = {"units": "layer", "bits": (2, 4, 8), "iterations": 2, "cache_mib": cache, "progress": False}
ribs.search(model, batches, ribs.Budget(bops="4/4"), **options)
size = sum(p.numel() * 4 for p in model.parameters())
print((used() - before) / 2**20, size / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("cache_mib", [64, 256])
def test_peak_memory(cache_mib):
    """Twice the model and the cache, and a tenth: of what is held, not of what malloc has freed and keeps."""
    held = {"MALLOC_TRIM_THRESHOLD_": "100000", "MALLOC_MMAP_THRESHOLD_": "100000"}  # of the C library on Linux
    command = [sys.executable, "-c", SCRIPT, str(cache_mib)]
    run = subprocess.run(command, env=os.environ | held, capture_output=True, text=True, check=True)
    added, model = map(float, run.stdout.split())
    assert added <= 1.1 * (2 * model + cache_mib)
