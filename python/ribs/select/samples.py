"""Losses of configurations sample by sample, measured a shard of the calibration set at a time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ribs.select.sampling import Sampling

Choice = tuple[int, ...]
Measure = Callable[[list[Choice], int], ArrayLike]


class Samples:
    """What is known of configurations, and the only caller of `measure`.

    measure: f(choices, shard) -> [len(choices), samples of that shard] losses.
    shards: the number of samples of each shard.
    at_a_time: how many configurations are measured before somebody looks whether to stop; all by default.
    sizes: [samples] as for `Sampling`, by which these are in order; by default all are alike.
    counted: how many losses of one sample were asked for, those of references that only lead a call left out.

    Every configuration is measured from the first shard on and without gaps, so that any two of them can be
    compared on the samples that both have.
    """

    def __init__(
        self,
        measure: Measure,
        shards: Sequence[int],
        at_a_time: int | None = None,
        sizes: ArrayLike | None = None,
    ) -> None:
        self.shards = tuple(operator.index(size) for size in shards)
        if not self.shards or min(self.shards) < 1:
            raise ValueError(f"[search] shards of {list(self.shards)} samples; give at least one, each at least 1")
        self.ends = tuple(np.cumsum(self.shards).tolist())
        self.total = self.ends[-1]
        self.sampling = Sampling(np.ones(self.total) if sizes is None else sizes)
        if self.sampling.total != self.total:
            raise ValueError(f"[search] sizes of {self.sampling.total} samples; the shards have {self.total}")
        self.at_a_time = at_a_time
        self.counted = 0
        self._measure = measure
        self._compared: dict[tuple[Choice, Choice, int], tuple[float, float]] = {}
        self._known: dict[Choice, list[NDArray[np.float64]]] = {}

    @property
    def choices(self) -> list[Choice]:
        """All that were measured, in the order of their first shard."""
        return list(self._known)

    def ask(self, choices: Sequence[Choice], shard: int) -> None:
        """Measure a shard of those configurations that lack it, in one call; their earlier shards are known.

        choices: the first of them leads the call, known or not, because the others are near it.
        Raises: ValueError when `measure` returns another shape.
        """
        lacking = {choice for choice in choices if self.shards_of(choice) == shard}
        if not lacking:
            return
        asked = [choices[0], *(choice for choice in dict.fromkeys(choices[1:]) if choice in lacking - {choices[0]})]
        losses = np.array(self._measure(asked, shard), dtype=np.float64)
        if losses.shape != (len(asked), self.shards[shard]):
            raise ValueError(f"[search] the losses have shape {losses.shape}, not {(len(asked), self.shards[shard])}")
        for choice, row in zip(asked, losses, strict=True):
            if choice in lacking:
                self._known.setdefault(choice, []).append(row)
                self.counted += len(row)

    def ask_until(self, stop: Callable[[], bool], reference: Choice, choices: Sequence[Choice], shard: int) -> bool:
        """As `ask`, of the reference and others near it, `at_a_time` of them; whether it was stopped before the end."""
        lacking = [choice for choice in choices if choice != reference and self.shards_of(choice) == shard]
        size = self.at_a_time or max(1, len(lacking))
        for first in range(0, max(1, len(lacking)), size):
            if first and stop():
                return True
            self.ask([reference, *lacking[first : first + size]], shard)
        return False

    def of(self, choice: Choice, shards: int | None = None) -> NDArray[np.float64]:
        """[samples] losses on the first so many shards, by default on all it has."""
        return np.concatenate(self._known[choice][:shards])

    def mean(self, choice: Choice, shards: int | None = None) -> float:
        """What these tell of the mean over all samples, which is L(b)."""
        return self.sampling.mean(self.of(choice, shards))

    def standard_error(self, choice: Choice) -> float:
        """Of the mean; NaN where it is not known."""
        return self.sampling.standard_error(self.of(choice))

    def differences(self, choice: Choice, other: Choice, shards: int | None = None) -> NDArray[np.float64]:
        """[samples] by how much the losses of the first are higher, on the shards that both have, or so many of them.

        Raises: KeyError where one was never measured.
        """
        count = min(len(self._known[choice]), len(self._known[other]))
        count = count if shards is None else min(shards, count)
        return self.of(choice, count) - self.of(other, count)

    def difference(self, choice: Choice, other: Choice) -> tuple[float, float]:
        """Of the mean losses over all samples, told from those that both have; and its error, 0 where not known."""
        key = choice, other, min(self.shards_of(choice), self.shards_of(other))
        if key not in self._compared:
            values = self.differences(choice, other)
            error = self.sampling.error_left(values)
            self._compared[key] = self.sampling.mean(values), error if math.isfinite(error) else 0.0
        return self._compared[key]

    def worse(self, choice: Choice, than: Choice, errors: float = 0.0) -> bool:
        """Whether its mean is higher, by more than so many errors, as told from the samples that both have.

        Of a single sample the error is not known, and whatever it is may be less.
        """
        difference, error = self.difference(choice, than)
        known = self.ends[min(self.shards_of(choice), self.shards_of(than)) - 1] > 1
        return difference > errors * error and (known or not errors)

    def shards_of(self, choice: Choice) -> int:
        """How many shards it was measured on."""
        return len(self._known.get(choice, ()))

    def complete(self, choice: Choice) -> bool:
        return self.shards_of(choice) == len(self.shards)
