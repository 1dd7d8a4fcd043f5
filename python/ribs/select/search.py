"""Algorithm 1 over plain callables and arrays: repeated integer linear programs around a moving reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ribs.select.ilp import Costs
from ribs.select.problem import Problem
from ribs.select.race import Race, contest, profile
from ribs.select.samples import Choice, Measure, Samples

LEAST = 4  # a race never needs to see more than a quarter of the samples


@dataclass(frozen=True)
class Iteration:
    """What one integer linear program was given and what came of it.

    selected: the units whose candidates were profiled, rising.
    deltas: [len(selected), K] measured (in an adaptive search, estimated) changes of the loss; 0 for the reference's
        own candidates, NaN for those not allowed, and NaN, inf or -inf for those that were excluded.
    standard_errors: [len(selected), K] of the deltas, which are of the same samples with and without the change;
        NaN where fewer than two samples were seen.
    samples: [len(selected), K] how many samples each candidate saw.
    standing: [len(selected), K] bool, the candidates that the program was given: neither excluded nor raced out.
    choice: the configuration found, a candidate index for each unit.
    predicted: the loss of the reference plus the objective of the program.
    loss, standard_error: the measured loss of `choice`; in a race, on the samples that the iteration saw, where one
        that left early is compared with the reference on those that both saw. Where it is not finite, `choice` did
        not become the reference.
    costs: the exact costs of `choice`, one for each budget.
    gaps: `Solution.gap` of each program that was solved: all of them, where an iteration solves several.
    """

    selected: tuple[int, ...]
    deltas: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    samples: NDArray[np.int64]
    standing: NDArray[np.bool_]
    choice: Choice
    predicted: float
    loss: float
    standard_error: float
    costs: tuple[int, ...]
    gaps: tuple[float, ...]

    @property
    def interaction_error(self) -> float:
        """What was measured less what was predicted: what losses do not just add up."""
        return self.loss - self.predicted


@dataclass(frozen=True)
class Trace:
    """A whole search.

    start_loss: loss of the configuration it started from; in a race, on the samples that it saw.
    iterations: in order.
    best_choice: of all configurations within the budgets whose loss was measured, probes of a single unit
        included, the one of least loss; of equals the one of least cost, then the lexicographically first. In a
        race, of those that could not be told from it before all samples were measured.
    best_loss, best_standard_error, best_costs: its loss over all samples, the error of that mean, its exact costs.
    finalists: the loss over all samples of `best_choice` and of the configurations measured on all with it.
    evaluations: how many losses were measured, the start, the probes and the configurations found together, each
        as the share of the samples that it was measured on.
    stopped: whether `stop` ended the search early.
    """

    start_loss: float
    iterations: tuple[Iteration, ...]
    best_choice: Choice
    best_loss: float
    best_standard_error: float
    best_costs: tuple[int, ...]
    finalists: dict[Choice, float]
    evaluations: float
    stopped: bool


def repeated_ilp(
    start: Sequence[int],
    costs: Costs,
    limits: Sequence[int],
    *,
    measure: Measure,
    shards: Sequence[int],
    update_sizes: Sequence[int],
    race: Race | None = None,
    allowed: ArrayLike | None = None,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    at_a_time: int | None = None,
    sizes: ArrayLike | None = None,
    on_iteration: Callable[[Iteration], None] = lambda iteration: None,
) -> Trace:
    """Search the configuration of least loss within the budgets by repeated ILP (RIBS, Algorithm 1).

    start: N candidate indices, the first reference b0. It may be over the budgets if `update_sizes[0]` is N.
    costs: [N, K, C] integers, one for each of C budgets.
    limits: C integers, upper bounds of the total costs.
    measure: f(choices, shard) -> [len(choices), samples of that shard] losses. Asked for a reference, first in the
        list, with all its changes of a single unit, or for one configuration; never again for a loss it has
        returned, except that of a reference.
    shards: how many samples each shard of the calibration set has. L(b) is the mean over all of them, in order.
    update_sizes: the number of units changed in each iteration (the paper's M); N or more is all.
    race: when candidates stop being measured; by default all are measured on all samples. In a race the configuration
        found is also the best measured one of the solution and of those that change fewer units; and the reference
        stays, if within the budgets, where what was found is worse on the samples seen. Later races then see more
        samples before they end, up to a quarter of all.
    allowed: [N, K] bool; all by default.
    seed: of the random choice of units.
    stop: asked between shards. Once it is true the present iteration makes do with the shards it has, at least one,
        and is the last; only the configurations found are still measured on all.
    at_a_time: how many candidates are measured between two looks at `stop`, once the reference is within the budgets;
        the iteration then makes do with the candidates measured so far. By default those of a shard are never divided.
    sizes: [samples] by which the samples are in order (`ribs.select.sampling`); by default they are alike.
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
    problem = Problem(costs, limits, allowed)
    reference = problem.check(start, update_sizes)
    first, samples = reference, Samples(measure, shards, at_a_time, sizes)
    samples.ask([first], 0)
    generator, iterations, stopped = np.random.default_rng(seed), list[Iteration](), False
    least = 2 * race.first if race is not None else samples.total
    for size in update_sizes:
        if stopped:
            break
        problem.check_finite(first, samples)
        selected = _select(generator, problem.units, size)
        found = profile(samples, problem.program(reference, selected), race, least, stop)
        problem.check_finite(first, samples)
        choice, stopped, base = next(iter(found.answers)), found.stopped, samples.mean(reference)
        stays = race is not None and problem.usable(reference, samples)
        if race is not None:
            finite = [answer for answer in found.answers if math.isfinite(samples.mean(answer))]
            choice = min(finite, key=samples.mean, default=choice)
            stays = stays and samples.worse(choice, reference)
        predicted, loss = base + found.answers[choice], samples.mean(choice)
        iterations.append(
            Iteration(
                selected=selected,
                deltas=found.deltas,
                standard_errors=found.standard_errors,
                samples=found.samples,
                standing=found.standing,
                choice=choice,
                predicted=predicted,
                loss=loss,
                standard_error=samples.standard_error(choice),
                costs=problem.costs_of(choice),
                gaps=found.gaps,
            )
        )
        on_iteration(iterations[-1])
        # In a race a step up is more often an error of the few samples than a way to somewhere better. Taken, the
        # errors would add up from one iteration to the next; instead, the next one sees more samples.
        if stays:
            least = max(least, min(2 * least, samples.total // LEAST))
        elif math.isfinite(loss):
            reference = choice
        else:
            reference = problem.fallback(reference, samples)
    return finish(problem, samples, first, iterations, stopped, problem.known(samples))


def finish(
    problem: Problem,
    samples: Samples,
    first: Choice,
    iterations: Sequence[Iteration],
    stopped: bool,
    known: list[Choice],
) -> Trace:
    """The best of some configurations, on all samples.

    first: what the search started from.  known: those configurations, measured and within the budgets.
    """
    if not all(map(samples.complete, known)):
        known = contest(samples, known, samples.total)
    finalists = {choice: samples.mean(choice) for choice in known}
    best = problem.best(finalists)
    return Trace(
        start_loss=samples.mean(first),
        iterations=tuple(iterations),
        best_choice=best,
        best_loss=finalists[best],
        best_standard_error=samples.standard_error(best),
        best_costs=problem.costs_of(best),
        finalists=finalists,
        evaluations=samples.counted / samples.total,
        stopped=stopped,
    )


def _select(generator: np.random.Generator, units: int, size: int) -> tuple[int, ...]:
    if size >= units:
        return tuple(range(units))
    return tuple(sorted(generator.choice(units, size, replace=False).tolist()))
