"""The error classes of ribs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class InfeasibleBudgetError(ValueError):
    """No configuration keeps within the budget.

    least: the least reachable cost of each budget, each taken alone.
    limits: the upper bounds asked for. Each may be above `least`: then all together are out of reach.
    nearest: {unit: (weight bits, activation bits)} of the configuration whose largest excess over a bound, as a share
        of that bound, is least (to within 1e-4); None where only the program is known.
    nearest_budget: the `Budget` asked for, its broken bounds moved to exactly what `nearest` costs.
    """

    def __init__(
        self,
        message: str,
        *,
        least: Sequence[int] = (),
        limits: Sequence[int] = (),
        nearest: Any = None,
        nearest_budget: Any = None,
    ) -> None:
        super().__init__(message)
        self.least = tuple(least)
        self.limits = tuple(limits)
        self.nearest = nearest
        self.nearest_budget = nearest_budget

    def __reduce__(self) -> tuple[object, ...]:
        # Without this, an error that crosses a process boundary would lose its numbers.
        return _rebuild, (self.args[0], self.least, self.limits, self.nearest, self.nearest_budget)


class JournalError(OSError):
    """The journal of a search cannot be used or written; the message names the path and says what to do."""


def _rebuild(
    message: str, least: Sequence[int], limits: Sequence[int], nearest: Any, nearest_budget: Any
) -> InfeasibleBudgetError:
    return InfeasibleBudgetError(message, least=least, limits=limits, nearest=nearest, nearest_budget=nearest_budget)
