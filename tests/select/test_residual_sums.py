"""The recipe "residual" through the whole way: replays, search, journal, reconstruction and training."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import ribs
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.recon import optimise
from ribs.select.loss import kl_divergence
from ribs.select.sensitivity import Sensitivity
from small import content, loader, search


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.norm(self.conv2(self.relu(self.conv1(x))))
        out += x
        return self.relu(out)


def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Sequential(Block(), Block()), nn.Flatten())
    return made.append(nn.Linear(144, 5)).eval()


CANDIDATES = [(4, 4), (8, 2), (2, 4), (8, 8)]  # the first and the last that are tried have the same activation bits


@torch.no_grad()
@pytest.mark.parametrize("cache_mib", [1024, 0])
@pytest.mark.parametrize("units", ["layer", "block", {"ends": ["0", "4"], "rest": ["2.*"]}], ids=type)
def test_replays_are_whole_passes(units, cache_mib):
    shards = [Inputs((x,), {}) for x in loader(2)]
    prepared = prepare(network(), shards[0], units, recipe="residual")
    calibrate(prepared, shards, (2, 4, 8))
    sensitivity = Sensitivity(prepared, shards, [CANDIDATES] * len(prepared.units), kl_divergence, cache_mib=cache_mib)
    reference = (3,) * len(prepared.units)
    changed = [(*reference[:i], k, *reference[i + 1 :]) for i, k in itertools.product(range(len(reference)), range(3))]
    for shard, inputs in enumerate(shards):
        prepared.set_float()
        target = inputs.call(prepared.model)
        found = sensitivity.measure([reference, *changed], shard)
        for losses, choice in zip(found, [reference, *changed], strict=True):
            prepared.configure({unit.name: CANDIDATES[k] for unit, k in zip(prepared.units, choice, strict=True)})
            np.testing.assert_array_equal(losses, kl_divergence(target, inputs.call(prepared.model)).numpy())
    if cache_mib and isinstance(units, str):
        assert sensitivity.forward_equivalents < 0.8 * (1 + len(changed))


@pytest.mark.parametrize("units", ["layer", "block"])
def test_a_search_and_its_journal(units, tmp_path):
    data = loader(2)
    options = {"model": network(), "data": data, "recipe": "residual", "units": units, "iterations": 2}
    found = search(**options, journal=tmp_path)
    assert found.recipe == "residual" and found.bops <= found.limits["bops"]
    again = ribs.quantize(network(), data, found.bits, units=units, recipe="residual", progress=False)
    assert again.loss == pytest.approx(found.loss, rel=1e-12)
    assert all(torch.equal(again.model(x), found.model(x)) for x in data)
    assert content(search(**options, journal=tmp_path)) == content(found)
    same = ribs.quantize(network(), data, found.bits, units=units, recipe="mse", progress=False)
    assert (same.bops, same.size_mib, list(same.bits)) == (again.bops, again.size_mib, list(again.bits))
    assert same.loss != again.loss


def test_qdrop_leaves_the_same_values_in_float_for_both_readers(monkeypatch, tmp_path):
    seen, drop = [], optimise.SoftStep.__call__

    def watched(self, x):
        values = drop(self, x)
        seen.append((self.name, x.detach().clone(), values.detach().clone()))
        return values

    monkeypatch.setattr(optimise.SoftStep, "__call__", watched)
    result = ribs.quantize(network(), loader(2), 3, units="block", recipe="residual", progress=False)
    method = ribs.QDrop(iterations=12, weight_lr=0.05, activation_lr=1e-3)
    better = ribs.reconstruct(result, loader(2), method=method, progress=False)
    steps = [(x, values) for name, x, values in seen if name == "2.1.conv1 0"]
    assert len(steps) == 24
    for (x, values), (other, same) in zip(steps[::2], steps[1::2], strict=True):
        assert torch.equal(x, other) and torch.equal(values, same)
        assert 0.2 < float((values == x).float()[x != 0].mean()) < 0.8
    (first, rounded), _, (second, other) = steps[:3]
    assert not torch.equal(rounded == first, other == second)
    better.save(tmp_path / "better")
    assert torch.equal(ribs.load(tmp_path / "better", network()).model(loader()[0]), better.model(loader()[0]))
    assert better.loss != result.loss


def test_training_ends_as_the_network_that_was_trained():
    model, x = nn.Sequential(Block(), nn.Flatten()).eval(), torch.randn(4, 4, 6, 6)
    trained = ribs.qat.prepare(model, [x], 3, recipe="residual")
    optimizer = torch.optim.SGD(trained.parameters(), 1e-2)

    def gradients(forward):
        optimizer.zero_grad()
        forward(x).square().mean().backward()
        return [each.grad.clone() for each in trained.parameters()]

    compiled = gradients(torch.compile(trained, backend="eager", fullgraph=True))
    torch.testing.assert_close(gradients(trained), compiled)
    optimizer.step()
    found = ribs.qat.finish(trained, model, [x])
    torch.testing.assert_close(found.model(x), trained.eval()(x))
    assert found.recipe == "residual"
