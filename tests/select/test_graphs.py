"""Captured passes: what they read of a shard, and what happens where they cannot be captured.

A stand-in for a CUDA graph runs the captured pass again, into the same memory, whatever the run was first given.
"""

import logging
import weakref

import numpy as np
import pytest
import torch

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.select import sensitivity
from ribs.select.loss import KLDivergence, kl_divergence
from ribs.select.sensitivity import Sensitivity
from small import content, loader, network, search

CANDIDATES = [[(b, b) for b in (2, 4, 8)]] * 3


class StandIn:
    """Counts what is captured and launched. As in torch, a pool is gone once no graph holds it."""

    def __init__(self):
        self.captured = self.launched = 0
        self.pools = {}

    def __call__(self, run, pool):
        if pool in self.pools and not self.pools[pool]:
            raise RuntimeError("the pool of graphs that are gone is gone with them")
        self.captured += 1
        losses = run().clone()

        def launch():
            self.launched += 1
            losses.copy_(run())

        self.pools.setdefault(pool, weakref.WeakSet()).add(launch)
        return launch, losses


@pytest.fixture
def capture(monkeypatch):
    found = StandIn()
    monkeypatch.setitem(sensitivity.CAPTURES, "cpu", found)
    monkeypatch.setattr(sensitivity, "SIDE_BY_SIDE", {})
    return found


def measured(**options):
    data = [*loader(7), loader(1)[0][:5]]
    shards = [Inputs((x,), {}) for x in data]
    prepared = prepare(network(), shards[0], "layer")
    calibrate(prepared, shards, (2, 4, 8))
    found = Sensitivity(prepared, shards, CANDIDATES, kl_divergence, **options)
    losses = []
    for reference in [(2, 2, 2), (1, 2, 0)]:
        choices = [reference, *((*reference[:i], k, *reference[i + 1 :]) for i in range(3) for k in range(3))]
        losses += [found.measure(list(dict.fromkeys(choices)), shard) for shard in range(len(shards))]
    return np.concatenate(losses, 1)


@pytest.mark.parametrize("cache_mib", [64, 0.02, 0])
def test_every_shard_gets_losses_of_its_own(capture, monkeypatch, cache_mib):
    found = measured(cache_mib=cache_mib)
    if cache_mib == 64:
        # Six candidates beside the first reference and four more beside the second, once for each of two sizes of a
        # shard; the check of what was captured launches it as well.
        assert capture.captured == 2 * (6 + 4)
        assert capture.launched == (7 - 1) * (6 + 4) + capture.captured
    if cache_mib == 0:
        assert capture.captured == 0
    monkeypatch.setattr(sensitivity, "CAPTURES", {})
    np.testing.assert_array_equal(found, measured(cache_mib=cache_mib))


def test_few_shards_are_not_worth_capturing(capture):
    search(data=loader(5))
    assert capture.captured == 0


@pytest.mark.parametrize("algorithm", ["paper", "adaptive"])
def test_a_search_ends_the_same(capture, monkeypatch, algorithm):
    found = content(search(data=loader(6), algorithm=algorithm))
    assert capture.launched > 0
    monkeypatch.setattr(sensitivity, "CAPTURES", {})
    assert found == content(search(data=loader(6), algorithm=algorithm))


@pytest.mark.parametrize("algorithm", ["paper", "adaptive"])
def test_a_race_on_shards_of_its_own_ends_the_same(capture, monkeypatch, algorithm):
    """Passes were captured on the batches first, when two configurations were measured there."""
    options = {"data": loader(16, 20), "algorithm": algorithm, "profile": "race", "bits": range(2, 9)}
    found = content(search(**options))
    assert capture.captured
    monkeypatch.setattr(sensitivity, "CAPTURES", {})
    assert content(search(**options)) == found


def test_what_cannot_be_captured_runs_as_it_is(monkeypatch, caplog):
    tried = []

    def refuse(run, pool):
        tried.append(1)
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nwith more to say")

    monkeypatch.setitem(sensitivity.CAPTURES, "cpu", refuse)
    monkeypatch.setattr(sensitivity, "SIDE_BY_SIDE", {})
    with caplog.at_level(logging.INFO, "ribs"):
        found = content(search(data=loader(6)))
    assert tried == [1]
    assert "operation not permitted when stream is capturing" in caplog.text
    monkeypatch.setattr(sensitivity, "CAPTURES", {})
    assert found == content(search(data=loader(6)))


def test_a_pass_that_gives_something_else_when_launched_is_not_used(monkeypatch, caplog):
    """A graph would repeat what such a loss drew when it was captured."""

    class Noisy(KLDivergence):
        def __call__(self, reference, output):
            return super().__call__(reference, output) + torch.rand(len(output))

    monkeypatch.setitem(sensitivity.CAPTURES, "cpu", StandIn())
    monkeypatch.setattr(sensitivity, "SIDE_BY_SIDE", {})
    with caplog.at_level(logging.INFO, "ribs"):
        search(data=loader(6), loss=Noisy())
    assert "it gave another loss" in caplog.text


def test_runs_hold_the_weights_that_they_read(capture):
    """Without room for the weights of other bits, those of a candidate are let go as soon as the next ones are made."""
    shards = [Inputs((x,), {}) for x in loader(6)]
    prepared = prepare(network(), shards[0], "layer")
    calibrate(prepared, shards, (2, 4, 8))
    found = Sensitivity(prepared, shards, CANDIDATES, kl_divergence)
    found.measure([(2, 2, 2), (0, 2, 2), (2, 1, 2), (2, 2, 0)], 0)
    [place] = found._graphs._places
    for (choice, _), run in place.runs.items():
        prepared.configure({unit.name: CANDIDATES[0][k] for unit, k in zip(prepared.units, choice, strict=True)})
        first = next(unit for unit, k in enumerate(choice) if k != 2)
        for name in [name for unit in prepared.units[first:] for name in unit.layers]:
            layer, held = prepared.model.get_submodule(name), run.weights[name]
            assert any(torch.equal(each, layer.weight_quantizer(layer.weight)) for each in held), (choice, name)


def test_weights_made_while_capturing_are_forgotten():
    shards = [Inputs((x,), {}) for x in loader()]
    prepared = prepare(network(), shards[0], "layer")
    calibrate(prepared, shards, (2, 4, 8))
    prepared.configure({unit.name: (4, 4) for unit in prepared.units})
    before = prepared.kept_weights()
    assert all(not made for made in before.values())
    with torch.no_grad():
        shards[0].call(prepared.model)
        after = prepared.kept_weights()
        assert all(len(made) == 1 for made in after.values())
        prepared.forget_weights_but(after)
        assert all(a is b for name in after for a, b in zip(after[name], prepared.kept_weights()[name], strict=True))
        prepared.forget_weights_but(before)
    assert prepared.kept_weights() == before
