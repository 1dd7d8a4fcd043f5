"""The configuration that exceeds limits that cannot be kept by the least."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from ribs.select.errors import InfeasibleBudgetError
from ribs.select.ilp import Costs, find_feasible

# Nearer than this it is a puzzle of digits, which takes minutes and tells nobody anything.
PRECISION = Fraction(1, 10**4)


def nearest(
    costs: Costs, limits: Sequence[int], scales: Sequence[int], allowed: ArrayLike | None = None
) -> tuple[int, ...]:
    """The configuration whose largest (cost - limit) / scale is least, to within PRECISION.

    costs, limits, allowed: as for `ribs.select.ilp.solve`.
    scales: what an excess in each budget is measured by, positive.
    """
    table = [[tuple(map(operator.index, entry)) for entry in row] for row in costs]
    mask = np.ones([len(table), len(table[0])], dtype=bool) if allowed is None else np.asarray(allowed, dtype=bool)
    options = [[row[k] for k in np.flatnonzero(usable)] for row, usable in zip(table, mask, strict=True)]

    def excess(spent: Sequence[int]) -> Fraction:
        over = map(operator.sub, spent, limits)
        return max(Fraction(more, scale) for more, scale in zip(over, scales, strict=True))

    def feasible(room: Sequence[int]) -> tuple[tuple[int, ...], Fraction] | None:
        try:
            choice = find_feasible(table, room, mask)
        except InfeasibleBudgetError:
            return None
        return choice, excess(
            [sum(column) for column in zip(*(table[i][k] for i, k in enumerate(choice)), strict=True)]
        )

    def within(most: Fraction) -> list[int]:
        return [limit + math.floor(most * scale) for limit, scale in zip(limits, scales, strict=True)]

    # No configuration can do better than each budget alone; where one does as well, it is found at once.
    alone = [sum(min(entry[c] for entry in row) for row in options) for c in range(len(limits))]
    low = excess(alone)
    if found := feasible(within(low)):
        return found[0]
    widest = [sum(max(entry[c] for entry in row) for row in options) for c in range(len(limits))]
    found = feasible(widest)
    assert found is not None
    while (high := found[1]) - low > PRECISION:
        middle = (low + high) / 2
        if better := feasible(within(middle)):
            found = better
        else:
            low = middle
    return found[0]
