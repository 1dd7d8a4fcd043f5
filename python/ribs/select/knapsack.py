"""A multiple-choice knapsack in exact integers: proof that a configuration is the best within its budgets."""

from __future__ import annotations

import math
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

MOST_STATES = 1_000_000  # of two budgets, fewer of more: a few seconds and a few hundred MB


class Option(NamedTuple):
    """A candidate of a unit: its cost in each budget, its value (a delta loss, as an integer), its index."""

    costs: tuple[int, ...]
    value: int
    candidate: int


Units = Sequence[Sequence[Option]]
# Costs, value, rank, excess. The rank holds the choices as digits, first unit first: it orders as they do.
_State = tuple[tuple[int, ...], int, int, int]


def prove(
    units: Units,
    room: tuple[int, ...],
    incumbent: Sequence[Option],
    prices: Sequence[Fraction],
    most: int | None = None,
) -> list[Option] | None:
    """Find the best configuration, given a good one, by dynamic programming over what can still beat it.

    units: costs and values are not negative.
    room: upper bounds of the total costs.
    incumbent: an option of each unit, within the room. The better it is, the fewer states there are.
    prices: of each budget, in value per cost, not negative. The answer does not depend on them, the work
        does.
    most: partial configurations, at most and by default MOST_STATES.

    With the room of each budget sold at its price, the sum of every unit's least (value + price * cost), less
    what the room is worth, bounds the total value from below (Lagrange). A partial configuration that exceeds
    these least sums by more than the distance of that bound to the incumbent cannot become as good as it.

    Returns: the configuration of least value; of equals, of least costs, first budget first; of equals, the
        lexicographically first. None when there are too many partial configurations.
    """
    scale = math.lcm(*(price.denominator for price in prices))
    weights = [int(price * scale) for price in prices]
    paid = [[scale * option.value + _dot(weights, option.costs) for option in unit] for unit in units]
    floors = [min(unit) for unit in paid]
    gap = scale * total_value(incumbent) + _dot(weights, room) - sum(floors)
    base = 1 + max(option.candidate for unit in units for option in unit)
    digits = [base ** (len(units) - 1 - i) for i in range(len(units))]
    stages: list[list[_State]] = []
    for unit, digit, price, floor in zip(units, digits, paid, floors, strict=True):
        states = [(o.costs, o.value, o.candidate * digit, p - floor) for o, p in zip(unit, price, strict=True)]
        stages.append([state for state in states if state[3] <= gap])
    reached: list[_State] = [((0,) * len(room), 0, 0, 0)]
    # Units left with one option come first, where they add no states.
    # The more budgets, the fewer states are dominated, and the less there is to hope for.
    most = (MOST_STATES if most is None else min(most, MOST_STATES)) * 8 // max(2, len(room)) ** 3
    for stage in sorted(stages, key=len):
        grown = list(islice(_extend(reached, stage, room, gap), most + 1))
        if len(grown) > most:
            return None
        reached = undominated(grown)
    rank = min(reached, key=operator.itemgetter(1, 0, 2))[2]
    choice = [rank // digit % base for digit in digits]
    return [next(o for o in unit if o.candidate == k) for unit, k in zip(units, choice, strict=True)]


def _extend(reached: list[_State], stage: list[_State], room: tuple[int, ...], gap: int) -> Iterator[_State]:
    return (
        (spent, value + loss, rank + step, excess + more)
        for costs, value, rank, excess in reached
        for extra, loss, step, more in stage
        if excess + more <= gap and within(spent := tuple(map(operator.add, costs, extra)), room)
    )


def undominated(states: Iterable[_State]) -> list[_State]:
    """Those for which no other is as good in value and in every cost; of equals, the one of lowest rank.

    Complete for one and two budgets; with more, some dominated states stay.
    """
    kept: list[_State] = []
    group: tuple[int, ...] | None = None
    costs: list[int] = []  # of the last budget, rising, and the values reached at them, falling
    values: list[int] = []
    for state in sorted(states):
        if state[0][:-2] != group:
            group, costs, values = state[0][:-2], [], []
        cost, value = state[0][-1], state[1]
        end = bisect_right(costs, cost)
        if end and values[end - 1] <= value:
            continue
        kept.append(state)
        start = bisect_left(costs, cost)
        while end < len(values) and values[end] >= value:
            end += 1
        costs[start:end], values[start:end] = [cost], [value]
    return kept


def within(costs: Iterable[int], limits: Iterable[int]) -> bool:
    """Whether every cost keeps within its limit."""
    return all(map(operator.le, costs, limits))


def total_cost(options: Iterable[Option]) -> tuple[int, ...]:
    """The total cost in each budget."""
    return tuple(map(sum, zip(*(option.costs for option in options), strict=True)))


def total_value(options: Iterable[Option]) -> int:
    """The total value."""
    return sum(option.value for option in options)


def largest_value(units: Units) -> int:
    """The largest value of an option."""
    return max(option.value for unit in units for option in unit)


def _dot(a: Iterable[int], b: Iterable[int]) -> int:
    return sum(map(operator.mul, a, b))
