"""`pool_batches` reaches the steps of activations, in ribs.search and in ribs.quantize."""

import torch
from torch import nn

import ribs

BATCHES = [torch.randn(64, 3, 8, 8) * scale for scale in (0.5, 1.0, 3.0)]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def input_steps(result: ribs.Result, bits: int) -> torch.Tensor:
    quantizer = result.model.get_submodule("0").input_quantizer
    return quantizer.step[quantizer.choices.index(bits)]


def test_quantize_and_search_fit_steps_to_all_batches_together() -> None:
    pooled = ribs.ops.search_steps(torch.cat(BATCHES), [4], symmetric=False).step[0]
    mean = torch.stack([ribs.ops.search_steps(x, [4], symmetric=False).step[0] for x in BATCHES]).mean()
    assert not torch.isclose(pooled, mean, rtol=0.01)  # or this could not tell
    budget = ribs.Budget(bops="4/4")
    for pool, want in ((True, pooled), (False, mean)):
        options = {"progress": False, "pool_batches": pool}
        quantized = ribs.quantize(network(), BATCHES, 4, **options)
        searched = ribs.search(network(), BATCHES, budget, bits=[2, 4], iterations=1, **options)
        for result in (quantized, searched):
            torch.testing.assert_close(input_steps(result, 4), want)
