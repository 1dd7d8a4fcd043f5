"""The adaptive search: programs around the best configuration so far, over effects that all measurements inform.

It differs from Algorithm 1 of the paper in four ways. It starts within the budgets, at the configuration that would be
best if all units were equally sensitive, and not at 8 bits, where effects are others than at few bits. It estimates
effects from whole configurations too (see `surrogate`), so that an iteration costs a few losses and not one for each
candidate. It only moves to what was measured to be better. And it stays where the model can be trusted: the number of
units that may change, M, grows with steps that turn out well and shrinks with others; units take candidates that were
measured, in whatever configuration, or those next to them; and of the latter fewer bits are believed to be worse,
whatever the model makes of a few losses (see `reach`).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ribs.select.ilp import Costs, solve
from ribs.select.problem import Problem
from ribs.select.race import Race, shards_with
from ribs.select.reach import Order, neighbours, within_reach
from ribs.select.rounds import AROUND, Rounds, changed
from ribs.select.samples import Choice, Measure, Samples
from ribs.select.search import Iteration, Trace, finish
from ribs.select.surrogate import Array, Bits, LossModel

PROPOSALS = 4  # measured in one iteration
IN_A_RACE = 2  # of these: where most leave early, it is better to fit what was measured more often
DRAWS = 8  # at most, for as many proposals: where these give nothing new, more hardly do, and a program takes time
LEAST_STEP = 4  # what M does not fall below, so that it can grow again
PATIENCE = 16  # iterations without a better configuration, after which a race goes on to more samples; there fewer
UNLIKE = 4  # at least one unit of so many differs in configurations that are unlike
LAST = 2  # on all samples, units for each such iteration where these are more, after which it ends
ENOUGH = 1e-4  # standard errors of the loss
SETTLED = 3  # iterations in a row that promise no more than these end the search, or in a race go on to more samples
LISTED = 20_000  # configurations, up to which all are looked through
MOVES = 1000  # of single units, those of least expected loss, that are combined in pairs


def adaptive_search(
    bits: Sequence[Sequence[Bits]],
    costs: Costs,
    limits: Sequence[int],
    *,
    measure: Measure,
    shards: Sequence[int],
    iterations: int,
    update_size: int | None = None,
    race: Race | None = None,
    allowed: ArrayLike | None = None,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    at_a_time: int | None = None,
    sizes: ArrayLike | None = None,
    agree: Callable[[list[Choice]], list[Choice]] = lambda choices: choices,
    on_iteration: Callable[[Iteration], None] = lambda iteration: None,
) -> Trace:
    """Search the configuration of least loss within the budgets by programs over a model of the loss.

    bits: [N][K] (weight, activation) bits of the candidates of each unit, padded where not `allowed`.
    costs, limits, measure, shards, allowed: as for `ribs.select.search.repeated_ilp`.
    iterations: how many programs, at most. Each is followed by measuring a few configurations: its solution, that with
        half as many changes, and solutions for effects drawn from what is still possible (Thompson sampling). Before
        that each candidate next to the start's is measured alone. The search ends early when there is nothing new to
        measure, or when of three iterations in a row the improvements that the model expects of their configurations
        add up to less than a ten thousandth of the standard error of the loss.
    update_size: M, the most units that the first program may change; all by default.
    race: measure on few samples first, and on twice as many whenever nothing better has been found for a while; only
        the best are then measured again. On all samples it ends instead. On the first it goes down twice, the second
        time from a configuration unlike what it found. An iteration measures two configurations, of half as many
        changes every other time, and one that falls behind the best so far leaves. By default all are measured on all.
    seed: of the draws.
    stop: asked between shards. Once it is true what was measured so far decides.
    at_a_time, sizes: as for `repeated_ilp`.
    agree: called with what is to be measured next; returns the same in all processes.
    on_iteration: told of every iteration after it is done.

    Candidates that alone have a loss that is not finite are excluded, and so is every configuration of such a loss.

    Returns: a trace. In its iterations, which are over all units, `deltas` and `standard_errors` are the model's
        estimates of the change from the best configuration so far, and `choice` is the best of those measured.
    Raises: as `repeated_ilp`.
    """
    samples = Samples(measure, shards, at_a_time, sizes)
    search = Adaptive(bits, Problem(costs, limits, allowed), samples, race, stop, agree)
    return search.run(iterations, update_size, np.random.default_rng(seed), on_iteration)


class Adaptive(Rounds):
    """The steps of the adaptive search within one set of budgets.

    bits, agree: as for `adaptive_search`.  problem, samples, race, stop: as for `Rounds`.
    """

    def __init__(
        self,
        bits: Sequence[Sequence[Bits]],
        problem: Problem,
        samples: Samples,
        race: Race | None,
        stop: Callable[[], bool],
        agree: Callable[[list[Choice]], list[Choice]],
    ) -> None:
        super().__init__(problem, samples, race, stop)
        self.bits, self.agree = bits, agree
        self.model = LossModel(bits)
        self.references = dict[Choice, None]()  # so far, the start first
        self.settled = 0  # iterations in a row of whose proposals little was expected
        self.gaps: list[float] = []  # of the programs of the present iteration
        self.turns = 0  # iterations so far, those that found nothing new with them
        self.done: list[Iteration] = []

    def run(
        self,
        iterations: int,
        update_size: int | None,
        generator: np.random.Generator,
        on_iteration: Callable[[Iteration], None],
    ) -> Trace:
        self.most, self.generator, self.on_iteration = iterations, generator, on_iteration
        first = self.start()
        self.references[first] = None
        size = self.descend(first, update_size or self.problem.units)
        if self.later:
            self.start_again()
        while self.later and self.goes_on:
            self.widen(first, self.best())
            size = self.descend(None, size)
        return finish(self.problem, self.samples, first, self.done, self.stopped, self.finalists())

    @property
    def goes_on(self) -> bool:
        return len(self.done) < self.most and not self.stopped

    def descend(self, start: Choice | None, size: int) -> int:
        """Move to better configurations on the samples that are measured now, until none has been found for a while.

        start: what to measure the neighbours of first.  size: M.
        Returns: M in the end.
        """
        if start is not None:
            around = [changed(start, unit, k) for unit, k in self.neighbours(start)]
            few = shards_with(AROUND, self.samples.ends) if self.racing else None
            self.measure(start, around, few)
            self.note(around)
            if few and not self.stopped:
                self.measure(start, [])  # what follows is compared with it on more
        reference, waiting, self.settled = self.best(), 0, 0
        while self.goes_on and not (self.racing and waiting >= self.patience):
            self.fit(reference)
            self.gaps.clear()
            proposals = self.agree(self.unless_settled(list(self.proposals(reference, size)), reference))
            if not proposals:
                break
            self.measure(reference, proposals)
            self.note(proposals)
            measured = [choice for choice in proposals if self.samples.shards_of(choice)]  # others: there was no time
            found = min(self.on_the_most(measured), key=lambda choice: (self.estimate(choice, reference), choice))
            self.done.append(self.iteration(reference, found))
            self.on_iteration(self.done[-1])
            new, most = self.best(), changes(reference, found)
            size = min(self.problem.units, max(LEAST_STEP, 2 * most if new == found else most // 2))
            waiting = 0 if new != reference else waiting + 1
            reference = new
        return size

    def start_again(self) -> None:
        """Descend once more, from the best of the configurations so far that are unlike the best.

        From a start a search goes down into one valley. Now and then that is a poor one, and no few changes lead out.
        """
        best = self.best()
        unlike = [choice for choice in self.known() if UNLIKE * changes(choice, best) >= self.problem.units]
        if unlike and self.goes_on:
            start = min(unlike, key=lambda choice: (self.estimate(choice, best), choice))
            with self.apart({start}):
                self.descend(start, self.problem.units)

    def start(self) -> Choice:
        """The best configuration if all units were equally sensitive, of finite loss."""
        problem, samples = self.problem, self.samples
        noise = [[4.0**-w + 4.0**-a for w, a in options] for options in self.bits]
        while True:
            choice = solve(noise, problem.costs, problem.limits, problem.allowed).choice
            self.measure(choice, [])
            if math.isfinite(samples.mean(choice)):
                return choice
            # Some candidate of it may be impossible; it shows alone, among the most bits.
            options = [np.flatnonzero(row).tolist() for row in problem.allowed]
            most = tuple(max(row, key=pairs.__getitem__) for pairs, row in zip(self.bits, options, strict=True))
            alone = {i: changed(most, i, k) for i, k in enumerate(choice)}
            self.ask(most, list(alone.values()))
            problem.check_finite(most, samples)
            bad = [i for i, probe in alone.items() if not math.isfinite(samples.mean(probe))]
            if not bad:
                problem.check_finite(choice, samples)
            for i in bad:
                problem.allowed[i, choice[i]] = False

    @property
    def patience(self) -> int:
        """Iterations without a better configuration, after which a race goes on to more samples, or ends."""
        as_many_samples = max(1, PATIENCE * self.first // self.count)
        return as_many_samples if self.later else max(as_many_samples, self.problem.units // LAST)

    def neighbours(self, reference: Choice) -> Iterator[tuple[int, int]]:
        """(unit, candidate) next to the reference's."""
        return neighbours(self.bits, self.problem.allowed, reference)

    def fit(self, reference: Choice) -> None:
        """Fit all finite losses.

        One that left a race is compared with that of the references whose differences from it have the least error:
        what it was next to when it was measured tells most of it.
        """
        samples = self.samples
        self.references[reference] = None
        finite = [choice for choice in self.references if self.loss(choice) < math.inf]
        whole = [choice for choice in finite if samples.shards_of(choice) >= samples.shards_of(reference)]
        base = self.loss(reference)
        choices, losses, errors = list[Choice](), list[float](), list[float]()
        for choice in dict.fromkeys([reference, *samples.choices]):
            if self.loss(choice) == math.inf:
                continue
            complete = samples.shards_of(choice) >= samples.shards_of(reference)
            against = [reference] if complete else whole
            other = min(against, key=lambda other: (samples.difference(choice, other)[1], other))
            difference, error = samples.difference(choice, other)
            choices.append(choice)
            losses.append(base + samples.difference(other, reference)[0] + difference)
            errors.append(error)
        self.model.fit(choices, np.array(losses), np.array(errors))

    def proposals(self, reference: Choice, size: int) -> Iterator[Choice]:
        """New configurations within the budgets, each near the reference.

        First a solution for each of several effects: the expected ones, and draws. Where these are known already, what
        changes one or two units, or, of few configurations, any.
        """
        reach = within_reach(self.bits, self.problem.allowed, self.samples.choices)
        sizes: tuple[int, ...] = size, max(1, size // 2)
        if self.racing:
            sizes = (sizes[self.turns % 2],)
        self.turns += 1
        new = self.candidates(reference, sizes, self.generator, DRAWS, reach)
        seen = set(self.samples.choices)
        for _ in range(IN_A_RACE if self.racing else PROPOSALS):
            choice = next((choice for choice in new if choice not in seen), None)
            if choice is None:
                return
            seen.add(choice)
            yield choice

    def unless_settled(self, proposals: list[Choice], reference: Choice) -> list[Choice]:
        """The proposals, or none where little has been expected of them for a while."""
        if proposals:
            expected = self.model.improvements(proposals, reference, self.loss(reference)).sum()
            self.settled = self.settled + 1 if expected <= ENOUGH * self.samples.standard_error(reference) else 0
        return [] if self.settled >= SETTLED else proposals

    def candidates(
        self,
        reference: Choice,
        sizes: Sequence[int],
        generator: np.random.Generator,
        draws: int,
        usable: NDArray[np.bool_],
    ) -> Iterator[Choice]:
        """Configurations within the budgets, measured or not, as `proposals` has them.

        sizes: the most changes of the reference, which may be over the budgets where these are all units.
        draws: of effects.
        usable: [N, K] the candidates that the programs are given; some configuration of them is within the budgets.
        """
        # One more budget: a change costs 1 of it.
        costs = [
            [(*cost, int(k != own)) for k, cost in enumerate(row)]
            for row, own in zip(self.problem.costs, reference, strict=True)
        ]

        in_order = Order(self.bits, self.samples.choices)

        def solution(effects: Array, most: int) -> Choice:
            """The configuration of least total effect that changes at most so many units of the reference."""
            found = solve(in_order(effects), costs, (*self.problem.limits, most), usable)
            self.gaps.append(found.gap)
            return found.choice

        for most in sizes:
            yield solution(self.model.effects(reference), most)
        for draw in range(draws):
            yield solution(self.model.drawn_effects(reference, generator), sizes[draw % len(sizes)])
        yield from self.by_expectation(reference, usable, in_order)

    def by_expectation(self, reference: Choice, usable: NDArray[np.bool_], in_order: Order) -> Iterator[Choice]:
        """Configurations within the budgets by their expected loss: all, or those that change one or two units."""
        if math.prod(self.problem.allowed.sum(axis=1).tolist()) <= LISTED:
            options = (np.flatnonzero(row).tolist() for row in self.problem.allowed)
            every = [choice for choice in itertools.product(*options) if self.problem.fits(choice)]
            yield from (every[i] for i in np.argsort(self.model.predict(every), kind="stable").tolist())
            return
        present = np.array(reference)
        others = usable.copy()
        others[np.arange(len(present)), present] = False
        effects = in_order(self.model.effects(reference))[others]
        first = np.argsort(effects, kind="stable")[:MOVES]
        moves, effects = np.argwhere(others)[first], effects[first]
        pairs = np.triu(moves[:, :1] != moves[:, 0])
        totals = np.where(pairs, effects[:, None] + effects, np.inf)
        np.fill_diagonal(totals, effects)
        flat = np.flatnonzero(np.isfinite(totals))
        for index in flat[np.argsort(totals.ravel()[flat], kind="stable")].tolist():
            changed = present.copy()
            for move in divmod(index, len(moves)):
                changed[moves[move, 0]] = moves[move, 1]
            choice = tuple(changed.tolist())
            if self.problem.fits(choice):
                yield choice

    def seen(self) -> NDArray[np.int64]:
        """[N, K] the most samples that a configuration with this candidate was measured on."""
        seen = np.zeros(self.problem.allowed.shape, dtype=np.int64)
        units = np.arange(self.problem.units)
        for choice in self.samples.choices:
            own = units, list(choice)
            seen[own] = np.maximum(seen[own], len(self.samples.of(choice)))
        return seen

    def iteration(self, reference: Choice, found: Choice) -> Iteration:
        """What came of an iteration, before the model knows of it."""
        problem, samples = self.problem, self.samples
        deltas = self.model.effects(reference)
        errors = self.model.errors(reference)
        deltas[~problem.allowed] = errors[~problem.allowed] = np.nan
        return Iteration(
            selected=tuple(range(problem.units)),
            deltas=deltas,
            standard_errors=errors,
            samples=self.seen(),
            standing=problem.allowed.copy(),
            choice=found,
            predicted=float(self.model.predict([found])[0]),
            loss=self.estimate(found, reference),
            standard_error=samples.standard_error(found),
            costs=problem.costs_of(found),
            gaps=tuple(self.gaps),
        )


def changes(a: Choice, b: Choice) -> int:
    return sum(map(operator.ne, a, b))
