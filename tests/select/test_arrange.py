"""The samples of a race in order: which are first, what is measured of them, and what a journal knows of it."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import ribs
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.arrange import SHARD, arrange
from ribs.select.cost import CostTable
from ribs.select.loss import kl_divergence
from ribs.select.plan import make_plan
from ribs.select.sampling import order_of, sizes_of
from ribs.select.sensitivity import Sensitivity
from small import content, counting, journaled, loader, network, search

BATCHES, SAMPLES = 3, 30
MANY = loader(batches=12, samples=32)


def prepared(batches, bits, model=None):
    shards = [Inputs((x,), {}) for x in batches]
    quantized = prepare(model or network(), shards[0], "layer")
    calibrate(quantized, shards, bits)
    plan = make_plan(CostTable.of(quantized.trace, quantized.units), ribs.Budget(bops="4/4"), bits)
    return shards, quantized, plan


@pytest.mark.parametrize(
    ("bits", "levels"),
    [(range(2, 9), (4, 6)), ((2, 4, 8), (4, 4)), ((4, 8), (4, 8)), ((3,), (3, 3))],
    ids=["7", "3", "2", "1"],
)
def test_samples_come_by_their_losses_at_two_uniform_configurations(bits, levels):
    batches, bits = loader(BATCHES, SAMPLES), tuple(bits)
    shards, quantized, plan = prepared(batches, bits)
    recorded = []
    sensitivity = Sensitivity(
        quantized, shards, plan.candidates, kl_divergence, record=lambda choice, shard, losses: recorded.append(shard)
    )
    sizes = arrange(sensitivity, sensitivity.measure, plan, shards, seed=5)
    data = torch.cat(batches)
    losses = []
    with torch.no_grad():
        for level in dict.fromkeys(levels):
            model = ribs.quantize(network(), batches, level, units="layer", progress=False).model
            losses.append(kl_divergence(network()(data), model(data)).numpy())
    expected = sizes_of(losses)
    order = order_of(expected, 5)
    assert sizes == pytest.approx(expected[order], rel=1e-4)
    assert sensitivity.samples == (32, 32, 26)
    assert sorted(recorded) == sorted([*range(BATCHES)] * len(losses))
    best = tuple(len(options) - 1 for options in plan.candidates)
    model = ribs.quantize(network(), batches, bits[-1], units="layer", progress=False).model
    with torch.no_grad():
        found = kl_divergence(network()(data), model(data)).numpy()[order]
    assert sensitivity.evaluate(best) == pytest.approx(found, rel=1e-3, abs=1e-9)
    assert recorded[-3:] == [BATCHES + shard for shard in range(3)], "the journal's numbers go on"


def test_work_is_counted_and_nothing_is_measured_twice():
    shards, quantized, plan = prepared(loader(BATCHES, SAMPLES), (2, 4, 8))
    sensitivity = Sensitivity(quantized, shards, plan.candidates, kl_divergence)
    arrange(sensitivity, sensitivity.measure, plan, shards, seed=0)
    assert sensitivity.forward_equivalents == pytest.approx(3)  # the float network twice, and one configuration
    start = (2, 2, 2)
    for _ in range(2):
        sensitivity.evaluate(start)
        assert sensitivity.forward_equivalents == pytest.approx(4)


class AnySize(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


def test_samples_of_other_shapes_stay_where_they_are():
    batches = [*loader(4, 40), *(torch.randn(40, 1, 10, 12) for _ in range(4))]
    shards, quantized, plan = prepared(batches, (2, 4, 8), AnySize().eval())
    sensitivity = Sensitivity(quantized, shards, plan.candidates, kl_divergence)
    assert arrange(sensitivity, sensitivity.measure, plan, shards, seed=0) is None
    assert sensitivity.samples == (SHARD, 40 - SHARD) * 8
    result = search(AnySize().eval(), batches, profile="race", iterations=20)
    again = ribs.quantize(AnySize().eval(), batches, result.bits, units="layer", progress=False)
    assert result.loss == pytest.approx(again.loss, rel=1e-5)
    assert result.bops <= result.limits["bops"]


@pytest.mark.parametrize("algorithm", ["adaptive", "paper"])
def test_a_race_within_another_budget_uses_what_is_journaled(tmp_path, algorithm):
    options = {"data": MANY, "profile": "race", "algorithm": algorithm, "bits": range(2, 9)}
    search(journal=tmp_path, **options)
    known = set(journaled(tmp_path))
    measured, alone = [], []
    result = search(journal=tmp_path, budget="3/3", loss=counting(measured), **options)
    assert content(result) == content(search(budget="3/3", loss=counting(alone), **options))
    levels = 2 * len(MANY)
    assert len(measured) <= len(alone) - levels
    assert known < set(journaled(tmp_path))


def test_a_full_search_and_a_race_use_the_same_journal(tmp_path):
    options = {"data": MANY, "bits": (2, 4, 8), "budget": "8/8"}
    search(journal=tmp_path, algorithm="paper", iterations=1, **options)
    before = set(journaled(tmp_path))
    expected = content(search(profile="race", **options))
    assert content(search(journal=tmp_path, profile="race", **options)) == expected
    new = set(journaled(tmp_path)) - before
    assert new
    assert not {key for key in new if key[1] < len(MANY)} & before


def test_every_sample_is_in_one_shard_however_many_there_are():
    for count, batch in itertools.product((1, 31, 32, 33, 100), (1, 7, 100)):
        batches = list(torch.randn(count, 1, 8, 8).split(batch))
        shards, quantized, plan = prepared(batches, (2, 4, 8))
        sensitivity = Sensitivity(quantized, shards, plan.candidates, kl_divergence)
        sizes = arrange(sensitivity, sensitivity.measure, plan, shards, seed=0)
        assert len(sizes) == sum(sensitivity.samples) == count
        whole = np.sort(sensitivity.evaluate((1, 1, 1)))
        with torch.no_grad():
            quantized.configure(plan.configuration((1, 1, 1)))
            data = torch.cat(batches)
            expected = kl_divergence(network()(data), quantized.model(data)).numpy()
        assert whole == pytest.approx(np.sort(expected), rel=1e-4, abs=1e-9)
