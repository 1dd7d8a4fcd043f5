"""Costs, limits and allowed candidates of all units, in exact integers."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ribs.select.ilp import Costs, check_feasible
from ribs.select.knapsack import within
from ribs.select.race import Program
from ribs.select.samples import Choice, Samples


class Problem:
    """Costs, limits and allowed candidates of all units."""

    def __init__(self, costs: Costs, limits: Sequence[int], allowed: ArrayLike | None) -> None:
        self.limits = tuple(operator.index(limit) for limit in limits)
        self.costs = [[tuple(operator.index(cost) for cost in entry) for entry in row] for row in costs]
        self.units = len(self.costs)
        check_feasible(self.costs, self.limits, allowed)
        everything = np.ones([self.units, len(self.costs[0])], dtype=bool)
        self.allowed = everything if allowed is None else everything & np.asarray(allowed, dtype=bool)

    def check(self, start: Sequence[int], update_sizes: Sequence[int]) -> Choice:
        """The start as a tuple."""
        choice = tuple(operator.index(k) for k in start)
        options = [np.flatnonzero(row).tolist() for row in self.allowed]
        if len(choice) != self.units or not all(map(operator.contains, options, choice)):
            raise ValueError(f"[search] the start {choice} is not an allowed candidate of each unit: {options}")
        if not update_sizes or min(update_sizes) < 1:
            raise ValueError(f"[search] update sizes {list(update_sizes)}; give at least one, each at least 1")
        if update_sizes[0] < self.units and not self.fits(choice):
            raise ValueError(
                f"[search] the start costs {self.costs_of(choice)}, over {self.limits}; the first update "
                f"size must then be all {self.units} units, not {update_sizes[0]}"
            )
        return choice

    def costs_of(self, choice: Choice) -> tuple[int, ...]:
        return costs_of(self.costs, choice)

    def fits(self, choice: Choice) -> bool:
        return within(self.costs_of(choice), self.limits)

    def check_finite(self, start: Choice, samples: Samples) -> None:
        if not math.isfinite(loss := samples.mean(start)):
            raise FloatingPointError(f"[search] the loss of the start {start} is {loss}")

    def program(self, reference: Choice, selected: tuple[int, ...]) -> Program:
        """What the selected units may take, the others staying as in the reference."""
        # The budget is for all units: what those that stay cost is not there to be spent.
        stay = [self.costs[unit][k] for unit, k in enumerate(reference) if unit not in selected]
        left = tuple(limit - sum(cost[c] for cost in stay) for c, limit in enumerate(self.limits))
        return Program(reference, selected, [self.costs[unit] for unit in selected], left, self.allowed[list(selected)])

    def known(self, samples: Samples) -> list[Choice]:
        """All configurations within the budgets that were measured, of finite loss so far."""
        finite = [choice for choice in samples.choices if self.usable(choice, samples)]
        if not finite:
            within = [choice for choice in samples.choices if self.fits(choice)]
            raise FloatingPointError(f"[search] no loss measured within the budgets is finite: {within}")
        return finite

    def usable(self, choice: Choice, samples: Samples) -> bool:
        return self.fits(choice) and math.isfinite(samples.mean(choice))

    def fallback(self, reference: Choice, samples: Samples) -> Choice:
        """The reference after a solution of non-finite loss: the same, or the best if that will not do."""
        if self.usable(reference, samples):
            return reference
        return self.best({choice: samples.mean(choice) for choice in self.known(samples)})

    def best(self, losses: dict[Choice, float]) -> Choice:
        return min(losses, key=lambda choice: (losses[choice], self.costs_of(choice), choice))


def costs_of(costs: Costs, choice: Sequence[int]) -> tuple[int, ...]:
    """The exact total costs of a configuration, one for each budget."""
    return tuple(map(sum, zip(*(costs[i][k] for i, k in enumerate(choice)), strict=True)))
