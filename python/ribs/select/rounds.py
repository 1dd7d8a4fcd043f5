"""On which samples a search within one set of budgets measures now, and what it knows of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ribs.select.problem import Problem
from ribs.select.race import Race, shards_with
from ribs.select.samples import Choice, Samples

BEGIN = 128  # samples, at least: what is found on too few leads all that follows into a corner
AROUND = 64  # samples for the neighbours of a start, which are many
LOOK = 32  # samples after which a configuration may leave
BEHIND = 1.5  # standard errors of a difference, by which what is behind the reference leaves a race
KEPT = 8  # configurations that a race takes to more samples


class Rounds:
    """Measuring, on all samples or in a race round by round, each with twice as many as the one before.

    problem: its allowed candidates become fewer.
    samples: all that is known, of whatever was measured.
    race, stop: as for `ribs.select.adaptive.adaptive_search`.
    """

    def __init__(self, problem: Problem, samples: Samples, race: Race | None, stop: Callable[[], bool]) -> None:
        self.problem, self.samples, self.stop = problem, samples, stop
        counts = [len(samples.shards)] if race is None else race.rounds(samples.ends, BEGIN)
        self.racing = race is not None
        self.first = counts[0]  # shards that are measured first
        self.count, self.later = counts[0], counts[1:]  # those that are measured now, and afterwards
        self.look = samples.ends[shards_with(LOOK, samples.ends) - 1]  # samples, before anything leaves
        self.latest = set[Choice]()  # what was asked for last
        self.own: set[Choice] | None = None  # among which the best is now looked for; None is all
        self.stopped = False

    def measure(self, reference: Choice, choices: Sequence[Choice], shards: int | None = None) -> None:
        """Measure them as `ask` does, and exclude what makes losses that are not finite."""
        self.ask(reference, choices, shards)
        self.exclude(reference, choices)

    def ask(self, reference: Choice, choices: Sequence[Choice], shards: int | None = None) -> None:
        """Measure them on the shards that are measured now, or the first of these, as far as time allows.

        In a race one leaves that is behind the reference on the samples so far, asked whenever these have doubled.
        """
        self.latest = {reference, *choices}
        samples, going, look = self.samples, list(choices), self.look
        count = min(self.count, shards or self.count)
        for shard in range(count):
            cut = samples.ask_until(self.stop, reference, going, shard)
            if cut or (shard != count - 1 and self.stop()):
                self.stopped = True
                return
            if self.racing and samples.ends[shard] >= look:
                going = [choice for choice in going if not self.behind(choice, reference)]
                look = 2 * samples.ends[shard]
        self.stopped = self.stopped or self.stop()

    def behind(self, choice: Choice, reference: Choice) -> bool:
        """Whether its loss is not finite, or above the reference's by more than may be chance."""
        return self.loss(choice) == math.inf or self.samples.worse(choice, reference, BEHIND)

    def exclude(self, reference: Choice, choices: Sequence[Choice]) -> None:
        """Exclude the candidates that made the loss of some choices not finite, and do so alone."""
        broken = [choice for choice in choices if self.samples.shards_of(choice) and self.loss(choice) == math.inf]
        moves = {(i, k) for choice in broken for i, k in enumerate(choice) if k != reference[i]}
        alone = {(i, k): changed(reference, i, k) for i, k in sorted(moves)}
        if alone:
            self.ask(reference, list(alone.values()))
        for move, choice in alone.items():
            if self.samples.shards_of(choice) and self.loss(choice) == math.inf:
                self.problem.allowed[move] = False

    def widen(self, start: Choice, reference: Choice) -> None:
        """Go on to more samples, with the start and the best of the configurations measured on the most so far."""
        samples, seen = self.samples, self.count
        comparable = [choice for choice in self.problem.known(samples) if samples.shards_of(choice) == seen]
        comparable.sort(key=lambda choice: (samples.mean(choice), choice))
        self.count, *self.later = self.later
        self.measure(reference, comparable[:KEPT])
        # Then the first of what others are compared with: where time is out, it is not known on more than the best.
        self.measure(start, [])

    @contextmanager
    def apart(self, choices: set[Choice]) -> Iterator[None]:
        """For a while only these and what is noted count for the best."""
        self.own = choices
        try:
            yield
        finally:
            self.own = None

    def note(self, choices: Sequence[Choice]) -> None:
        if self.own is not None:
            self.own.update(choices)

    def loss(self, choice: Choice) -> float:
        """The mean over its samples; inf where it is not finite or not known."""
        if not self.samples.shards_of(choice):
            return math.inf
        loss = self.samples.mean(choice)
        return loss if math.isfinite(loss) else math.inf

    def estimate(self, choice: Choice, reference: Choice) -> float:
        """The loss on all samples that the reference has, from the difference on those that both have."""
        if self.loss(choice) == math.inf or self.samples.shards_of(choice) >= self.samples.shards_of(reference):
            return self.loss(choice)
        return self.loss(reference) + self.samples.difference(choice, reference)[0]

    def known(self) -> list[Choice]:
        """All measured configurations that count, of usable candidates and finite loss within the budgets."""
        units, problem = np.arange(self.problem.units), self.problem
        counting = (choice for choice in self.samples.choices if self.own is None or choice in self.own)
        usable = (choice for choice in counting if problem.allowed[units, list(choice)].all())
        return [choice for choice in usable if problem.usable(choice, self.samples)]

    def best(self) -> Choice:
        """Of these, or else of those of any candidates, the best one on the most samples."""
        known = self.on_the_most(self.known() or self.problem.known(self.samples))
        return self.problem.best({choice: self.samples.mean(choice) for choice in known})

    def on_the_most(self, choices: Sequence[Choice]) -> list[Choice]:
        """Those of them that were measured on the most samples."""
        most = max(map(self.samples.shards_of, choices))
        return [choice for choice in choices if self.samples.shards_of(choice) == most]

    def finalists(self) -> list[Choice]:
        """Of what is known, that on the most samples and, where time was out, what was then being measured."""
        known = self.problem.known(self.samples)
        among = {*self.on_the_most(known), *(self.latest if self.stopped else ())}
        return [choice for choice in known if choice in among]


def changed(reference: Choice, unit: int, k: int) -> Choice:
    return (*reference[:unit], k, *reference[unit + 1 :])
