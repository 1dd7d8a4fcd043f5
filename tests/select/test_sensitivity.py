"""Losses measured by replay, whatever is kept, against whole passes of a network set up by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.loss import kl_divergence
from ribs.select.replay import Recording, Replay
from ribs.select.sensitivity import Sensitivity
from small import loader, network

CANDIDATES = [[(b, b) for b in (2, 4, 8)]] * 3
REFERENCES = [(2, 2, 2), (1, 2, 0), (1, 1, 0)]


def sensitivity_of(**options):
    shards = [Inputs((x,), {}) for x in loader()]
    prepared = prepare(network(), shards[0], "layer")
    calibrate(prepared, shards, (2, 4, 8))
    return prepared, shards, Sensitivity(prepared, shards, CANDIDATES, kl_divergence, **options)


def probes(reference):
    changed = [(*reference[:i], k, *reference[i + 1 :]) for i, k in itertools.product(range(3), range(3))]
    return [reference, *(choice for choice in changed if choice != reference)]


@torch.no_grad()
def expected(prepared, shard, choices, candidates=CANDIDATES):
    losses = []
    for choice in choices:
        prepared.configure({unit.name: candidates[0][k] for unit, k in zip(prepared.units, choice, strict=True)})
        losses.append(kl_divergence(network()(*shard.args), shard.call(prepared.model)).numpy())
    return np.stack(losses)


@pytest.mark.parametrize("cache_mib", [1024, 0.004, 0.002, 0])
def test_losses_do_not_depend_on_what_is_kept(cache_mib):
    prepared, shards, sensitivity = sensitivity_of(cache_mib=cache_mib)
    for reference, shard in itertools.product(REFERENCES, range(3)):
        choices = probes(reference)
        found = sensitivity.measure(choices, shard)
        np.testing.assert_array_equal(found, expected(prepared, shards[shard], choices))
        np.testing.assert_array_equal(sensitivity.measure([choices[3]], shard), found[3:4])


def test_units_that_are_given_tokens_first_run_one_by_one():
    """After a unit that may run side by side comes one that may not: its input is [tokens, samples, features]."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 5)

        def forward(self, x):
            x = self.first(x.flatten(1, 2)).relu()
            return self.last(self.second(x.transpose(0, 1)).relu().mean(0))

    torch.manual_seed(0)
    model = Tokens().eval()
    shards = [Inputs((x,), {}) for x in loader()]
    prepared = prepare(model, shards[0], "layer")
    calibrate(prepared, shards, (2, 4, 8))
    candidates = [[(b, b) for b in (2, 4, 8)]] * len(prepared.units)
    sensitivity = Sensitivity(prepared, shards, candidates, kl_divergence)
    reference = (2,) * len(prepared.units)
    choices = [reference, *((*reference[:i], k, *reference[i + 1 :]) for i in range(len(reference)) for k in range(2))]
    found = sensitivity.measure(choices, 0)
    with torch.no_grad():
        prepared.configure({unit.name: (32, 32) for unit in prepared.units})
        target = shards[0].call(prepared.model)
        for losses, choice in zip(found, choices, strict=True):
            prepared.configure({unit.name: candidates[0][k] for unit, k in zip(prepared.units, choice, strict=True)})
            one = kl_divergence(target, shards[0].call(prepared.model)).numpy()
            np.testing.assert_array_equal(losses, one)


@pytest.mark.parametrize("cache_mib", [1024, 0.002])
def test_activations_of_fixed_bits_are_stored_as_codes(cache_mib):
    """Bit for bit the same losses, from a quarter of the bytes."""
    candidates = [[(b, 5) for b in (2, 4, 8)]] * 3
    shards = [Inputs((x,), {}) for x in loader()]
    prepared = prepare(network(), shards[0], "layer")
    calibrate(prepared, shards, (2, 4, 5, 8))
    sensitivity = Sensitivity(prepared, shards, candidates, kl_divergence, cache_mib=cache_mib)
    for reference, shard in itertools.product(REFERENCES, range(3)):
        choices = probes(reference)
        found = sensitivity.measure(choices, shard)
        want = expected(prepared, shards[shard], choices, candidates)
        np.testing.assert_array_equal(found, want)
    with Replay(prepared) as replay:
        as_codes = replay.plan(shards[0], shards[1], {"2", "5"})
        recording = Recording()
        replay.record(as_codes, recording, shards[0])
        assert {output.dtype for output in recording.outputs.values()} == {torch.uint8}
        assert as_codes.size == replay.plan(shards[0], shards[1]).size / 4


