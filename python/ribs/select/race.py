"""Racing: candidates that can no longer enter the solution stop being measured, the others see more samples.

After a round every delta loss is a mean over the samples so far, and its error is that of a mean. What this error may
do to the solution is played through: the samples are drawn again with other weights, a few hundred times, and each
time the program is solved with the budgets relaxed (Lagrange). A candidate whose reduced cost is within the gap of
these relaxed solutions in hardly any of the draws is out of the race. The race ends when, over the draws, the present
solution is on average hardly worse than each draw's own, or than its predicted loss is off the measured one anyway.
Everything is deterministic: the draws have a seed of their own.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ribs.select.ilp import Solution, solve
from ribs.select.samples import Choice, Samples
from ribs.select.sampling import Sampling

DRAWS = 200
HALVINGS = 50  # from a price that is a million times too high down to a billionth of the losses
Z = 2.0  # standard errors beyond which one configuration is told from another
PASSES = 2  # of all samples, that a round of a contest may cost


def shards_with(samples: int, ends: Sequence[int]) -> int:
    """How many shards it takes for so many samples, or all.  ends: the samples up to each shard's end."""
    return next((n for n, end in enumerate(ends, 1) if end >= samples), len(ends))


@dataclass(frozen=True)
class Race:
    """When a race decides.

    risk: candidates leave that may be in the solution in less than this share of the draws.
    tolerance: the expected regret at which a race ends, in standard errors of a mean loss over all samples.
    first: how many samples all candidates see, at least, before the first leave.

    Of the candidates raced out, a share of at most about `risk` is in the solution for all samples, but this is an
    estimate, not a guarantee: where few samples carry most of the loss, the draws cannot know of those not yet seen,
    and the regret has been seen to be up to three times what was expected.
    """

    risk: float = 0.05
    tolerance: float = 0.1
    first: int = 16

    def rounds(self, ends: Sequence[int], least: int = 0) -> list[int]:
        """Numbers of shards after which to decide, doubling, up to all.

        ends: the samples up to each shard's end.  least: samples before the first decision, where more than `first`.
        """
        count = shards_with(max(self.first, least), ends)
        counts = []
        while count < len(ends):
            counts.append(count)
            count *= 2
        return [*counts, len(ends)]


@dataclass(frozen=True)
class Program:
    """The changes of a reference among which to choose.

    selected: the S units that may change. costs: [S][K][C]. left: [C], what is left of the budgets for them.
    allowed: [S, K] bool.
    """

    reference: Choice
    selected: tuple[int, ...]
    costs: list[list[tuple[int, ...]]]
    left: tuple[int, ...]
    allowed: NDArray[np.bool_]

    @property
    def own(self) -> list[int]:
        """The candidates of the reference."""
        return [self.reference[unit] for unit in self.selected]

    @property
    def reference_fits(self) -> bool:
        """Whether the reference is within the budgets."""
        own = list(enumerate(self.own))
        return all(sum(self.costs[row][k][c] for row, k in own) <= left for c, left in enumerate(self.left))

    def probe(self, row: int, k: int) -> Choice:
        unit = self.selected[row]
        return (*self.reference[:unit], k, *self.reference[unit + 1 :])

    def changed(self, candidates: Sequence[int]) -> Choice:
        """The reference with a candidate for each selected unit."""
        new = dict(zip(self.selected, candidates, strict=True))
        return tuple(new.get(unit, k) for unit, k in enumerate(self.reference))


@dataclass(frozen=True)
class Profile:
    """Delta losses of the candidates around a reference, and the best combination of them.

    deltas: [S, K] over the samples that a candidate saw; NaN where not allowed, not finite where excluded.
    standard_errors: [S, K] of the paired deltas; NaN where fewer than two samples were seen.
    samples: [S, K] how many samples each candidate saw.
    standing: [S, K] bool, the candidates of the program: neither excluded nor raced out.
    answers: its solution and, in a race, those of smaller steps, each with the sum of its deltas; measured on as many
        shards as were seen.
    stopped: whether `stop` ended it.
    gaps: `Solution.gap` of each program that was solved, in order.
    """

    deltas: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    samples: NDArray[np.int64]
    standing: NDArray[np.bool_]
    answers: dict[Choice, float]
    stopped: bool
    gaps: tuple[float, ...]


