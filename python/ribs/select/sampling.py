"""Which samples of a calibration set a race measures first, and what some of them tell of all.

The loss of most networks is that of few samples, those between two classes for example. Of samples drawn with equal
chances many are needed until enough of these are among them. Here a sample's chance of being among the first n grows
with how large its loss is expected to be, its size h. Sequential Poisson sampling (Ohlsson, "Sequential Poisson
Sampling", 1998): each has a random u in (0, 1), and they come in the order of u / h, so that the first n are among the
first n + 1. The chances are about

    pi_s(n) = min(1, c h_s), with c such that they add up to n,

and the mean of values x over all N samples is told from the first n without bias by Horvitz and Thompson (1952):
sum_s x_s / pi_s / N. From all samples it is the mean itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEAST = 0.01  # of the mean loss, what every sample counts for at least, so that no weight is a surprise


def sizes_of(losses: Sequence[Array]) -> Array:
    """[samples] sizes, from the losses of each of some configurations; all 1 where these tell nothing.

    The error of a mean is least for sizes in proportion to the values. Their square root is what was measured to do
    better, since a configuration's loss tells of another's only so much.
    """
    scales = [float(np.abs(each).mean()) for each in losses]
    shares = [np.abs(each) / scale for each, scale in zip(losses, scales, strict=True) if 0 < scale < math.inf]
    if not shares:
        return np.ones(len(losses[0]))
    sizes: Array = np.sqrt(np.mean(shares, axis=0) + LEAST)
    return sizes


def order_of(sizes: Array, seed: int) -> NDArray[np.int64]:
    """[samples] the samples in the order in which they are measured."""
    uniform = np.random.default_rng(seed).random(len(sizes))
    return np.argsort(uniform / sizes, kind="stable")


def standard_error(values: Array) -> float:
    """Of the mean of values; NaN for fewer than two, or where one is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1)) / math.sqrt(len(values))


class Sampling:
    """Samples in order, and means of values over all of them from those of the first.

    sizes: [samples] of those in order, positive; of equal sizes all samples are alike, in whatever order.
    """

    def __init__(self, sizes: ArrayLike) -> None:
        self._sizes = np.asarray(sizes, dtype=np.float64)
        if self._sizes.ndim != 1 or not len(self._sizes) or not np.all((self._sizes > 0) & (self._sizes < np.inf)):
            raise ValueError("[search] the sizes of samples must be [samples] positive numbers, at least one")
        self.total = len(self._sizes)
        self._same = bool(np.all(self._sizes == self._sizes[0]))
        self._known: dict[int, Array] = {}

    def chances(self, count: int) -> Array:
        """[count] those of each of the first samples of being among them."""
        if count not in self._known:
            self._known[count] = self._find_chances(count)[:count]
        return self._known[count]

    def mean(self, values: Array) -> float:
        """Of all samples, from the values of the first."""
        if self._alike(values):
            return float(values.mean())
        return float((values / self.chances(len(values))).sum() / self.total)

    def standard_error(self, values: Array) -> float:
        """Of that mean, as one of samples yet to come; NaN for fewer than two values, or where one is not finite."""
        return standard_error(values) if self._alike(values) else self._error(values, np.ones(len(values)))

    def error_left(self, values: Array) -> float:
        """Of that mean, as one of all samples: 0 for all of them; NaN as for `standard_error`."""
        return self._error(values, 1.0 - self.chances(len(values)))

    def _alike(self, values: Array) -> bool:
        return self._same or len(values) == self.total

    def _error(self, values: Array, left: Array) -> float:
        """Rosén's estimate for such sampling (1997): of equal chances that of a mean, with the share not drawn."""
        count = len(values)
        if count < 2 or not np.isfinite(values).all():
            return math.nan
        if not left.any():
            return 0.0
        parts = values / self.chances(count)
        middle = np.average(parts, weights=left)
        return math.sqrt(count / (count - 1) * float((left * (parts - middle) ** 2).sum())) / self.total

    def _find_chances(self, count: int) -> Array:
        chances: Array = np.minimum(1.0, count * self._sizes / self._sizes.sum())
        while not math.isclose(chances.sum(), count):
            below = chances < 1
            rest = count - self.total + int(below.sum())  # of the count, what those of chance 1 leave to the others
            chances = np.where(below, np.minimum(1.0, rest * self._sizes / self._sizes[below].sum()), 1.0)
        return chances
