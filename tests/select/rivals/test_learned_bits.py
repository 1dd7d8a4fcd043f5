"""Bits and steps that are learned, and the genetic algorithm, against finite differences and brute force."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import settings
from ribs.select.loss import kl_divergence
from ribs.select.rivals import dnas, fisher, fracbits, genetic, limpq, relaxed
from ribs.select.rivals.feasible import costs_of, fits
from small import loader, network


def float_activations():
    """Candidates of weights alone, whose rounding does not move with the shares: the relaxed loss is smooth."""
    given = settings.setting(data=loader(1, 6))
    given.plan.candidates[:] = [[(bits, 32) for bits in settings.BITS]] * 3
    return given


def relaxed_loss(given, mixes):
    [inputs] = given.inputs
    with torch.no_grad():
        target = network()(*inputs.args)
    given.network.model.double()
    try:
        with relaxed.relaxed(given, mixes):
            output = given.network.model(inputs.args[0].double())
    finally:
        given.network.model.float()
    return kl_divergence(target, output).mean() + relaxed.excess(given, mixes)


@pytest.mark.parametrize(
    ("variables", "mixes_of"),
    [
        (torch.tensor([0.3, 1.6, 0.9]), fracbits.between),
        (
            torch.tensor([[0.1, -0.4, 0.3], [1.0, 0.2, -0.3], [0.0, 0.5, 0.5]]),
            functools.partial(dnas.shares, temperature=0.7),
        ),
    ],
)
def test_gradients_by_finite_differences(variables, mixes_of):
    given = float_activations()
    variables = variables.double().requires_grad_()
    [gradient] = torch.autograd.grad(relaxed_loss(given, mixes_of(given, variables)), variables)
    assert gradient.abs().min() > 1e-4
    with torch.no_grad():
        for index in itertools.product(*map(range, variables.shape)):
            sides = []
            for delta in (-1e-5, 1e-5):
                moved = variables.detach().clone()
                moved[index] += delta
                sides.append(float(relaxed_loss(given, mixes_of(given, moved))))
            assert float(gradient[index]) == pytest.approx((sides[1] - sides[0]) / 2e-5, rel=1e-3)


def test_between_candidates_lie_both_of_them():
    """At a whole candidate the relaxed network is the quantized one, halfway its outputs are mixed."""
    given = settings.setting(data=loader(1, 6))
    [inputs] = given.inputs
    layer = given.network.model.get_submodule("0")
    outputs = []
    for bits in (4, 8):
        layer.set_bits(bits, bits)
        outputs.append(layer(*inputs.args))
    positions = torch.tensor([1.25, 2.0, 0.0], dtype=torch.float64)
    with torch.no_grad(), relaxed.relaxed(given, fracbits.between(given, positions)):
        torch.testing.assert_close(layer(*inputs.args), 0.75 * outputs[0] + 0.25 * outputs[1])
    whole = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    with torch.no_grad(), relaxed.relaxed(given, fracbits.between(given, whole)):
        mixed = inputs.call(given.network.model)
    given.network.configure(given.plan.configuration((1, 2, 0)))
    torch.testing.assert_close(mixed, inputs.call(given.network.model))


class Copied(nn.Module):
    """Twice a sum of what a layer reads and of what it makes of that: nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.flat = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Flatten()
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x):
        x = self.first(x) + x
        return self.flat(x + self.second(x))


def test_what_sums_read_is_mixed_like_outputs():
    given = settings.setting(Copied().eval(), data=loader(1, 6), recipe="residual")
    [inputs] = given.inputs
    given.network.set_float()
    outputs = []
    for bits in (4, 8):
        given.network.model.first.set_bits(bits, bits)
        outputs.append(inputs.call(given.network.model))
    given.network.model.second.set_bits(8, 8)
    positions = torch.tensor([1.25, 2.0], dtype=torch.float64)
    with torch.no_grad(), relaxed.relaxed(given, fracbits.between(given, positions)):
        found = inputs.call(given.network.model)
    mixed = 0.75 * outputs[0] + 0.25 * outputs[1]
    torch.testing.assert_close(found, given.network.model.second.again(mixed.view(6, 1, 8, 8)).flatten(1))
    assert not torch.equal(*outputs)
    assert fisher.choose(given) == fisher.choose(settings.setting(Copied().eval(), data=loader(1, 6), recipe="mse"))


