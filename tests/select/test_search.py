"""Algorithm 1 and the theory behind it, over losses given as tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ribs.select.errors import InfeasibleBudgetError
from ribs.select.search import repeated_ilp


class Losses:
    """L(b) of every configuration of a small problem, and a record of the losses asked for.

    Every sample of every shard has the loss of the table.
    """

    def __init__(self, table, shards=(1, 1)):
        self.table = np.asarray(table, dtype=float)
        self.shards = shards
        self.profiled = []
        self.evaluated = []

    def measure(self, choices, shard):
        reference, *probes = choices
        if shard == 0 and probes:
            self.profiled.append((reference, sorted({i for probe in probes for i in differing(reference, probe)})))
        elif shard == 0:
            self.evaluated.append(reference)
        return [[self.table[choice]] * self.shards[shard] for choice in choices]

    def search(self, start, costs, limits, update_sizes, **options):
        functions = {"measure": self.measure, "shards": self.shards}
        return repeated_ilp(start, costs, limits, update_sizes=update_sizes, **functions, **options)


def differing(a, b):
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def separable(values):
    """L(b) = sum of L_i(b_i), from [N, K] values."""
    table = np.zeros([values.shape[1]] * len(values))
    for i, row in enumerate(values):
        table = table + row.reshape([-1 if axis == i else 1 for axis in range(len(values))])
    return table


def least(table, costs, limit):
    """The configuration of least loss within the budget, by enumeration."""
    choices = itertools.product(*map(range, table.shape))
    return min((c for c in choices if cost_of(costs, c) <= limit), key=lambda c: table[c])


def cost_of(costs, choice):
    return sum(int(costs[i][k][0]) for i, k in enumerate(choice))


def random_problem(seed, units=5, candidates=3, strength=1.0):
    """Interacting losses that tend to fall with cost, and a limit halfway."""
    rng = np.random.default_rng(seed)
    costs = np.sort(rng.integers(1, 1000, size=(units, candidates, 1)), axis=1).tolist()
    values = -np.sort(rng.exponential(size=(units, candidates)), axis=1)
    table = separable(values) + strength * rng.normal(size=[candidates] * units)
    return Losses(table), costs, (cost_of(costs, [0] * units) + cost_of(costs, [candidates - 1] * units)) // 2


START = (2, 2, 2, 2, 2)


@pytest.mark.parametrize("seed", range(20))
def test_separable_losses_need_one_program(seed):
    """Corollary 2."""
    losses, costs, limit = random_problem(seed, strength=0.0)
    trace = losses.search(START, costs, [limit], [5])
    assert trace.iterations[0].choice == trace.best_choice == least(losses.table, costs, limit)
    assert trace.iterations[0].predicted == pytest.approx(trace.iterations[0].loss)


@pytest.mark.parametrize("seed", range(20))
def test_one_unit_at_a_time_never_raises_the_loss(seed):
    """Corollary 3."""
    losses, costs, limit = random_problem(seed)
    trace = losses.search((0,) * 5, costs, [limit], [1] * 30, seed=seed)
    measured = [trace.start_loss, *(iteration.loss for iteration in trace.iterations)]
    assert measured == sorted(measured, reverse=True)
    assert trace.best_loss == measured[-1]
    assert all(i.predicted == pytest.approx(i.loss) for i in trace.iterations)


def gapped_problem(seed, delta, strength):
    """Sums of delta losses at least 2 * delta apart, and interactions of at most `strength` in size.

    Configurations next to the start have no interaction, so that the delta losses are those of the separable
    part.
    """
    rng = np.random.default_rng(seed)
    values = np.array([rng.permutation(3) * 2.0 * delta * 3**i for i in rng.permutation(5)])
    interaction = rng.uniform(-strength, strength, size=[3] * 5)
    for choice in itertools.product(range(3), repeat=5):
        if sum(a != b for a, b in zip(choice, START, strict=True)) < 2:
            interaction[choice] = 0.0
    costs = rng.integers(1, 1000, size=(5, 3, 1)).tolist()
    limit = (sum(min(row)[0] for row in costs) + sum(max(row)[0] for row in costs)) // 2
    return Losses(separable(values) + interaction), costs, limit


def test_small_interactions_and_a_gap_give_the_true_minimiser():
    """Theorem 1: |e(b) - e(b*)| <= delta, and every other sum at least 2 * delta above the least."""
    delta = 0.25
    for seed in range(50):
        losses, costs, limit = gapped_problem(seed, delta, strength=delta / 2)
        trace = losses.search(START, costs, [limit], [5])
        assert trace.iterations[0].choice == least(losses.table, costs, limit)


def test_large_interactions_break_the_theorem():
    """The same construction past its condition, so that the test above is known to be able to fail."""
    delta, right = 0.25, 0
    for seed in range(50):
        losses, costs, limit = gapped_problem(seed, delta, strength=8 * delta)
        trace = losses.search(START, costs, [limit], [5])
        right += trace.iterations[0].choice == least(losses.table, costs, limit)
    assert 0 < right < 40


@pytest.mark.parametrize("seed", range(10))
def test_every_reference_is_within_the_budget(seed):
    losses, costs, limit = random_problem(seed)
    trace = losses.search(START, costs, [limit], [5, 2, 3, 1, 2, 3], seed=seed)
    for iteration in trace.iterations:
        assert iteration.costs == (cost_of(costs, iteration.choice),)
        assert iteration.costs[0] <= limit
        assert iteration.loss == losses.table[iteration.choice]
    assert trace.best_costs[0] <= limit
    assert trace.best_loss <= min(iteration.loss for iteration in trace.iterations)


def test_the_best_includes_probes():
    """Each change alone helps, both together hurt: the program's answer is the worst configuration of all."""
    losses = Losses([[1.0, 0.5], [0.6, 9.0]])
    trace = losses.search((0, 0), [[[0], [0]], [[0], [0]]], [0], [2])
    assert trace.iterations[0].choice == (1, 1)
    assert (trace.iterations[0].predicted, trace.iterations[0].loss) == (pytest.approx(0.1), 9.0)
    assert (trace.best_choice, trace.best_loss) == ((0, 1), 0.5)


