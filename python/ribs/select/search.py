"""Algorithm 1 over plain callables and arrays: repeated integer linear programs around a moving reference."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ribs.select.ilp import Costs, check_feasible, solve

Choice = tuple[int, ...]
Profile = Callable[[Choice, Choice], ArrayLike]


@dataclass(frozen=True)
class Iteration:
    """What one integer linear program was given and what came of it.

    selected: the units whose candidates were profiled, rising.
    deltas: [len(selected), K] measured changes of the loss; 0 for the reference's own candidates, and NaN,
        inf or -inf for those that were excluded.
    choice: the configuration found, a candidate index for each unit.
    predicted: the loss of the reference plus the objective of the program.
    loss: the measured loss of `choice`. Where it is not finite, `choice` did not become
        the reference.
    costs: the exact costs of `choice`, one for each budget.
    """

    selected: tuple[int, ...]
    deltas: NDArray[np.float64]
    choice: Choice
    predicted: float
    loss: float
    costs: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """A whole search.

    start_loss: loss of the configuration it started from.
    iterations: in order.
    best_choice: of all configurations within the budgets whose loss was measured, probes of a single unit
        included, the one of least loss; of equals the one of least cost, then the lexicographically first.
    best_loss, best_costs: its measured loss and exact costs.
    evaluations: how many losses were measured, the start, the probes and the configurations found together.
    """

    start_loss: float
    iterations: tuple[Iteration, ...]
    best_choice: Choice
    best_loss: float
    best_costs: tuple[int, ...]
    evaluations: int


def repeated_ilp(
    start: Sequence[int],
    costs: Costs,
    limits: Sequence[int],
    *,
    profile: Profile,
    evaluate: Callable[[Choice], float],
    update_sizes: Sequence[int],
    allowed: ArrayLike | None = None,
    seed: int = 0,
    on_iteration: Callable[[Iteration], None] | None = None,
) -> Trace:
    """Search the configuration of least loss within the budgets by repeated ILP (RIBS, Algorithm 1).

    start: N candidate indices, the first reference b0. It may be over the budgets if `update_sizes[0]` is N.
    costs: [N, K, C] integers, one for each of C budgets.
    limits: C integers, upper bounds of the total costs.
    profile: f(reference, selected) -> [len(selected), K] losses L(b) of the reference with unit i at
        candidate k. Entries of the reference's own candidates and of candidates that are not allowed are not
        read.
    evaluate: f(choice) -> L(b), not called for configurations whose loss is known.
    update_sizes: the number of units changed in each iteration (the paper's M); N or more is all.
    allowed: [N, K] bool; all by default.
    seed: of the random choice of units.
    on_iteration: told of every iteration after it is done.

    Each program is over the selected units, with the budgets less what the other units cost, and with every
    unit's present candidate at a delta of 0; so that from the first on every reference is within the budgets.
    Candidates of non-finite loss are excluded; a configuration of non-finite loss never becomes the
    reference.

    Raises: before anything is measured, InfeasibleBudgetError when nothing is within the budgets and
        ValueError for bad arguments; FloatingPointError when the loss of the start is not finite, or none
        measured within the budgets is; InfeasibleBudgetError when only excluded candidates would be within
        the budgets.
    """
    problem = _Problem(costs, limits, allowed)
    reference = problem.check(start, update_sizes)
    loss = float(evaluate(reference))
    if not math.isfinite(loss):
        raise FloatingPointError(f"[search] the loss of the start {reference} is {loss}")
    start_loss, measured, evaluations = loss, {reference: loss}, 1
    generator, iterations = np.random.default_rng(seed), []
    for size in update_sizes:
        selected = _select(generator, problem.units, size)
        losses = np.array(profile(reference, selected), dtype=np.float64)
        deltas, probes = problem.deltas(reference, loss, selected, losses)
        evaluations += len(probes)
        measured = probes | measured
        choice, objective = problem.improve(reference, selected, deltas)
        if choice not in measured:
            measured[choice] = float(evaluate(choice))
            evaluations += 1
        iterations.append(
            Iteration(selected, deltas, choice, loss + objective, measured[choice], problem.costs_of(choice))
        )
        if on_iteration is not None:
            on_iteration(iterations[-1])
        reference = choice if math.isfinite(measured[choice]) else problem.fallback(reference, measured)
        loss = measured[reference]
    best = problem.best(measured)
    return Trace(start_loss, tuple(iterations), best, measured[best], problem.costs_of(best), evaluations)


def _select(generator: np.random.Generator, units: int, size: int) -> tuple[int, ...]:
    if size >= units:
        return tuple(range(units))
    return tuple(sorted(generator.choice(units, size, replace=False).tolist()))


class _Problem:
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
        return tuple(sum(self.costs[i][k][c] for i, k in enumerate(choice)) for c in range(len(self.limits)))

    def fits(self, choice: Choice) -> bool:
        return all(map(operator.le, self.costs_of(choice), self.limits))

    def deltas(
        self, reference: Choice, loss: float, selected: tuple[int, ...], losses: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], dict[Choice, float]]:
        """[len(selected), K] delta losses, NaN where not allowed, and the loss of each probe."""
        expected = len(selected), self.allowed.shape[1]
        if losses.shape != expected:
            raise ValueError(f"[search] the profile has shape {losses.shape}, not {expected}")
        probes = {}
        for row, unit in enumerate(selected):
            losses[row, ~self.allowed[unit]] = np.nan
            losses[row, reference[unit]] = loss
            for k in np.flatnonzero(self.allowed[unit]).tolist():
                if k != reference[unit]:
                    probe = (*reference[:unit], k, *reference[unit + 1 :])
                    probes[probe] = float(losses[row, k])
        return losses - loss, probes

    def improve(
        self, reference: Choice, selected: tuple[int, ...], deltas: NDArray[np.float64]
    ) -> tuple[Choice, float]:
        """The solution of the integer linear program over the selected units, and its objective."""
        costs = [self.costs[unit] for unit in selected]
        freed = [costs[row][reference[unit]] for row, unit in enumerate(selected)]
        # The budget is for all units: what those that stay cost is not there to be spent.
        left = [
            limit - spent + sum(cost[c] for cost in freed)
            for c, (limit, spent) in enumerate(zip(self.limits, self.costs_of(reference), strict=True))
        ]
        solution = solve(deltas, costs, left)
        changed = dict(zip(selected, solution.choice, strict=True))
        return tuple(changed.get(unit, k) for unit, k in enumerate(reference)), solution.objective

    def fallback(self, reference: Choice, measured: dict[Choice, float]) -> Choice:
        """The reference after a solution of non-finite loss: the same, or the best if it costs too much."""
        return reference if self.fits(reference) else self.best(measured)

    def best(self, measured: dict[Choice, float]) -> Choice:
        known = [choice for choice, loss in measured.items() if math.isfinite(loss) and self.fits(choice)]
        if not known:
            within = [choice for choice in measured if self.fits(choice)]
            raise FloatingPointError(f"[search] no loss measured within the budgets is finite: {within}")
        return min(known, key=lambda choice: (measured[choice], self.costs_of(choice), choice))