def test_excess_is_what_is_over_each_budget():
    given = settings.setting(budget="4/4", size="6/6")
    positions = torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64)
    table, bits = given.plan.table, dict.fromkeys(given.plan.table.units, 8)
    expected = table.bops(bits) / table.bops(4) - 1 + table.weight_bits(bits) / table.weight_bits(6) - 1
    assert float(relaxed.excess(given, fracbits.between(given, positions))) == pytest.approx(expected)
    assert float(relaxed.excess(given, fracbits.between(given, positions / 2))) == 0.0


@pytest.mark.parametrize("rival", [fracbits, dnas])
def test_training_ends_at_the_budget(rival):
    """From all at the most bits, or from all candidates alike, both over it; neither far over nor far below."""
    given = settings.setting(bits=range(2, 9))
    found = rival.learned(given)
    mixes = fracbits.between(given, found) if rival is fracbits else dnas.shares(given, found, 1.0)
    assert relaxed.excess(given, mixes) < 0.1
    choice = rival.choose(given)
    assert costs_of(given.plan, choice)[0] > 0.8 * given.plan.available[0]
    assert given.mean_loss(choice) < given.mean_loss((0, 0, 0)) / 4


def test_the_objective_does_not_depend_on_the_scale_of_losses():
    gradients = []
    for scale in (1.0, 1e-4):
        x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        over = torch.relu(x - 1.5)
        [gradient] = torch.autograd.grad(relaxed.objective(scale * x**2, over), x)
        gradients.append(float(gradient))
    assert gradients == pytest.approx([2 / 2.0 + 10.0] * 2)


def test_learned_steps_lose_less_and_leave_the_calibrated_ones():
    given = settings.setting()
    before = settings.state(given.network)
    steps = limpq.learned(given)
    assert settings.same_state(before, settings.state(given.network))
    assert set(steps) == {f"{name}.step" for name in limpq.quantizers(given)}

    def loss(tensors):
        total = 0.0
        for choice in ((0, 0, 0), (1, 1, 1), (2, 2, 2)):
            for inputs in given.inputs:
                given.network.configure(given.plan.configuration(choice))
                total += float(kl_divergence(network()(*inputs.args), given.call(inputs, tensors)).detach().mean())
        return total

    assert loss(steps) < loss({})


def test_limpq_scores_are_activation_step_and_twice_the_weight_step():
    given = settings.setting(budget=450_000, pins={"last": 32})
    scores = limpq.scores_of(given, {f"{name}.step": each.step for name, each in limpq.quantizers(given).items()})
    for unit, _, layer in list(given.layers())[:2]:
        for k in range(3):
            expected = float(layer.input_quantizer.step[k]) + 2 * float(layer.weight_quantizer.step[k].mean())
            assert scores[unit, k] == pytest.approx(expected, rel=1e-6)
    assert scores[2, 0] == 0.0


def test_pairs_lie_within_blocks_and_are_what_they_add():
    given = settings.setting(model=settings.blocks())
    names = [unit.name for unit in given.network.units]
    assert [(names[i], names[j]) for i, j in genetic.within_blocks(given)] == [
        ("2.0.one", "2.0.two"),
        ("2.1.one", "2.1.two"),
    ]
    table = given.alone()
    pairs = genetic.pairs_of(given, table)
    for (i, j), added in pairs.items():
        given.in_float()
        for unit in (i, j):
            given.network.set_bits(given.network.units[unit], (2, 2))
        with torch.no_grad():
            both = [
                kl_divergence(settings.blocks()(*inputs.args), inputs.call(given.network.model))
                for inputs in given.inputs
            ]
        assert added == pytest.approx(float(torch.cat(both).mean()) - table[i, 0] - table[j, 0], abs=1e-9)
    assert len(pairs) == 2 and max(map(abs, pairs.values())) > 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_genetic_finds_the_best_of_its_table(seed):
    given = settings.setting(model=settings.blocks(), bits=(2, 3, 4, 8), seed=seed)
    generator = np.random.default_rng(seed)
    table = np.sort(generator.exponential(size=given.plan.allowed.shape), axis=1)[:, ::-1]
    pairs = {pair: float(generator.normal()) for pair in genetic.within_blocks(given)}

    def total(choice):
        lowest = [pair for pair in pairs if choice[pair[0]] == choice[pair[1]] == 0]
        return sum(table[i, k] for i, k in enumerate(choice)) + sum(pairs[pair] for pair in lowest)

    best = min(total(choice) for choice in settings.every(given.plan) if fits(given.plan, choice))
    assert total(genetic.evolve(given, table, pairs)) == pytest.approx(best)