def test_probes_over_the_budget_are_not_the_best():
    losses = Losses([[1.0, 0.1], [0.9, 0.0]])
    trace = losses.search((0, 0), [[[0], [1]], [[0], [5]]], [1], [2])
    assert (trace.best_choice, trace.best_costs) == ((1, 0), (1,))


def test_only_the_selected_units_change():
    losses, costs, limit = random_problem(4)
    trace = losses.search(START, costs, [limit], [9, 2, 3], seed=1)
    assert [len(iteration.selected) for iteration in trace.iterations] == [5, 2, 3]
    reference = trace.iterations[0].choice
    for iteration, (profiled, changed) in zip(trace.iterations[1:], losses.profiled[1:], strict=True):
        assert (profiled, changed) == (reference, list(iteration.selected))
        assert changed == sorted(set(changed))
        assert set(differing(reference, iteration.choice)) <= set(changed)
        reference = iteration.choice


def test_the_seed_decides():
    def run(seed):
        losses, costs, limit = random_problem(7)
        return losses.search(START, costs, [limit], [5] + [2] * 8, seed=seed)

    first, again, other = run(3), run(3), run(4)
    assert [i.selected for i in first.iterations] == [i.selected for i in again.iterations]
    assert [i.choice for i in first.iterations] == [i.choice for i in again.iterations]
    assert [i.selected for i in first.iterations] != [i.selected for i in other.iterations]


def test_known_losses_are_not_measured_again():
    losses, costs, limit = random_problem(2, strength=0.0)
    trace = losses.search(START, costs, [limit], [5, 5, 2, 2])
    assert len({iteration.choice for iteration in trace.iterations}) == 1
    assert losses.evaluated == [START, trace.iterations[0].choice]
    assert differing(START, trace.best_choice) == [1, 4]
    assert trace.evaluations == 2 + (5 + 5) * 2 - 2  # the probes of two references, two of which are next to both
    assert [reference for reference, _ in losses.profiled] == losses.evaluated


def test_two_budgets():
    losses, costs, limit = random_problem(5)
    two = [[[cost[0], 10 - 4 * k] for k, cost in enumerate(row)] for row in costs]
    trace = losses.search((1,) * 5, two, [limit, 30], [5, 3, 3])
    assert all(i.costs[0] <= limit and i.costs[1] <= 30 for i in trace.iterations)