def test_less_is_computed_when_more_is_kept():
    def passes(cache_mib):
        prepared, _, sensitivity = sensitivity_of(cache_mib=cache_mib)
        calls = []
        prepared.model[2].input_quantizer.register_forward_hook(lambda *_: calls.append(1))
        for reference, shard in itertools.product(REFERENCES, range(3)):
            sensitivity.measure(probes(reference), shard)
        return len(calls), sensitivity.forward_equivalents

    counted = [passes(cache_mib) for cache_mib in (1024, 0.004, 0)]
    assert counted == sorted(counted)
    assert counted[0] < counted[1] < counted[2]


def test_forward_equivalents():
    """The float pass, then one pass of the reference and of each candidate from its unit on."""
    prepared, _, sensitivity = sensitivity_of()
    macs = np.array([layer.macs for layer in prepared.trace.layers])
    behind = macs[::-1].cumsum()[::-1] / macs.sum()
    assert sensitivity.forward_equivalents == 1
    for shard in range(3):
        sensitivity.measure(probes((2, 2, 2)), shard)
    assert sensitivity.forward_equivalents == pytest.approx(2 + 2 * behind.sum())
    for shard in range(3):
        sensitivity.measure([(2, 2, 2)], shard)
    assert sensitivity.forward_equivalents == pytest.approx(2 + 2 * behind.sum())
    for shard in range(3):
        sensitivity.measure([(2, 1, 0)], shard)
    assert sensitivity.forward_equivalents == pytest.approx(2 + 2 * behind.sum() + behind[1])


def test_what_is_known_is_not_measured_but_counted():
    _, _, first = sensitivity_of()
    found = [first.measure(probes((2, 2, 2)), shard) for shard in range(3)]
    _, _, second = sensitivity_of(known=first.known, record=lambda *_: pytest.fail("measured"))
    for shard in range(3):
        np.testing.assert_array_equal(second.measure(probes((2, 2, 2)), shard), found[shard])
    assert second.forward_equivalents == first.forward_equivalents


def test_progress_adds_up_to_the_work():
    told = []
    _, _, sensitivity = sensitivity_of(progress=told.append)
    for reference, shard in itertools.product(REFERENCES, range(3)):
        sensitivity.measure(probes(reference), shard)
    assert sum(told) == pytest.approx(sensitivity.forward_equivalents - 1)


class Routed(torch.nn.Module):
    """Rare data take another route, which is not the one that is watched."""

    def __init__(self):
        super().__init__()
        self.first, self.rare, self.last = (torch.nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        y = self.first(x.flatten(1)).relu()
        return self.last(self.rare(y) if float(x.mean()) > 5 else y)


def test_a_shard_that_takes_another_route_is_measured_as_it_is():
    """Candidates side by side are told by the order of calls, which is another there."""
    torch.manual_seed(0)
    model, data = Routed().eval(), [loader()[0] + 10, loader()[1], loader()[2] + 10]
    shards = [Inputs((x,), {}) for x in data]
    prepared = prepare(model, shards[0], "layer")
    calibrate(prepared, shards, (2, 4, 8))
    shards = [shards[1], shards[0], shards[2]]
    sensitivity = Sensitivity(prepared, shards, CANDIDATES, kl_divergence)
    for shard in range(3):
        found = sensitivity.measure(probes((2, 2, 2)), shard)
        fresh = Sensitivity(prepared, shards, CANDIDATES, kl_divergence)
        for choice, losses in zip(probes((2, 2, 2)), found, strict=True):
            prepared.configure(
                {u.name: CANDIDATES[i][k] for i, (u, k) in enumerate(zip(prepared.units, choice, strict=True))}
            )
            np.testing.assert_array_equal(losses, fresh.losses_of(prepared)[8 * shard : 8 * shard + 8])


class Overflow(nn.Module):
    def forward(self, x):
        return torch.exp(1e4 * x)


@pytest.mark.parametrize(
    ("place", "message"), [(1, "where it enters '2'"), (2, "where it enters '3'"), (4, "come after its last layer")]
)
def test_the_first_layer_that_gets_infinity_is_named(place, message):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)]
    layers.insert(place, Overflow())
    x = torch.ones(4, 6)
    shards = [Inputs((x,), {})]
    prepared = prepare(nn.Sequential(*layers).eval(), shards[0], "layer")
    with pytest.raises(ValueError, match=f"output holds NaN or Inf on the calibration set; .*{message}"):
        Sensitivity(prepared, shards, [[(8, 8)]] * 4, kl_divergence)