def profile(samples: Samples, program: Program, race: Race | None, least: int, stop: Callable[[], bool]) -> Profile:
    """Measure the candidates around a reference and solve the program: on all samples, or in a race.

    program: its reference has a finite loss on the first shard.
    least: samples before which a race does not end as long as there is something to choose.
    stop: asked after every shard but the last, and, once the reference is within the budgets, after every
        `samples.at_a_time` candidates; the answer is then that of what was measured so far.

    Raises: as `solve`.
    """
    reference, standing = program.reference, program.allowed.copy()
    seen, own = np.zeros(standing.shape, dtype=np.int64), program.own
    done, ended, stopped, gaps = 0, False, False, list[float]()
    counts = [len(samples.shards)] if race is None else race.rounds(samples.ends)
    for count in counts:
        while done < count and not ended:
            # Of a unit with one candidate left, nothing more need be known.
            live = [(row, k) for row, k in np.argwhere(standing).tolist() if standing[row].sum() > 1]
            probes = [program.probe(row, k) for row, k in live]
            cut = samples.ask_until(stop if program.reference_fits else _never, reference, probes, done)
            if not math.isfinite(samples.mean(reference)):
                ended = True  # There are no deltas on this shard; those of the shards before stay.
                break
            done += 1
            seen[range(len(own)), own] = samples.ends[done - 1]
            for (row, k), probe in zip(live, probes, strict=True):
                seen[row, k] = samples.ends[min(samples.shards_of(probe), done) - 1] if samples.shards_of(probe) else 0
                standing[row, k] = samples.shards_of(probe) >= done and math.isfinite(samples.mean(probe))
            ended = stopped = cut or ((done < len(samples.shards) or samples.at_a_time is not None) and stop())
        deltas, errors = _summary(samples, program, seen)
        solution = solve(deltas, program.costs, program.left, standing)
        gaps.append(solution.gap)
        choice = program.changed(solution.choice)
        for shard in range(done):
            samples.ask([choice], shard)
        rows = np.flatnonzero(standing.sum(axis=1) > 1)
        if race is None or ended or done == len(samples.shards) or not rows.size:
            break
        chances, regret = _outlook(samples, program, standing, rows, solution.choice, done)
        losses = samples.of(choice, done)
        noise = samples.sampling.standard_error(losses) * math.sqrt(len(losses) / samples.total)
        # What the program leaves out, that losses do not just add up, more samples would not mend.
        misfit = abs(samples.mean(choice, done) - samples.mean(reference, done) - solution.objective)
        if samples.ends[done - 1] >= least and regret <= max(race.tolerance * noise, misfit):
            break
        standing[rows] &= chances >= race.risk
    answers = {choice: solution.objective}
    for smaller in _smaller_steps(program, deltas, standing, choice) if race is not None else ():
        shorter = program.changed(smaller.choice)
        answers.setdefault(shorter, smaller.objective)
        gaps.append(smaller.gap)
        for shard in range(done):
            samples.ask([shorter], shard)
    return Profile(deltas, errors, seen, standing, answers, stopped, tuple(gaps))


def _smaller_steps(
    program: Program, deltas: NDArray[np.float64], standing: NDArray[np.bool_], choice: Choice
) -> Iterator[Solution]:
    """The best combinations that change half as many units as a solution does, a quarter, and so on to one.

    What losses do not just add up grows with the number of changes, so that a smaller step may go further down. None
    where the reference is over a budget.
    """
    if not program.reference_fits:
        return
    own = program.own
    # One more budget: a change costs 1 of it.
    costs = [[(*cost, int(k != own[row])) for k, cost in enumerate(costs)] for row, costs in enumerate(program.costs)]
    allowed = standing.copy()
    allowed[range(len(own)), own] = True
    changes = sum(map(operator.ne, choice, program.reference)) // 2
    while changes > 0:
        yield solve(deltas, costs, (*program.left, changes), allowed)
        changes //= 2


def _never() -> bool:
    return False


