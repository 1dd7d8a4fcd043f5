"""The integer linear program against enumeration and exact dynamic programs."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from ribs.select import highs, ilp, knapsack
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.ilp import check_feasible, solve


def brute_force(deltas, costs, limits, allowed=None):
    """(exact objective, costs, choice) of the best configuration by the order `solve` promises, or None."""
    usable = np.isfinite(deltas) if allowed is None else np.isfinite(deltas) & allowed
    found = None
    for choice in itertools.product(*(np.flatnonzero(row).tolist() for row in usable)):
        spent = tuple(sum(int(costs[i][k][c]) for i, k in enumerate(choice)) for c in range(len(limits)))
        if all(cost <= limit for cost, limit in zip(spent, limits, strict=True)):
            key = sum(Fraction(float(deltas[i, k])) for i, k in enumerate(choice)), spent, choice
            found = key if found is None else min(found, key)
    return found


def total_cost(costs, choice, budget=0):
    return sum(int(costs[i][k][budget]) for i, k in enumerate(choice))


def integers(rng, largest, *shape):
    """Nested lists of Python integers, which may be past int64."""
    if not shape:
        return int(rng.integers(0, 2**62)) * largest >> 62
    return [integers(rng, largest, *shape[1:]) for _ in range(shape[0])]


DELTAS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "ties": lambda rng, shape: rng.integers(-2, 3, size=shape).astype(float),
    "spread": lambda rng, shape: np.exp(-30 * rng.random(shape)),
    "wide": lambda rng, shape: 10.0 ** rng.uniform(-12, 9, size=shape) * rng.choice([-1, 1], size=shape),
    "close": lambda rng, shape: 1 + 1e-13 * rng.integers(-5, 5, size=shape),
    "equal columns": lambda rng, shape: np.repeat(rng.normal(size=(shape[0], 1)), shape[1], axis=1),
}


def random_problem(rng, kind, budgets):
    """A small one whose limits are those of some configuration, less one, exactly, or plus one."""
    units, candidates = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    deltas = DELTAS[kind](rng, (units, candidates)) * 10.0 ** rng.integers(-9, 7)
    if rng.random() < 0.2:
        deltas[rng.random(deltas.shape) < 0.15] = rng.choice([np.inf, -np.inf, np.nan])
    costs = integers(rng, int(rng.choice([5, 100, 10**9, 10**15, 10**18])), units, candidates, budgets)
    if rng.random() < 0.25:  # costs that differ in their last digit only
        step = 10 ** int(rng.integers(3, 19))
        costs = [[[step * k + c % 3 for c in entry] for k, entry in enumerate(row)] for row in costs]
    choice = rng.integers(candidates, size=units)
    limits = [total_cost(costs, choice, c) + int(rng.integers(-1, 2)) for c in range(budgets)]
    allowed = rng.random(deltas.shape) < 0.8 if rng.random() < 0.3 else None
    return deltas, costs, limits, allowed


@pytest.mark.parametrize("budgets", [1, 2, 3])
@pytest.mark.parametrize("kind", DELTAS)
def test_equals_brute_force(kind, budgets):
    rng = np.random.default_rng([budgets, *kind.encode()])
    solved = 0
    for _ in range(150):
        problem = random_problem(rng, kind, budgets)
        expected = brute_force(*problem)
        if expected is None:
            with pytest.raises(ValueError, match=r"no (configuration|allowed candidate)"):
                solve(*problem)
            continue
        solution = solve(*problem)
        assert (solution.costs, solution.choice) == expected[1:]
        assert solution.objective == float(expected[0])
        assert solution.gap == 0
        solved += 1
    assert solved > 50


def lexicographic_problem(rng, units, prime):
    """Costs a * prime + r, so that the budget binds to its last digit; least value by a table over both."""
    candidates, largest, extra = 7, 9, 2
    high = np.sort(rng.integers(0, largest + 1, size=(units, candidates)), axis=1)
    low = rng.integers(0, extra + 1, size=(units, candidates))
    # Multiples of 2^-30 below 2^-9: their sums are exact in float64.
    deltas = rng.integers(0, 2**20, size=(units, candidates)) * 2.0**-30 - 4.0 * high * 2.0**-16
    budget_high, budget_low = int(0.4 * high.max(axis=1).sum()), int(0.3 * extra * units)
    table = np.full((budget_high + 1, extra * units + 1), np.inf)
    table[0, 0] = 0
    for i in range(units):
        grown = np.full_like(table, np.inf)
        for k in range(candidates):
            a, r = int(high[i, k]), int(low[i, k])
            shifted = table[: table.shape[0] - a, : table.shape[1] - r] + deltas[i, k]
            np.minimum(grown[a:, r:], shifted, out=grown[a:, r:])
        table = grown
    least = min(table[:budget_high].min(), table[budget_high, : budget_low + 1].min())
    costs = [[[int(a) * prime + int(r)] for a, r in zip(*rows, strict=True)] for rows in zip(high, low, strict=True)]
    return deltas, costs, budget_high * prime + budget_low, least


@pytest.mark.parametrize(
    ("units", "prime", "instances"),
    [(50, 1009, 5), (50, 10**9 + 7, 5), (50, 10**15 + 37, 5), (200, 10**12 + 39, 1)],
)
def test_large_equals_dynamic_program(units, prime, instances):
    for seed in range(instances):
        deltas, costs, limit, least = lexicographic_problem(np.random.default_rng([units, seed]), units, prime)
        solution = solve(deltas, costs, [limit])
        assert solution.objective == least
        assert solution.gap == 0
        assert solution.costs == (total_cost(costs, solution.choice),)
        assert solution.costs[0] <= limit


def pareto(deltas, costs, limits):
    """The least exact value by enumeration of undominated partial configurations, one by one."""
    front = [((0,) * len(limits), Fraction(0))]
    for row, entries in zip(deltas, costs, strict=True):
        grown = sorted(
            (tuple(map(sum, zip(spent, extra, strict=True))), loss + Fraction(float(delta)))
            for spent, loss in front
            for delta, extra in zip(row, entries, strict=True)
        )
        front = []
        for spent, loss in grown:
            fits = all(map(int.__le__, spent, limits))
            if fits and not any(loss >= b and all(map(int.__ge__, spent, a)) for a, b in front):
                front.append((spent, loss))
    return min(loss for _, loss in front)


@pytest.mark.parametrize("largest", [10**9, 10**12, 10**15, 10**18])
@pytest.mark.parametrize(("units", "candidates", "budgets"), [(12, 4, 1), (7, 4, 2)])
def test_awkward_integers_equal_pareto_enumeration(units, candidates, budgets, largest):
    rng = np.random.default_rng([units, largest % 2**31])
    for _ in range(3):
        deltas = np.sort(rng.exponential(size=(units, candidates)) * 1e-3, axis=1)[:, ::-1]
        costs = [sorted(row) for row in integers(rng, largest, units, candidates, budgets)]
        limits = [int(0.4 * total_cost(costs, [candidates - 1] * units, c)) for c in range(budgets)]
        try:
            solution = solve(deltas, costs, limits)
        except InfeasibleBudgetError:
            with pytest.raises(ValueError, match="empty"):
                pareto(deltas, costs, limits)
            continue
        assert solution.objective == float(pareto(deltas, costs, limits))
        assert all(map(int.__le__, solution.costs, limits))


def network_problem(rng, units, budgets):
    """Losses and costs as networks have them: bits 2..8, BOPs by their squares, size by their number."""
    bits = np.arange(2, 9)
    deltas = np.exp(1.5 * rng.normal(size=(units, 1)) - 6 - 1.2 * (bits - 8) + 0.1 * rng.normal(size=(units, 7)))
    macs, weights = rng.integers(10**6, 2 * 10**8, size=units), rng.integers(10**3, 2 * 10**6, size=units)
    costs = [[[int(m * b * b), int(w * b)][:budgets] for b in bits] for m, w in zip(macs, weights, strict=True)]
    limits = [total_cost(costs, [2] * units, c) for c in range(budgets)]
    return deltas - deltas[:, -1:], costs, limits


@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("units", [21, 50, 200])
def test_the_scale_of_the_losses_changes_nothing(units, budgets):
    deltas, costs, limits = network_problem(np.random.default_rng(units), units, budgets)
    solution = solve(deltas, costs, limits)
    assert solution.gap == 0
    for exponent in (-30, -17, 20):
        assert solve(deltas * 2.0**exponent, costs, limits).choice == solution.choice


@pytest.mark.parametrize("budgets", [1, 2])
def test_without_exact_proof_the_gap_is_stated(monkeypatch, budgets):
    problem = network_problem(np.random.default_rng(3), 21, budgets)
    proven = solve(*problem)
    monkeypatch.setattr(knapsack, "MOST_STATES", 0)
    solution = solve(*problem)
    spread = np.ptp(problem[0], axis=1).max()
    assert 0 <= solution.gap <= 1e-6 * spread
    assert proven.objective <= solution.objective <= proven.objective + solution.gap + 1e-9 * spread


@pytest.mark.parametrize("budgets", [1, 2])
def test_a_proof_from_the_relaxation_finds_what_the_whole_solver_does(monkeypatch, budgets):
    generator = np.random.default_rng(budgets)
    problems = []
    for _ in range(40):
        units, candidates = int(generator.integers(5, 25)), int(generator.integers(2, 8))
        deltas = generator.normal(size=(units, candidates)).round(
            int(generator.integers(1, 12))
        )  # with ties and without
        costs = generator.integers(0, 10 ** generator.integers(1, 12), (units, candidates, budgets))
        limits = (0.3 * costs.min(axis=1).sum(axis=0) + 0.7 * costs.mean(axis=1).sum(axis=0)).astype(int).tolist()
        problems.append((deltas, costs, limits))
    asked = []

    class Counted(highs.Solver):
        def __init__(self, *problem):
            asked.append(1)
            super().__init__(*problem)

    monkeypatch.setattr(ilp, "Solver", Counted)
    found = [solve(*problem) for problem in problems]
    few = len(asked)
    assert few < 10 and all(solution.gap == 0 for solution in found)
    monkeypatch.setattr(ilp, "FEW_STATES", 0)
    assert [solve(*problem) for problem in problems] == found
    assert len(asked) > few + 20  # in some the best candidates of all units are within the limits


def test_no_answer_is_silent(monkeypatch):
    problem = network_problem(np.random.default_rng(3), 21, 1)
    monkeypatch.setattr(knapsack, "MOST_STATES", 0)
    monkeypatch.setitem(highs.OPTIONS, "time_limit", 0.0)
    with pytest.raises(RuntimeError, match="Time limit"):
        solve(*problem)


def test_least_feasible_cost_and_one_less():
    deltas, costs, _ = network_problem(np.random.default_rng(0), 10, 2)
    least = tuple(total_cost(costs, [0] * 10, c) for c in range(2))
    assert solve(deltas, costs, least).choice == (0,) * 10
    check_feasible(costs, least)
    for limits in [(least[0] - 1, least[1]), (least[0], least[1] - 1)]:
        for call in (
            lambda limits=limits: solve(deltas, costs, limits),
            lambda limits=limits: check_feasible(costs, limits),
        ):
            with pytest.raises(InfeasibleBudgetError) as caught:
                call()
            assert caught.value.least == least
            assert caught.value.limits == limits


def test_budgets_out_of_reach_only_together():
    costs = [[[0, 5], [5, 0]], [[0, 5], [5, 0]]]
    assert solve([[0, 1], [0, 1]], costs, [5, 5]).choice == (0, 1)
    for call in (lambda: solve([[0, 1], [0, 1]], costs, [4, 5]), lambda: check_feasible(costs, [4, 5])):
        with pytest.raises(InfeasibleBudgetError, match="together") as caught:
            call()
        assert (caught.value.least, caught.value.limits) == ((0, 0), (4, 5))


def test_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(InfeasibleBudgetError("too little", least=[3], limits=[2])))
    assert (str(error), error.least, error.limits) == ("too little", (3,), (2,))


@pytest.mark.parametrize("infinite", [np.nan, np.inf, -np.inf])
def test_candidates_without_a_finite_delta_are_excluded(infinite):
    assert solve([[infinite, 1.0, 2.0]], [[[0], [2], [1]]], [2]).choice == (1,)
    with pytest.raises(ValueError, match=r"units \[1\] have no allowed candidate"):
        solve([[0.0], [infinite]], [[[0]], [[0]]], [0])


def test_ties_go_to_the_least_cost_then_the_first_choice():
    assert solve([[1, 1, 1]], [[[3, 0], [2, 9], [2, 1]]], [9, 9]).choice == (2,)
    assert solve([[0, 0, -1], [0, 0, -1]], [[[1], [1], [5]], [[1], [1], [5]]], [6]).choice == (0, 2)


def test_negative_costs_and_limits():
    assert solve([[0, 1], [0, 1]], [[[-1], [-5]], [[-1], [-4]]], [-6]).choice == (1, 0)


def test_no_budget_takes_the_least_losses():
    assert solve([[2.0, 1.0], [0.0, 5.0]], [[[], []], [[], []]], []).choice == (1, 0)


@pytest.mark.parametrize(
    ("deltas", "costs", "limits", "error"),
    [
        ([1.0], [[[1]]], [1], ValueError),
        (np.zeros((0, 3)), [], [1], ValueError),
        ([[1.0, 2.0]], [[[1]]], [1], ValueError),
        ([[1.0]], [[[1, 2]]], [1], ValueError),
        ([[1.0]], [[[1.5]]], [1], TypeError),
        ([[1.0]], [[[1]]], [1.5], TypeError),
    ],
    ids=["one dimension", "no units", "candidates", "budgets", "float cost", "float limit"],
)
def test_bad_arguments(deltas, costs, limits, error):
    with pytest.raises(error):
        solve(deltas, costs, limits)


def test_arrays_of_any_integer_type():
    costs = np.arange(6, dtype=np.int32).reshape(2, 3, 1)
    assert solve(-np.arange(6.0).reshape(2, 3), costs, np.array([6])).choice == (1, 2)


def test_objective_is_correctly_rounded():
    deltas = np.array([[1e16], [1.0], [-1e16]])
    assert solve(deltas, [[[0]]] * 3, [0]).objective == math.fsum(deltas.ravel()) == 1.0


def test_prints_nothing():
    """In a process of its own, because the solver would print on its first use only."""
    code = "from ribs.select.ilp import solve; solve([[0, 1], [0, 1]], [[[2], [0]], [[3], [1]]], [3])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def with_bounds_on_both_sides(rng):
    """Small, with one to six bounds, upper and lower (negated), about the costs of some configuration; in numpy."""
    units, candidates, budgets = int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(1, 7))
    costs = rng.integers(0, int(rng.choice([4, 30, 10**6, 10**12])), size=(units, candidates, budgets))
    deltas = rng.integers(-50, 1000, size=(units, candidates)).astype(float)
    costs *= rng.choice([1, 1, -1], size=budgets)
    choice = rng.integers(candidates, size=units)
    spread = np.ptp(costs, axis=1).sum(axis=0)
    limits = costs[range(units), choice].sum(axis=0) + (spread * rng.choice([-0.3, 0, 0, 0.2, 0.5], budgets)).astype(
        int
    )
    return deltas, costs, limits


def test_ten_thousand_with_bounds_on_both_sides():
    """No bound is broken, no optimum missed, and nothing feasible refused."""
    rng = np.random.default_rng(0)
    feasible = 0
    for _ in range(10_000):
        deltas, costs, limits = with_bounds_on_both_sides(rng)
        every = np.array(list(itertools.product(range(deltas.shape[1]), repeat=len(deltas))))
        units = np.arange(len(deltas))
        fits = (costs[units, every].sum(axis=1) <= limits).all(axis=1)
        if not fits.any():
            with pytest.raises(InfeasibleBudgetError):
                solve(deltas, costs, limits)
            continue
        solution = solve(deltas, costs, limits)
        assert np.all(costs[units, solution.choice].sum(axis=0) <= limits)
        assert solution.objective == deltas[units, every[fits]].sum(axis=1).min()
        assert solution.gap == 0
        feasible += 1
    assert 4000 < feasible < 9000


@pytest.mark.parametrize("moments", [1, 20])
def test_pairs_of_bits_with_many_bounds(moments):
    """200 units of 49 pairs: bit operations, size on both sides, and activations at many moments."""
    rng = np.random.default_rng(moments)
    units = 60 if moments > 1 else 200
    pairs = np.array(list(itertools.product(range(2, 9), repeat=2)))
    macs, weights = rng.integers(10**6, 2 * 10**8, size=units), rng.integers(10**3, 2 * 10**6, size=units)
    elements = rng.integers(10**3, 10**6, size=(units, moments)) * (rng.random((units, moments)) < 0.1)
    scale = np.exp(1.5 * rng.normal(size=(2, units, 1)) - 6)
    deltas = (scale * 2.0 ** (-1.2 * pairs.T[:, None])).sum(axis=0) * (1 + 0.1 * rng.random((units, 49)))
    w, a = pairs.T
    columns = [macs[:, None] * (w * a), weights[:, None] * w, -weights[:, None] * w]
    costs = np.stack([*columns, *(elements[:, m, None] * a for m in range(moments))], axis=-1)
    uniform = costs[:, pairs.tolist().index([4, 4])].sum(axis=0)
    limits = [int(uniform[0]), int(1.1 * uniform[1]), int(0.9 * uniform[2]), *map(int, uniform[3:])]
    solution = solve(deltas, costs, limits)
    assert all(map(int.__le__, solution.costs, limits))
    assert 0 <= solution.gap <= 1e-6 * np.ptp(deltas, axis=1).max()
    assert solution.objective <= deltas[:, pairs.tolist().index([4, 4])].sum()
