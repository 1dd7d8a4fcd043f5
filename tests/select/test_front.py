"""The search at many budgets over losses given as tables, against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from made_up import PAIRS, Network
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.front import search_front
from ribs.select.problem import Problem
from ribs.select.samples import Samples

WIDTHS = (2.3, 3, 3.7, 4.5, 5.5, 7)  # of the budgets


def sweep(network, limits, *, proposals=45, **options):
    """The choices, whether it was stopped, and all that was measured."""
    samples = Samples(network.measure, network.samples)
    problems = [Problem(network.costs, limit, None) for limit in limits]
    return *search_front(network.bits, problems, samples, proposals=proposals, **options), samples


def bounds(network, widths=WIDTHS):
    return [[int(sum(network.macs) * width * width)] for width in widths]


@pytest.mark.parametrize("dimensions", [100, 10])
def test_points_are_near_the_optima(dimensions):
    """Six budgets together take less than two searches of one."""
    network = Network(0, dimensions=dimensions, luck=0.0)
    limits = bounds(network)
    choices, stopped, samples = sweep(network, limits, seed=0)
    assert not stopped
    assert all(network.cost(choice) <= limit[0] for choice, limit in zip(choices, limits, strict=True))
    # A search measures a start, two neighbours of each unit, and four in each of 1.5 iterations a unit.
    assert samples.counted / samples.total <= 2 * (1 + 10 + 30)
    pairs = zip(choices, limits, strict=True)
    excesses = [samples.mean(choice) / network.optimum(limit) - 1 for choice, limit in pairs]
    assert np.mean(excesses) < 0.02
    assert np.mean(np.array(excesses) <= 0.01) >= 0.8


def test_each_is_the_best_of_all_measured_and_none_is_dominated():
    for seed in range(2):
        network = Network(seed)
        network.costs = [[(*cost, 8 - w) for cost, (w, _) in zip(row, PAIRS, strict=True)] for row in network.costs]
        limits = [(network.limit(width)[0], rest) for width in (4, 5) for rest in (18, 22)]
        choices, _, samples = sweep(network, limits, seed=seed, proposals=20)

        def spent(choice, costs=network.costs):
            return [sum(costs[i][k][c] for i, k in enumerate(choice)) for c in range(2)]

        for choice, limit in zip(choices, limits, strict=True):
            within = [c for c in samples.choices if all(np.less_equal(spent(c), limit))]
            assert samples.mean(choice) == min(map(samples.mean, within))
        for one, other in itertools.permutations(choices, 2):
            no_worse = all(np.less_equal(spent(one), spent(other))) and samples.mean(one) <= samples.mean(other)
            assert one == other or not no_worse


def test_the_seed_decides_and_nothing_else():
    def told(seed):
        network = Network(3)
        return repr(sweep(network, bounds(network), seed=seed, proposals=10)[:2]), network.asked

    assert told(0) == told(0)
    assert told(0) != told(1)


def test_no_more_than_the_proposals_beside_the_first_and_the_neighbours():
    network = Network(0)
    first = [(k,) * 5 for k in range(5)]
    _, _, samples = sweep(network, bounds(network), proposals=12, first=first)
    assert set(first) <= set(samples.choices)
    # Four budgets begin with a neighbour of each unit and two proposals.
    assert len(samples.choices) <= 5 + 4 * (5 + 2) + 12


def test_one_budget_is_searched_too():
    network = Network(0, luck=0.0)
    [choice], _, samples = sweep(network, [network.limit(3)], proposals=20)
    assert samples.mean(choice) <= 1.01 * network.optimum(network.limit(3))


def test_a_candidate_without_a_finite_loss_is_in_no_answer():
    network = Network(1)
    network.bad = {(0, 0), (2, 1)}
    limits = bounds(network, (3, 4, 5))
    choices, _, samples = sweep(network, limits, proposals=15)
    assert all(math.isfinite(samples.mean(choice)) for choice in choices)
    assert not any(network.bad.intersection(enumerate(choice)) for choice in choices)
    # Where the budget leaves nothing else, it says so.
    network = Network(1)
    network.bad = {(0, 0)}
    with pytest.raises(InfeasibleBudgetError):
        sweep(network, [[sum(int(m) for m in network.macs) * 4], network.limit(4)])


def test_stopped_at_any_time_it_answers_at_every_budget():
    network = Network(2)
    limits = bounds(network)
    for asked in (0, 1, 4):
        calls = itertools.count()
        choices, stopped, samples = sweep(network, limits, stop=lambda calls=calls, asked=asked: next(calls) >= asked)
        assert stopped
        for choice, limit in zip(choices, limits, strict=True):
            assert network.cost(choice) <= limit[0]
            assert samples.complete(choice)
