"""The error classes of ribs."""

from __future__ import annotations

from collections.abc import Sequence


class InfeasibleBudgetError(ValueError):
    """No configuration keeps within the budget.

    least: the least reachable cost of each budget, each taken alone.
    limits: the upper bounds asked for. Each may be above `least`: then the two together are out of reach.
    """

    def __init__(self, message: str, *, least: Sequence[int] = (), limits: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.least = tuple(least)
        self.limits = tuple(limits)

    def __reduce__(self) -> tuple[object, ...]:
        # Without this, an error that crosses a process boundary would lose its numbers.
        return _rebuild, (self.args[0], self.least, self.limits)


class JournalError(OSError):
    """The journal of a search cannot be used or written; the message names the path and says what to do."""


def _rebuild(message: str, least: Sequence[int], limits: Sequence[int]) -> InfeasibleBudgetError:
    return InfeasibleBudgetError(message, least=least, limits=limits)