def test_disallowed_candidates_are_neither_chosen_nor_read():
    losses = Losses([[3.0, 2.0], [np.nan, np.nan]])
    trace = losses.search((0, 0), [[[0], [0]], [[0], [0]]], [0], [2], allowed=[[True, False], [True, True]])
    assert (trace.best_choice, trace.evaluations) == ((0, 1), 2)
    assert math.isnan(trace.iterations[0].deltas[0, 1])
    assert losses.profiled == [((0, 0), [1])]


@pytest.mark.parametrize("infinite", [np.nan, np.inf, -np.inf])
def test_candidates_of_non_finite_loss_are_excluded(infinite):
    losses = Losses([[3.0, 2.0], [infinite, infinite]])
    trace = losses.search((0, 0), [[[0], [0]], [[0], [0]]], [0], [2])
    assert (trace.best_choice, trace.best_loss) == ((0, 1), 2.0)


def test_a_solution_of_non_finite_loss_does_not_become_the_reference():
    losses = Losses([[3.0, 2.0], [1.0, np.nan]])
    trace = losses.search((0, 0), [[[0], [0]], [[0], [0]]], [0], [2, 2])
    assert trace.iterations[0].choice == (1, 1)
    assert math.isnan(trace.iterations[0].loss)
    assert trace.iterations[1].predicted == trace.iterations[0].predicted  # from (0, 0) again
    assert (trace.best_choice, trace.best_loss) == ((1, 0), 1.0)


def test_after_it_the_best_probe_replaces_a_reference_over_the_budget():
    table = np.array([[np.nan, 1.0], [4.0, 2.0]])
    losses = Losses(table)
    trace = losses.search((1, 1), [[[0], [2]], [[0], [2]]], [2], [2, 1])
    assert trace.iterations[0].choice == (0, 1)  # feasible, and measured as a probe
    assert trace.iterations[1].predicted == trace.best_loss == 1.0
    blind = Losses(table)
    with pytest.raises(FloatingPointError, match=r"\(0, 0\)"):
        blind.search((1, 1), [[[0], [2]], [[0], [2]]], [0], [2, 1])


def test_a_start_of_non_finite_loss_raises():
    with pytest.raises(FloatingPointError, match=r"start \(0, 1\) is nan"):
        Losses([[1.0, np.nan], [1.0, 1.0]]).search((0, 1), [[[0], [0]], [[0], [0]]], [0], [2])


ONE_EACH = [[[0], [3]], [[1], [3]]]


@pytest.mark.parametrize(
    ("start", "limit", "sizes", "options", "error", "message"),
    [
        ((1, 1), 4, [1, 2], {}, ValueError, "must then be all 2 units"),
        ((1, 1), 4, [], {}, ValueError, "update sizes"),
        ((1, 1), 4, [2, 0], {}, ValueError, "update sizes"),
        ((1, 2), 4, [2], {}, ValueError, "not an allowed candidate"),
        ((1,), 4, [2], {}, ValueError, "not an allowed candidate"),
        ((1, 1), 4, [2], {"allowed": [[True, True], [True, False]]}, ValueError, "not an allowed candidate"),
        ((1, 1), 0, [2], {}, InfeasibleBudgetError, "the least of each budget alone is"),
    ],
    ids=["start over budget", "no sizes", "size 0", "candidate", "units", "allowed", "budget"],
)
def test_errors_come_before_anything_is_measured(start, limit, sizes, options, error, message):
    losses = Losses(np.zeros((2, 2)))
    with pytest.raises(error, match=message):
        losses.search(start, ONE_EACH, [limit], sizes, **options)
    assert losses.evaluated == losses.profiled == []


def test_losses_of_the_wrong_shape_raise():
    losses = Losses(np.zeros((2, 2)))
    losses.measure = lambda choices, shard: np.zeros((len(choices), 3))
    with pytest.raises(ValueError, match=r"shape \(1, 3\), not \(1, 1\)"):
        losses.search((0, 0), ONE_EACH, [4], [2])


def test_every_iteration_is_reported():
    losses, costs, limit = random_problem(1)
    seen = []
    trace = losses.search(START, costs, [limit], [5, 2, 2], on_iteration=seen.append)
    assert tuple(seen) == trace.iterations
