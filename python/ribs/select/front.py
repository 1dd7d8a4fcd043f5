"""A search at many budgets at once: what is measured for one budget informs all, and may be the answer at others.

All share one table of measured losses. A few of the budgets begin with the neighbours of a configuration, as the
adaptive search does; from then on every round measures configurations at the few budgets where the model of the loss
expects most, in proportion to the loss, and at those whose turn it is. Configurations are proposed around the best one
at the budget, and in turn around the best ones at the budgets next to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ribs.select.adaptive import LEAST_STEP, Adaptive, changes
from ribs.select.problem import Problem
from ribs.select.rounds import changed
from ribs.select.samples import Choice, Samples
from ribs.select.surrogate import Bits

ANCHORS = (0.1, 0.37, 0.63, 0.9)  # where in the order of budgets neighbours are measured
TRIES = 1  # configurations measured there before, where something is known
TOGETHER = 5  # budgets at which a round measures
IN_TURN = 2  # of these: what is expected of the others may be wrong
DRAWS = 4  # of effects at most, for one proposal


def search_front(
    bits: Sequence[Sequence[Bits]],
    problems: Sequence[Problem],
    samples: Samples,
    *,
    first: Sequence[Choice] = (),
    proposals: int,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    agree: Callable[[list[Choice]], list[Choice]] = lambda choices: choices,
) -> tuple[list[Choice], bool]:
    """Search the configurations of least loss within each of several budgets.

    bits: as for `ribs.select.adaptive.adaptive_search`.
    problems: the budgets, in an order in which those next to each other are alike, such as rising. They have the same
        candidates, and share those that are found to be impossible.
    samples: of these candidates.
    first: configurations to measure first, such as uniform ones.
    proposals: how many configurations are measured at most, beside these and what some budgets begin with.
    seed: of the draws.  stop: asked between shards and rounds. Once it is true what was measured so far decides.
    agree: called with what is to be measured next; returns the same in all processes.

    Returns: for each budget the best configuration within it of all that were measured on all samples; whether `stop`
        ended the search.
    Raises: FloatingPointError where no loss within a budget is finite; InfeasibleBudgetError where only candidates that
        alone have no finite loss would be within one.
    """
    for problem in problems:
        problem.allowed = problems[0].allowed
    searches = [Adaptive(bits, problem, samples, None, stop, agree) for problem in problems]
    front = _Front(searches, seed)
    if first:
        searches[0].ask(first[0], first[1:])
    for place in dict.fromkeys(round(share * (len(problems) - 1)) for share in ANCHORS):
        front.begin(place)
    left = proposals
    while left > 0 and not front.stopped and (measured := front.round(min(TOGETHER, left))):
        left -= measured
    return front.finish(), front.stopped


class _Front:
    def __init__(self, searches: Sequence[Adaptive], seed: int) -> None:
        self.searches, self.samples = searches, searches[0].samples
        self.generator = np.random.default_rng(seed)
        self.gains = [math.inf] * len(searches)  # as last expected of each budget, as a share of its loss
        self.sizes = [search.problem.units for search in searches]  # M of each budget
        self.tries = [0] * len(searches)

    @property
    def stopped(self) -> bool:
        return any(search.stopped for search in self.searches)

    def best(self, place: int) -> Choice | None:
        """The best configuration within a budget so far; None without one, or without such a budget."""
        known = 0 <= place < len(self.searches) and self.searches[place].known()
        return self.searches[place].best() if known else None

    def begin(self, place: int) -> None:
        """Measure the neighbours of the best configuration at a budget, of the start where there is none."""
        search = self.searches[place]
        if self.best(place) is None:
            search.start()
        else:
            for _ in range(TRIES):
                self.measure(search.agree(self.proposed(place)))
        best = search.best()
        if not self.stopped:
            search.measure(best, [changed(best, unit, k) for unit, k in self.fewer_bits(place, best)])

    def fewer_bits(self, place: int, best: Choice) -> list[tuple[int, int]]:
        """(unit, candidate) of the neighbours with fewer bits; where a unit has none, of those with more.

        They have the larger effects, by which the others are known too: as the power of the noise goes, an eighth.
        """
        search = self.searches[place]
        every = list(search.neighbours(best))
        fewer = [(unit, k) for unit, k in every if sum(search.bits[unit][k]) < sum(search.bits[unit][best[unit]])]
        lowest = {unit for unit, _ in every} - {unit for unit, _ in fewer}
        return sorted(fewer + [(unit, k) for unit, k in every if unit in lowest])

    def measure(self, choices: list[Choice]) -> None:
        """Measure configurations that need not be alike."""
        search = next(search for search in self.searches if search.known())
        if choices and not self.stopped:
            search.ask(choices[0], choices[1:])
            search.exclude(search.best(), choices)

    def round(self, most: int) -> int:
        """Measure a configuration at the budgets tried least and those of which most is expected; how many they are."""
        proposed: dict[int, list[Choice]] = {}
        while True:
            in_turn = sorted(range(len(self.searches)), key=lambda place: self.tries[place])[: min(IN_TURN, most)]
            by_gain = sorted(range(len(self.searches)), key=lambda place: -self.gains[place])
            first = list(dict.fromkeys([*in_turn, *by_gain]))[:most]
            unknown = [place for place in first if place not in proposed]
            if not unknown:
                break
            # What was expected some rounds ago is only a guess of what is expected now.
            proposed.update((place, self.proposed(place)) for place in unknown)
        bests = {place: self.best(place) for place in first}
        choices = self.searches[0].agree(list(dict.fromkeys(choice for place in first for choice in proposed[place])))
        self.measure(choices)
        for place in first:
            self.tries[place] += 1
            for choice in proposed[place]:
                self.resize(place, bests[place], choice)
        return len(choices)

    def proposed(self, place: int) -> list[Choice]:
        """A new configuration within a budget, if there is one; what is expected of it goes to the gains."""
        search, best = self.searches[place], self.best(place)
        centre, sizes = self.centre(place)
        search.fit(centre)
        known = set(self.samples.choices)
        # All candidates: at a budget without any configuration yet, what is near those measured may not be within it.
        found = search.candidates(centre, sizes, self.generator, DRAWS, search.problem.allowed)
        new = (choice for choice in found if choice not in known)
        choice = next(new, None)
        self.gains[place] = (
            -math.inf if choice is None else math.inf if best is None else self.gain(place, best, choice)
        )
        return [] if choice is None else [choice]

    def centre(self, place: int) -> tuple[Choice, tuple[int, int]]:
        """Where to propose from: the best configuration at a budget or, half of the time, next to it; and how far."""
        every = self.searches[place].problem.units
        own, turn = self.best(place), self.tries[place] % 4
        beside = self.best(place + (1 if turn == 2 else -1)) if turn >= 2 else None
        if beside is not None:
            return beside, (every, every)  # it may be over the budget
        if own is not None:
            return own, (self.sizes[place], max(1, self.sizes[place] // 2))
        others = sorted(range(len(self.searches)), key=lambda other: abs(other - place))
        return next(best for other in others if (best := self.best(other)) is not None), (every, every)

    def gain(self, place: int, best: Choice, choice: Choice) -> float:
        """The improvement that is expected of a configuration, as a share of the loss."""
        loss = self.samples.mean(best)
        return float(self.searches[place].model.improvements([choice], best, loss)[0]) / (abs(loss) or 1.0)

    def resize(self, place: int, best: Choice | None, choice: Choice) -> None:
        """M is twice the changes of a step that was taken, and as many as those of one that was not."""
        search = self.searches[place]
        if best is not None:
            better = search.loss(choice) < search.loss(best)
            most = changes(best, choice) * (2 if better else 1)
            self.sizes[place] = min(search.problem.units, max(LEAST_STEP, most))

    def finish(self) -> list[Choice]:
        """The best configuration at each budget, each measured on all samples."""
        for search in self.searches:
            if not search.known():
                search.start()
            while not self.samples.complete(best := search.best()):
                for shard in range(len(self.samples.shards)):
                    self.samples.ask([best], shard)
        return [search.best() for search in self.searches]