def contest(samples: Samples, choices: list[Choice], upto: int) -> list[Choice]:
    """Compare configurations on ever more samples, each time about twice as many; those that are worse drop out.

    Out are those more than Z standard errors behind the best, of the difference on the same samples, and of the others
    those past the best PASSES * (all samples) / (samples so far): no round costs more than as many passes.

    choices: of finite losses so far.
    upto: how many samples to go on to, at least.
    Returns: those that stayed, best first, each of finite losses on that many samples.
    Raises: FloatingPointError when there is none.
    """
    pool = choices
    count = min(map(samples.shards_of, pool), default=0)
    while pool:
        for choice in pool:
            for shard in range(count):
                samples.ask([choice], shard)
        if not all(math.isfinite(samples.mean(choice)) for choice in pool):
            # It may have been the one that others dropped out against.
            return contest(samples, [choice for choice in choices if math.isfinite(samples.mean(choice))], upto)
        seen = samples.ends[count - 1]
        pool = sorted(pool, key=lambda choice: samples.mean(choice, count))
        if count < len(samples.shards):  # on all samples nothing is left to chance, and all are compared
            pool = [choice for choice in pool if not samples.worse(choice, pool[0], Z)]
        pool = pool[: max(1, PASSES * samples.total // seen)]
        if seen >= upto:
            return pool
        count = min(2 * count, len(samples.shards))
    raise FloatingPointError("[search] no loss measured within the budgets is finite")


def _summary(
    samples: Samples, program: Program, seen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[S, K] deltas and their standard errors, each from the first samples, as many as the candidate saw."""
    deltas, errors = np.full((2, *seen.shape), np.nan)
    for (row, k), count in np.ndenumerate(seen):
        if count:
            shards = samples.ends.index(count) + 1
            probe, reference = program.probe(row, k), program.reference
            deltas[row, k] = samples.mean(probe, shards) - samples.mean(reference, shards)
            errors[row, k] = samples.sampling.standard_error(samples.differences(probe, reference, shards))
    return deltas, errors


def _outlook(
    samples: Samples,
    program: Program,
    standing: NDArray[np.bool_],
    rows: NDArray[np.int64],
    choice: Sequence[int],
    shards: int,
) -> tuple[NDArray[np.float64], float]:
    """The outlook of the rows still open; the others only take their share of the budgets."""
    count = samples.ends[shards - 1]
    paired = np.full((count, *standing[rows].shape), np.nan)
    for index, row in enumerate(rows.tolist()):
        for k in np.flatnonzero(standing[row]).tolist():
            paired[:, index, k] = samples.differences(program.probe(row, k), program.reference, shards)
    costs = np.array(program.costs, dtype=np.float64)
    chosen = np.array(choice)
    decided = np.setdiff1d(np.arange(len(chosen)), rows)
    room = np.array(program.left, dtype=np.float64) - costs[decided, chosen[decided]].sum(axis=0)
    return outlook(paired, chosen[rows], costs[rows], room, samples.sampling)


def outlook(
    paired: NDArray[np.float64],
    choice: NDArray[np.int64],
    costs: NDArray[np.float64],
    room: NDArray[np.float64],
    sampling: Sampling,
) -> tuple[NDArray[np.float64], float]:
    """What the error of the means may do to a solution.

    paired: [m, U, K] delta losses of each sample so far, NaN for candidates that are out.
    choice: [U] the solution for their means.
    costs: [U, K, C]; room: [C] the budgets.
    sampling: which of all samples the m are.

    Returns: [U, K] the share of the draws in which a candidate may be in the solution, 1 for those of `choice`;
        how much worse `choice` is than the best configuration, on average over the draws.
    """
    seen, rows = len(paired), np.arange(len(choice))
    if seen < 2:
        return np.ones(paired.shape[1:]), math.inf
    inside = ~np.isnan(paired[0])
    weights = np.random.default_rng(0).dirichlet(np.ones(seen), DRAWS)
    # A mean is a sum of parts, of which those are uncertain that need not be among these samples. A draw's variance is
    # that of `Sampling.error_left`: with weights of variance (m - 1) / (m^2 (m + 1)), for m parts.
    chances = sampling.chances(seen)[:, None, None]
    parts, left = paired / (sampling.total * chances), 1 - chances
    mean, middle = parts.sum(axis=0), (left * parts).sum(axis=0) / left.sum()
    spread = seen * np.sqrt(left * (seen + 1) / (seen - 1))
    drawn = mean + np.tensordot(weights - 1 / seen, spread * (parts - middle), axes=1)
    values = np.where(inside, np.concatenate([mean[None], drawn]), np.inf)
    scale = np.maximum(np.abs(costs).max(axis=(0, 1)), 1.0)
    costs, room = costs / scale, room / scale
    prices = _prices(values, costs, room)
    paid = values + np.einsum("bc,ukc->buk", prices, costs)
    floors = paid.min(axis=2)
    bound = floors.sum(axis=1) - prices @ room
    relaxed = paid.argmin(axis=2)
    present = values[:, rows, choice].sum(axis=1)
    own = np.take_along_axis(values, relaxed[..., None], axis=2)[..., 0].sum(axis=1)
    fits = np.all(costs[rows, relaxed].sum(axis=1) <= room, axis=1)
    best = np.where(fits, np.minimum(own, present), present)
    slack = 1e-9 * np.abs(np.where(inside, values, 0.0)).sum(axis=(1, 2))
    gap = best - bound + slack
    solved = (paid - floors[..., None] <= gap[:, None, None]).mean(axis=0)
    solved[rows, choice] = 1.0
    # The solution for the means is the best for them, so that its distance to the bound there is no regret.
    over = present - bound
    return solved, max(0.0, float(over[1:].mean() - over[0]))


def _prices(values: NDArray[np.float64], costs: NDArray[np.float64], room: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, C] prices of the budgets at which the options of least value plus price keep within the room.

    values: [B, U, K], inf for candidates that are out; costs: [U, K, C], at most 1 in size; room: [C].

    Budget by budget, the others' prices held, by halving; with several budgets in three turns. Any prices give
    a bound, those of the relaxed optimum the best.
    """
    prices = np.zeros((len(values), len(room)))
    rows = np.arange(values.shape[1])
    finite = np.where(np.isfinite(values), values, 0.0)
    highest = 1e6 * (finite.max(axis=(1, 2)) - finite.min(axis=(1, 2)))
    for c in list(range(len(room))) * (1 if len(room) == 1 else 3):
        prices[:, c] = 0.0
        rest = values + np.einsum("bc,ukc->buk", prices, costs)
        low, high = np.zeros(len(values)), highest.copy()
        for step in range(HALVINGS):
            # The first price tried is 0: a budget that does not bind has no price.
            middle = (low + high) / 2 if step else low
            chosen = (rest + middle[:, None, None] * costs[..., c]).argmin(axis=2)
            over = costs[rows, chosen, c].sum(axis=1) > room[c]
            low, high = np.where(over, middle, low), np.where(over, high, middle)
        prices[:, c] = high
    return prices
