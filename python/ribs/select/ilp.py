"""The integer linear program of one iteration: a multiple-choice knapsack, solved exactly."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import highspy
import numpy as np
from highspy._core import _Highs
from numpy.typing import ArrayLike, NDArray

from ribs.select.errors import InfeasibleBudgetError
from ribs.select.knapsack import Option, Units, prove, total_cost, total_value, undominated, within

Costs = Sequence[Sequence[Sequence[int]]] | NDArray[Any]

# The solver's tolerances are absolute: losses of 1e-5, passed as they are, would vanish below them.
LARGEST_VALUE = 10**4
# Beyond it, a binary that is off by the solver's 1e-6 is worth more than one unit of cost.
LARGEST_COST = 10**6
ATTEMPTS = 8
# Up to so many budgets it is shown by exact enumeration that nothing is within them all; with more the solver is
# believed, whose tolerances only ever widen them.
EXACT = 3
TOLERANCE = Fraction(1, 10**6)  # of the largest delta: how far a solution without exact proof may be from optimal
# No `threads`: a second value of it in one process leaves the solver without a status.
OPTIONS = {"output_flag": False, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0, "time_limit": 60.0}


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
    answer = _Solver(units, room)
    incumbent = answer.best or _feasible(units, room)
    proven = prove(units, room, incumbent, answer.prices)
    if proven is not None:
        return proven, Fraction(0)
    gap = total_value(incumbent) - answer.bound
    if answer.best is None or gap > _largest(units) * TOLERANCE:
        raise RuntimeError(f"[solve] no optimum found; the last status of HiGHS is {answer.status!r}")
    return incumbent, max(Fraction(0), gap)


def _feasible(units: Units, limits: tuple[int, ...]) -> list[Option]:
    """Options within the limits; raises when there are none."""
    reduced, room = _reduce([[Option(o.costs, 0, k) for k, o in enumerate(unit)] for unit in units], limits)
    if len(room) > EXACT:
        # The share of all room that an option takes: whatever fits will do, and what costs little fits best.
        shares = [Fraction(LARGEST_COST, left or 1) for left in room]
        priced = [[Option(o.costs, int(_dot(shares, o.costs)), o.candidate) for o in unit] for unit in reduced]
        answer = _Solver(priced, room)
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


class _Solver:
    """What HiGHS finds, checked in integers.

    It may go over a budget by its tolerances, and is then asked again with less room; and it cannot tell
    apart values that are small beside the largest, and is then asked again without those options that alone
    are worse than the configuration found. What this loses is for `prove` to find.

    best: the best configuration found within the room, if any.
    prices: of the budgets, in value per cost: the duals of the relaxed problem.
    bound: of the value, from below, as proven by the solver.
    status: in words, of the last solve.
    infeasible: whether the solver found that nothing is within the room.
    """

    def __init__(self, units: Units, room: tuple[int, ...]) -> None:
        self.best: list[Option] | None = None
        self.prices = [Fraction(0)] * len(room)
        self.bound = Fraction(0)
        self.status = ""
        self.infeasible = False
        given = room
        for attempt in range(ATTEMPTS):
            options = self._ask(units, given, whole=given == room)
            if options is None:
                break
            if not within(total_cost(options), room):
                # A billionth less, then eight times that: it has been seen to go over by a ten millionth.
                given = tuple(left - max(left >> 30 - 3 * attempt, min(1, left)) for left in given)
                continue
            if self.best is None or total_value(options) < total_value(self.best):
                self.best = options
            narrowed = [[option for option in unit if option.value <= total_value(self.best)] for unit in units]
            if 1000 * _largest(narrowed) > _largest(units):
                break
            units = narrowed

    def _ask(self, units: Units, room: tuple[int, ...], *, whole: bool) -> list[Option] | None:
        value_unit = Fraction(_largest(units) or 1, LARGEST_VALUE)
        scales = [_cost_scale(units, c, left) for c, left in enumerate(room)]
        highs = _model(units, scales, value_unit)
        if not self._run(highs, relaxed=True):
            self.infeasible = whole and highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible
            return None
        duals = highs.getSolution().row_dual[len(units) :]
        priced = zip(duals, scales, strict=True)
        self.prices = [Fraction(max(0.0, -dual)) * value_unit / unit for dual, (unit, _) in priced]
        if not self._run(highs, relaxed=False):
            self.infeasible = whole and highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible
            return None
        if whole:
            self.bound = Fraction(highs.getInfo().mip_dual_bound) * value_unit
        x = iter(highs.getSolution().col_value)
        return [max([(next(x), option) for option in unit], key=operator.itemgetter(0))[1] for unit in units]

    def _run(self, highs: _Highs, *, relaxed: bool) -> bool:
        highs.setOptionValue("solve_relaxation", relaxed)
        highs.run()
        status = highs.getModelStatus()
        self.status = highs.modelStatusToString(status)
        return bool(status == highspy.HighsModelStatus.kOptimal)


def _largest(units: Units) -> int:
    return max(option.value for unit in units for option in unit)


def _cost_scale(units: Units, budget: int, left: int) -> tuple[Fraction, float]:
    """The unit in which the costs of a budget are passed, and the room in these units."""
    common = math.gcd(*(option.costs[budget] for unit in units for option in unit)) or 1
    if left // common <= LARGEST_COST:
        # Half a unit more admits no other whole number, and no rounding then excludes what is at the limit.
        return Fraction(common), left // common + 0.5
    return Fraction(left, LARGEST_COST), float(LARGEST_COST)


def _model(units: Units, scales: list[tuple[Fraction, float]], value_unit: Fraction) -> _Highs:
    columns = [(row, option) for row, unit in enumerate(units) for option in unit]
    height, entries = len(units) + len(scales), 1 + len(scales)
    rows = [[row, *range(len(units), height)] for row, _ in columns]
    cost_units = [unit for unit, _ in scales]
    coefficients = [[1.0, *map(float, map(operator.truediv, o.costs, cost_units))] for _, o in columns]
    # Its subclass highspy.Highs prints a line to stdout before its output can be turned off.
    highs = _Highs()
    for name, setting in OPTIONS.items():
        highs.setOptionValue(name, setting)
    highs.passModel(
        len(columns),
        height,
        len(columns) * entries,
        int(highspy.MatrixFormat.kColwise),
        int(highspy.ObjSense.kMinimize),
        0.0,
        np.array([float(option.value / value_unit) for _, option in columns]),
        np.zeros(len(columns)),
        np.ones(len(columns)),
        np.array([1.0] * len(units) + [-highspy.kHighsInf] * len(scales)),
        np.array([1.0] * len(units) + [room for _, room in scales]),
        np.arange(0, len(columns) * entries, entries, dtype=np.int32),
        np.array(rows, dtype=np.int32).ravel(),
        np.array(coefficients).ravel(),
        np.ones(len(columns), dtype=np.int32),
    )
    return highs
