"""Budgets that cannot be met: the least of each alone, the nearest of all together, and what stands in the way."""

import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import ribs
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.ilp import solve
from ribs.select.nearest import PRECISION, nearest
from ribs.select.plan import make_plan


@pytest.mark.parametrize("budgets", [1, 2, 3, 5])
def test_the_nearest_against_enumeration(budgets):
    rng = np.random.default_rng(budgets)
    for _ in range(40):
        costs = rng.integers(-20, 100, size=(4, 3, budgets))
        allowed = rng.random((4, 3)) < 0.8
        allowed[:, 0] = True
        limits, scales = rng.integers(-20, 60, size=budgets), rng.integers(1, 50, size=budgets)

        def excess(choice, costs=costs, limits=limits, scales=scales):
            over = costs[range(4), choice].sum(axis=0) - limits
            return max(Fraction(int(more), int(scale)) for more, scale in zip(over, scales, strict=True))

        every = [c for c in itertools.product(range(3), repeat=4) if allowed[range(4), c].all()]
        choice = nearest(costs, limits.tolist(), scales.tolist(), allowed)
        assert choice in every
        # Two excesses that differ do so by at least 1 / (49 * 48), which is more than PRECISION.
        assert excess(choice) == min(map(excess, every))


@pytest.fixture(scope="module")
def table():
    layers = [nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(4, 40), nn.Linear(40, 4)]
    return ribs.count(nn.Sequential(*layers).eval(), torch.randn(1, 8))


# Latency falls with bits, as where wide integers need no unpacking, so that it contradicts the others.
COSTS = {"latency": (lambda unit, bits: Fraction(16 - bits[0], 10), 3.2)}
CASES = {
    "one": ({"bops": "1.9/1.9"}, {}, ["bops is limited to", "least reachable value is", "(2,048 BOPs)"]),
    "size in MiB": ({"size": 1e-5}, {}, ["size is limited to 1e-05 MiB (83 bits)", "(1,024 bits)"]),
    "pins": ({"bops": "2/2"}, {"pins": {"first": 8}}, ["Pins that keep it from the budget: 0=8/8."]),
    "lower": ({"average_bits": (8.5, None)}, {}, ["is to be at least 8.5 bits and its greatest reachable value is 8 "]),
    "lower and pin": ({"size": ("8/8", None)}, {"pins": {"1": 4}}, ["Pins that keep it from the budget: 1=4/4."]),
    "memory": ({"activation_memory": "10 bits"}, {}, ["activation_memory is limited to", "(88 bits)"]),
    "together": (
        {"bops": "3/3", "costs": COSTS},
        {},
        [
            "each can be met alone, but not all together",
            "latency is limited to 3.2 and its least reachable value is 3.2",
        ],
    ),
    "many": (
        {"bops": ("2/2", "3/3"), "size": "3/3", "average_bits": (5, 6), "activation_memory": "2/2", "costs": COSTS},
        {},
        ["The nearest configuration has bops", "latency"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_nearest_budget_can_be_met_and_no_less(table, case):
    bounds, options, said = CASES[case]
    with pytest.raises(InfeasibleBudgetError) as caught:
        make_plan(table, ribs.Budget(**bounds), range(2, 9), **options)
    error = caught.value
    for words in said:
        assert words in str(error)
    plan = make_plan(table, error.nearest_budget, range(2, 9), **options)
    spent = [sum(plan.costs[i][o.index(error.nearest[name])][c] for i, (name, o) in enumerate(_options(plan)))
             for c in range(len(plan.available))]  # fmt: skip
    assert all(cost <= room for cost, room in zip(spent, plan.available, strict=True))
    assert solve(np.zeros(plan.allowed.shape), plan.costs, plan.available, plan.allowed).gap == 0


def _options(plan):
    return list(zip(plan.table.units, plan.candidates, strict=True))


def test_the_nearest_of_two_bounds_against_enumeration(table):
    budget = ribs.Budget(bops="3/3", costs=COSTS)
    with pytest.raises(InfeasibleBudgetError) as caught:
        make_plan(table, budget, range(2, 9))

    def excess(bits):
        bops = Fraction(table.bops(dict(zip(table.units, bits, strict=True))), table.bops(3)) - 1
        return max(bops, Fraction(sum(16 - b for b in bits), 32) - 1)

    found = tuple(pair[0] for pair in caught.value.nearest.values())
    least = min(map(excess, itertools.product(range(2, 9), repeat=4)))
    assert least <= excess(found) <= least + PRECISION


def test_error_crosses_a_process_boundary(table):
    with pytest.raises(InfeasibleBudgetError) as caught:
        make_plan(table, ribs.Budget(bops="1/1"), range(2, 9))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.nearest, again.nearest_budget) == (caught.value.nearest, caught.value.nearest_budget)
    assert again.nearest == dict.fromkeys("0123", (2, 2))
