"""The integer linear program of one iteration: a multiple-choice knapsack, solved exactly."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ribs.select.errors import InfeasibleBudgetError
from ribs.select.highs import LARGEST_COST, Solver, relaxation
from ribs.select.knapsack import Option, Units, largest_value, prove, total_cost, total_value, undominated, within

Costs = Sequence[Sequence[Sequence[int]]] | NDArray[Any]

FEW_STATES = 2000  # of a proof from a rounding of the relaxation: where there are more, a better start pays
# Up to so many budgets it is shown by exact enumeration that nothing is within them all; with more the solver is
# believed, whose tolerances only ever widen them.
EXACT = 3
TOLERANCE = Fraction(1, 10**6)  # of the largest delta: how far a solution without exact proof may be from optimal


@dataclass(frozen=True)
class Solution:
    """A configuration of least total delta loss within the budgets.

    choice: a candidate index for each unit.
    objective: the sum of the chosen deltas, correctly rounded.
    costs: exact total costs, one for each budget.
    gap: 0.0 when the optimum is proven in exact arithmetic, as it is for all but contrived problems;
        otherwise how far the solver's own lower bound, which is subject to its tolerances, lies below the
        objective, at most a millionth of the largest spread of a unit's deltas.
    """

    choice: tuple[int, ...]
    objective: float
    costs: tuple[int, ...]
    gap: float = 0.0


def solve(deltas: ArrayLike, costs: Costs, limits: Sequence[int], allowed: ArrayLike | None = None) -> Solution:
    """Choose one candidate for each unit, of least total delta loss within the budgets (RIBS, Eq. 3-4).

    deltas: [N, K] float64 changes of the loss; candidates whose delta is not finite are excluded.
    costs: [N, K, C] integers of any size and sign, one for each of C budgets.
    limits: C integers, upper bounds of the total costs.
    allowed: [N, K] bool; all by default.

    Of configurations with the same exact sum of deltas it returns the one of least cost (first budget first),
    then the lexicographically first. This holds, and the optimum is exact, whenever the `gap` returned is 0.

    Raises: InfeasibleBudgetError when no configuration fits; ValueError for bad shapes or a unit without
        candidates; TypeError for costs or limits that are not integers; RuntimeError when no optimum is
        found.
    """
    losses = np.asarray(deltas, dtype=np.float64)
    usable = _usable(losses, allowed)
    limits, table = _exact(limits, costs, losses.shape)
    # A float64 is an integer over a power of two, so that over the largest of these all losses are integers.
    scale = max(Fraction(float(loss)).denominator for loss in losses[usable])
    units = [
        [Option(table[i][k], int(Fraction(float(losses[i, k])) * scale), int(k)) for k in np.flatnonzero(row)]
        for i, row in enumerate(usable)
    ]
    try:
        options, gap = _minimise(units, limits)
    except InfeasibleBudgetError:
        raise _infeasible(units, limits) from None  # in the caller's costs, not those of a reduced problem
    choice = tuple(option.candidate for option in options)
    objective = math.fsum(losses[i, k] for i, k in enumerate(choice))
    spent = tuple(sum(table[i][k][c] for i, k in enumerate(choice)) for c in range(len(limits)))
    return Solution(choice, objective, spent, float(gap / scale))


def check_feasible(costs: Costs, limits: Sequence[int], allowed: ArrayLike | None = None) -> None:
    """Raise InfeasibleBudgetError when no configuration of allowed candidates keeps within all budgets.

    costs, limits, allowed: as for `solve`, with the same further errors.
    """
    find_feasible(costs, limits, allowed)


def find_feasible(costs: Costs, limits: Sequence[int], allowed: ArrayLike | None = None) -> tuple[int, ...]:
    """A configuration of allowed candidates within all budgets; arguments and errors as for `check_feasible`."""
    zeros = np.zeros([len(costs), len(costs[0]) if len(costs) else 0])
    usable = _usable(zeros, allowed)
    limits, table = _exact(limits, costs, zeros.shape)
    units = [[Option(table[i][k], 0, int(k)) for k in np.flatnonzero(row)] for i, row in enumerate(usable)]
    try:
        return tuple(option.candidate for option in _feasible(units, limits))
    except InfeasibleBudgetError:
        raise _infeasible(units, limits) from None


def _usable(losses: NDArray[np.float64], allowed: ArrayLike | None) -> NDArray[np.bool_]:
    if losses.ndim != 2 or 0 in losses.shape:
        raise ValueError(f"[solve] deltas of shape {losses.shape} are not [units, candidates]")
    usable = np.isfinite(losses)
    if allowed is not None:
        mask = np.asarray(allowed, dtype=bool)
        if mask.shape != losses.shape:
            raise ValueError(f"[solve] allowed has shape {mask.shape}, the deltas {losses.shape}")
        usable &= mask
    empty = np.flatnonzero(~usable.any(axis=1))
    if empty.size:
        raise ValueError(f"[solve] units {empty.tolist()} have no allowed candidate of finite delta")
    return usable


def _exact(
    limits: Sequence[int], costs: Costs, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], list[list[tuple[int, ...]]]]:
    # Python integers: bit operations reach 1e18, past what a double holds exactly, and their sums past int64.
    bounds = tuple(operator.index(limit) for limit in limits)
    table = [[tuple(operator.index(cost) for cost in entry) for entry in row] for row in costs]
    if [[len(entry) for entry in row] for row in table] != [[len(bounds)] * shape[1]] * shape[0]:
        raise ValueError(f"[solve] costs are not [units, candidates, budgets] = {[*shape, len(bounds)]}")
    return bounds, table


def _minimise(units: Units, limits: tuple[int, ...]) -> tuple[list[Option], Fraction]:
    """The options of least value within the limits, and how far they may be from it (0: proven)."""
    best = [min(unit, key=operator.itemgetter(1, 0, 2)) for unit in units]
    if within(total_cost(best), limits):
        return best, Fraction(0)
    units, room = _reduce(units, limits)
    prices, rounded = relaxation(units, room)
    proven = rounded and prove(units, room, rounded, prices, FEW_STATES)
    if proven:
        return proven, Fraction(0)
    answer = Solver(units, room)
    incumbent = answer.best or _feasible(units, room)
    proven = prove(units, room, incumbent, answer.prices)
    if proven:
        return proven, Fraction(0)
    gap = total_value(incumbent) - answer.bound
    if answer.best is None or gap > largest_value(units) * TOLERANCE:
        raise RuntimeError(f"[solve] no optimum found; the last status of HiGHS is {answer.status!r}")
    return incumbent, max(Fraction(0), gap)


def _feasible(units: Units, limits: tuple[int, ...]) -> list[Option]:
    """Options within the limits; raises when there are none."""
    reduced, room = _reduce([[Option(o.costs, 0, k) for k, o in enumerate(unit)] for unit in units], limits)
    if len(room) > EXACT:
        # The share of all room that an option takes: whatever fits will do, and what costs little fits best.
        shares = [Fraction(LARGEST_COST, left or 1) for left in room]
        priced = [[Option(o.costs, int(_dot(shares, o.costs)), o.candidate) for o in unit] for unit in reduced]
        answer = Solver(priced, room)
        if answer.best is not None:
            return [unit[o.candidate] for unit, o in zip(units, answer.best, strict=True)]
        if answer.infeasible:
            raise _infeasible(units, limits)
    return _cheapest(units, limits)


def _dot(a: Iterable[Fraction], b: Iterable[int]) -> Fraction:
    return sum(map(operator.mul, a, b), Fraction(0))


def _cheapest(units: Units, limits: tuple[int, ...]) -> list[Option]:
    """The options of least cost in the last budget within all others; raises when even these do not fit."""
    if not limits:
        return [unit[0] for unit in units]
    others = [[Option(o.costs[:-1], o.costs[-1], k) for k, o in enumerate(unit)] for unit in units]
    found = [unit[o.candidate] for unit, o in zip(units, _minimise(others, limits[:-1])[0], strict=True)]
    if not within(total_cost(found), limits):
        raise _infeasible(units, limits)
    return found


def _reduce(units: Units, limits: tuple[int, ...]) -> tuple[Units, tuple[int, ...]]:
    """The problem with costs and values above each unit's least, and without options never to be chosen."""
    floors = [tuple(map(min, zip(*(option.costs for option in unit), strict=True))) for unit in units]
    room = tuple(map(operator.sub, limits, map(sum, zip(*floors, strict=True))))
    reduced = []
    for unit, floor in zip(units, floors, strict=True):
        lowest = min(option.value for option in unit)
        above = [Option(tuple(map(operator.sub, o.costs, floor)), o.value - lowest, o.candidate) for o in unit]
        states = undominated((o.costs, o.value, o.candidate, 0) for o in above if within(o.costs, room))
        reduced.append([Option(*state[:3]) for state in states])
    if not all(reduced):
        raise _infeasible(units, limits)
    return reduced, room


def _infeasible(units: Units, limits: tuple[int, ...]) -> InfeasibleBudgetError:
    least = tuple(sum(min(option.costs[c] for option in unit) for unit in units) for c in range(len(limits)))
    together = " together" if within(least, limits) else ""
    message = f"no configuration costs at most {limits}{together}; the least of each budget alone is {least}"
    return InfeasibleBudgetError(message, least=least, limits=limits)
