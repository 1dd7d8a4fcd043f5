"""Losses of configurations sample by sample, measured a shard of the calibration set at a time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Choice = tuple[int, ...]
Measure = Callable[[list[Choice], int], ArrayLike]


class Samples:
    """What is known of configurations, and the only caller of `measure`.

    measure: f(choices, shard) -> [len(choices), samples of that shard] losses.
    shards: the number of samples of each shard.
    at_a_time: how many configurations are measured before somebody looks whether to stop; all by default.
    counted: how many losses of one sample were asked for, those of references that only lead a call left out.

    Any two configurations can be compared on the samples that both have.
    """

    def __init__(self, measure: Measure, shards: Sequence[int], at_a_time: int | None = None) -> None:
        self.shards = tuple(operator.index(size) for size in shards)
        if not self.shards or min(self.shards) < 1:
            raise ValueError(f"[search] shards of {list(self.shards)} samples; give at least one, each at least 1")
        self.ends = tuple(np.cumsum(self.shards).tolist())
        self.total = self.ends[-1]
        self.at_a_time = at_a_time
        self.counted = 0
        self._measure = measure
        self._compared: dict[tuple[Choice, Choice, int, int], tuple[float, float]] = {}
        self._known: dict[Choice, dict[int, NDArray[np.float64]]] = {}

    @property
    def choices(self) -> list[Choice]:
        """All that were measured, in the order of their first shard."""
        return list(self._known)

    def ask(self, choices: Sequence[Choice], shard: int) -> None:
        """Measure a shard of those configurations that lack it, in one call.

        choices: the first of them leads the call, known or not, because the others are near it.
        Raises: ValueError when `measure` returns another shape.
        """
        lacking = {choice for choice in choices if not self.has(choice, shard)}
        if not lacking:
            return
        asked = [choices[0], *(choice for choice in dict.fromkeys(choices[1:]) if choice in lacking - {choices[0]})]
        losses = np.array(self._measure(asked, shard), dtype=np.float64)
        if losses.shape != (len(asked), self.shards[shard]):
            raise ValueError(f"[search] the losses have shape {losses.shape}, not {(len(asked), self.shards[shard])}")
        for choice, row in zip(asked, losses, strict=True):
            if choice in lacking:
                self._known.setdefault(choice, {})[shard] = row
                self.counted += len(row)

    def ask_until(self, stop: Callable[[], bool], reference: Choice, choices: Sequence[Choice], shard: int) -> bool:
        """As `ask`, of the reference and others near it, `at_a_time` of them; whether it was stopped before the end."""
        lacking = [choice for choice in choices if choice != reference and not self.has(choice, shard)]
        size = self.at_a_time or max(1, len(lacking))
        for first in range(0, max(1, len(lacking)), size):
            if first and stop():
                return True
            self.ask([reference, *lacking[first : first + size]], shard)
        return False

    def of(self, choice: Choice) -> NDArray[np.float64]:
        """[samples so far] losses, shard by shard."""
        known = self._known[choice]
        return np.concatenate([known[shard] for shard in sorted(known)])

    def differences(self, choice: Choice, other: Choice) -> NDArray[np.float64]:
        """[samples that both have] by how much the losses of the first are higher."""
        ours, theirs = self._known[choice], self._known[other]
        shared = sorted(ours.keys() & theirs.keys())
        return np.concatenate([ours[shard] - theirs[shard] for shard in shared])

    def difference(self, choice: Choice, other: Choice) -> tuple[float, float]:
        """Of the mean losses on the samples that both have, and its standard error as one of that on all samples.

        The error is 0 where it is not known.
        """
        key = choice, other, self.shards_of(choice), self.shards_of(other)
        if key not in self._compared:
            values = self.differences(choice, other)
            left = math.sqrt(1 - len(values) / self.total)
            self._compared[key] = float(values.mean()), standard_error(values) * left if len(values) > 1 else 0.0
        return self._compared[key]

    def mean(self, choice: Choice) -> float:
        """The mean over the samples so far; over all of them it is L(b)."""
        return float(self.of(choice).mean())

    def standard_error(self, choice: Choice) -> float:
        """Of the mean; NaN where it is not known."""
        return standard_error(self.of(choice))

    def worse(self, choice: Choice, than: Choice, errors: float = 0.0) -> bool:
        """Whether its mean is higher, by more than so many standard errors, on the samples that both have."""
        differences = self.differences(choice, than)
        return bool(differences.mean() > (errors * standard_error(differences) if errors else 0.0))

    def has(self, choice: Choice, shard: int) -> bool:
        return shard in self._known.get(choice, ())

    def shards_of(self, choice: Choice) -> int:
        """How many shards it was measured on."""
        return len(self._known.get(choice, ()))

    def complete(self, choice: Choice) -> bool:
        return self.shards_of(choice) == len(self.shards)


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of values; NaN for fewer than two, or where one is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1)) / math.sqrt(len(values))
