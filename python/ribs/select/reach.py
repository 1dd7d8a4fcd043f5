"""Which candidates are next to which, how far from what was measured a search may go, and what it believes there."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ribs.select.samples import Choice
from ribs.select.surrogate import Array, Bits


def neighbours(
    bits: Sequence[Sequence[Bits]], allowed: NDArray[np.bool_], reference: Choice
) -> Iterator[tuple[int, int]]:
    """(unit, candidate) next to the reference's: with none between them in weight and activation bits.

    bits: [N][K] (weight, activation) bits.  allowed: [N, K] the candidates that count.
    """
    for unit, present in enumerate(reference):
        for k in np.flatnonzero(_next_to(bits[unit], allowed[unit])[present]).tolist():
            yield unit, k


def within_reach(
    bits: Sequence[Sequence[Bits]], allowed: NDArray[np.bool_], measured: Iterable[Choice]
) -> NDArray[np.bool_]:
    """[N, K] the allowed candidates that were measured in some configuration, and those next to them.

    Farther away a model only has its prior to go by, while at the lowest bits losses are up to a thousand times as high
    as at those next to them.
    """
    seen = _seen(bits, measured)
    beside = [
        _next_to(options, usable)[own].any(axis=0) for options, usable, own in zip(bits, allowed, seen, strict=True)
    ]
    reach: NDArray[np.bool_] = (seen | np.array(beside)) & allowed
    return reach


class Order:
    """How the effects of candidates that were not measured follow from those of their unit that were.

    Fewer bits make more noise. A model of a few losses may still find that they lower the loss, where errors happened
    to cancel, and then expects still more of still fewer bits. So of what it expects of a candidate that was not
    measured only the distance to the nearest one that was is believed; its sign is that of noise.

    bits: [N][K] (weight, activation) bits.  measured: configurations.
    """

    def __init__(self, bits: Sequence[Sequence[Bits]], measured: Iterable[Choice]) -> None:
        pairs, seen = np.array(bits), _seen(bits, measured)
        self._unit = np.arange(len(pairs))[:, None]
        total = pairs.sum(axis=2)
        more = (pairs[:, None] >= pairs[:, :, None]).all(axis=3)  # [unit, candidate, other]
        above, below = more & seen[:, None], np.swapaxes(more, 1, 2) & seen[:, None]
        self._above = np.where(above, -total[:, None], -np.inf).argmax(axis=2)
        self._below = np.where(below, total[:, None], -np.inf).argmax(axis=2)
        self._has_above, self._has_below = ~seen & above.any(axis=2), ~seen & below.any(axis=2)

    def __call__(self, effects: Array) -> Array:
        """[N, K] effects in this order."""
        above, below = effects[self._unit, self._above], effects[self._unit, self._below]
        less, more = above + np.abs(effects - above), below - np.abs(effects - below)
        between = np.minimum(less, np.maximum(above, below))
        ordered = np.where(self._has_above, np.where(self._has_below, between, less), effects)
        return np.where(self._has_below & ~self._has_above, more, ordered)


def _seen(bits: Sequence[Sequence[Bits]], measured: Iterable[Choice]) -> NDArray[np.bool_]:
    """[N, K] the candidates that are in some measured configuration."""
    seen, units = np.zeros((len(bits), len(bits[0])), dtype=bool), np.arange(len(bits))
    for choice in measured:
        seen[units, list(choice)] = True
    return seen


def _next_to(options: Sequence[Bits], usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return _table(tuple(options), tuple(usable.tolist()))


@functools.lru_cache(maxsize=1024)
def _table(options: tuple[Bits, ...], usable: tuple[bool, ...]) -> NDArray[np.bool_]:
    """[K, K] whether the second is usable and more, or less, in both kinds of bits, with no usable one between them."""
    bits = np.array(options)
    away = bits[None] - bits[:, None]  # [from, to, 2]
    other = away.any(axis=2) & np.array(usable)
    comparable = other & (away[..., 0] * away[..., 1] >= 0)
    low, high = np.minimum(bits[:, None], bits[None]), np.maximum(bits[:, None], bits[None])
    inside = ((low[:, :, None] <= bits) & (bits <= high[:, :, None])).all(axis=3)  # [from, to, middle]
    between = inside & other[:, None, :] & away.any(axis=2)[None]
    next_to: NDArray[np.bool_] = comparable & ~between.any(axis=2)
    return next_to
