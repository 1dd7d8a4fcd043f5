"""The ways to search a plan, by name, with how much work each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ribs.quant.network import Bits
from ribs.select.adaptive import IN_A_RACE, PROPOSALS, adaptive_search
from ribs.select.plan import Plan
from ribs.select.race import Race
from ribs.select.samples import Choice, Measure
from ribs.select.search import Iteration, Trace, repeated_ilp

Name = Literal["adaptive", "paper"]

PAPER_ITERATIONS = 10
ITERATIONS_A_UNIT = 2  # of the adaptive search, at most: less work than ten iterations of Algorithm 1


@dataclass(frozen=True)
class Algorithm:
    """A way to search a plan.

    name: "adaptive", or "paper", Algorithm 1 of RIBS.
    iterations: how many programs are solved; by default 10 of the paper's, and of the adaptive ones, which cost less, 2
        for each unit, or 4 in a race.
    update_size: the paper's M, by default half of the units; of an adaptive search the most units that its first
        program changes, by default all.
    """

    name: Name
    iterations: int | None = None
    update_size: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ("adaptive", "paper"):
            raise ValueError(f"[ribs] algorithm={self.name!r} is not supported; give 'adaptive' or 'paper'")
        for argument, value in (("iterations", self.iterations), ("update_size", self.update_size)):
            if value is not None and value < 1:
                raise ValueError(f"[ribs] {argument}={value} is not allowed; give at least 1")

    def iterations_for(self, units: int, racing: bool = False) -> int:
        """How many programs are solved, at most."""
        as_many = ITERATIONS_A_UNIT * units * PROPOSALS // (IN_A_RACE if racing else PROPOSALS)
        return self.iterations or (PAPER_ITERATIONS if self.name == "paper" else as_many)

    def work(self, plan: Plan, racing: bool = False) -> tuple[int, float]:
        """How many losses are measured, and about how many forward equivalents that takes without any racing."""
        units, n = len(plan.candidates), self.iterations_for(len(plan.candidates), racing)
        from_unit_on = plan.from_unit_on()
        if self.name == "paper":
            others = [len(options) - 1 for options in plan.candidates]
            share = sum(self.update_sizes(units)) / units
            work = share * float(np.dot(others, from_unit_on)) + n
            return round(share * sum(others)) + n + 1, work + n + 2
        neighbours, neighbours_work = work_of_neighbours(plan)
        starts, proposals = (2, IN_A_RACE * n) if racing else (1, PROPOSALS * n)
        return starts * neighbours + proposals + 1, starts * neighbours_work + proposals + 2

    def update_sizes(self, units: int) -> list[int]:
        """The paper's M of each iteration: all units in the first."""
        later = min(self.update_size or max(1, units // 2), units)
        return [units] + [later] * (self.iterations_for(units) - 1)

    def run(
        self,
        plan: Plan,
        measure: Measure,
        shards: Sequence[int],
        *,
        race: Race | None = None,
        seed: int = 0,
        stop: Callable[[], bool] = lambda: False,
        at_a_time: int | None = None,
        sizes: ArrayLike | None = None,
        agree: Callable[[list[Choice]], list[Choice]] = lambda choices: choices,
        on_iteration: Callable[[Iteration], None] = lambda iteration: None,
    ) -> Trace:
        """Search the best configuration of a plan. Arguments and errors: `repeated_ilp` and `adaptive_search`."""
        units = len(plan.candidates)
        if self.name == "paper":
            return repeated_ilp(
                plan.start,
                plan.costs,
                plan.available,
                measure=measure,
                shards=shards,
                update_sizes=self.update_sizes(units),
                race=race,
                allowed=plan.allowed,
                seed=seed,
                stop=stop,
                at_a_time=at_a_time,
                sizes=sizes,
                on_iteration=on_iteration,
            )
        return adaptive_search(
            plan.padded_candidates(),
            plan.costs,
            plan.available,
            measure=measure,
            shards=shards,
            iterations=self.iterations_for(units, race is not None),
            update_size=self.update_size,
            race=race,
            allowed=plan.allowed,
            seed=seed,
            stop=stop,
            at_a_time=at_a_time,
            sizes=sizes,
            agree=agree,
            on_iteration=on_iteration,
        )


def work_of_neighbours(plan: Plan) -> tuple[int, float]:
    """How many neighbours a configuration has, and about how many forward equivalents their losses take."""
    # A unit has two neighbours, one on each side, and where weights and activations come apart four.
    neighbours = [min(4 if _apart(options) else 2, len(options) - 1) for options in plan.candidates]
    return sum(neighbours), float(np.dot(neighbours, plan.from_unit_on()))


def _apart(options: Sequence[Bits]) -> bool:
    """Whether some weight bits come with several activation bits, and the other way round."""
    return all(len({pair[kind] for pair in options}) < len(options) for kind in (0, 1))
