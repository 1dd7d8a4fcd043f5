"""What HiGHS finds of a multiple-choice knapsack, checked in integers: its relaxation, and options within the room."""

from __future__ import annotations

import itertools
import math
import operator
from fractions import Fraction

import highspy
import numpy as np
from highspy._core import _Highs

from ribs.select.knapsack import Option, Units, largest_value, total_cost, total_value, within

# The solver's tolerances are absolute: losses of 1e-5, passed as they are, would vanish below them.
LARGEST_VALUE = 10**4
# Beyond it, a binary that is off by the solver's 1e-6 is worth more than one unit of cost.
LARGEST_COST = 10**6
ATTEMPTS = 8
SPLIT = 1e-6  # of a unit, below which an option has all of it
ROUNDINGS = 1000  # of the options that the relaxation leaves open, tried at most
# No `threads`: a second value of it in one process leaves the solver without a status.
OPTIONS = {"output_flag": False, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0, "time_limit": 60.0}


class Solver:
    """What HiGHS finds, checked in integers.

    It may go over a budget by its tolerances, and is then asked again with less room; and it cannot tell
    apart values that are small beside the largest, and is then asked again without those options that alone
    are worse than the configuration found. What this loses is for `prove` to find.

    best: the best configuration found within the room, if any.
    prices: of the budgets, from the last relaxed problem.
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
            if 1000 * largest_value(narrowed) > largest_value(units):
                break
            units = narrowed

    def _ask(self, units: Units, room: tuple[int, ...], *, whole: bool) -> list[Option] | None:
        problem = _Problem(units, room)
        solved = problem.solve(relaxed=True)
        if solved:
            self.prices = problem.prices()
            solved = problem.solve(relaxed=False)
        self.status, self.infeasible = problem.status, whole and problem.infeasible
        if not solved:
            return None
        if whole:
            self.bound = Fraction(problem.highs.getInfo().mip_dual_bound) * problem.value_unit
        return [max(unit, key=operator.itemgetter(0))[1] for unit in problem.shares()]


def relaxation(units: Units, room: tuple[int, ...]) -> tuple[list[Fraction], list[Option] | None]:
    """The prices of the budgets, in value per cost, where units may be split; and the best of its roundings, if any.

    At most as many units as there are budgets are split, so that the roundings are few.
    """
    problem = _Problem(units, room)
    if not problem.solve(relaxed=True):
        return [Fraction(0)] * len(room), None
    whole = [[option for share, option in unit if share > 1 - SPLIT] for unit in problem.shares()]
    open_ = (own or unit for own, unit in zip(whole, units, strict=True))
    roundings = itertools.islice(itertools.product(*open_), ROUNDINGS)
    fitting = (list(options) for options in roundings if within(total_cost(options), room))
    return problem.prices(), min(fitting, key=total_value, default=None)


class _Problem:
    """A problem in the units in which it is passed to HiGHS.

    value_unit: of values.  status: of the last solve, in words.  infeasible: whether it found nothing within the room.
    """

    def __init__(self, units: Units, room: tuple[int, ...]) -> None:
        self.units = units
        self.value_unit = Fraction(largest_value(units) or 1, LARGEST_VALUE)
        self.scales = [_cost_scale(units, c, left) for c, left in enumerate(room)]
        self.highs = _model(units, self.scales, self.value_unit)
        self.status, self.infeasible = "", False

    def solve(self, *, relaxed: bool) -> bool:
        """Whether an optimum was found."""
        self.highs.setOptionValue("solve_relaxation", relaxed)
        self.highs.run()
        status = self.highs.getModelStatus()
        self.status = self.highs.modelStatusToString(status)
        self.infeasible = bool(status == highspy.HighsModelStatus.kInfeasible)
        return bool(status == highspy.HighsModelStatus.kOptimal)

    def shares(self) -> list[list[tuple[float, Option]]]:
        """How much of each option is in the solution."""
        x = iter(self.highs.getSolution().col_value)
        return [[(next(x), option) for option in unit] for unit in self.units]

    def prices(self) -> list[Fraction]:
        """The duals of the relaxed problem."""
        duals = self.highs.getSolution().row_dual[len(self.units) :]
        priced = zip(duals, self.scales, strict=True)
        return [Fraction(max(0.0, -dual)) * self.value_unit / unit for dual, (unit, _) in priced]


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
