"""Which candidates are next to which, and how far from what was measured a search may go."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ribs.select.samples import Choice
from ribs.select.surrogate import Bits


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
    seen, units = np.zeros_like(allowed), np.arange(len(allowed))
    for choice in measured:
        seen[units, list(choice)] = True
    beside = [
        _next_to(options, usable)[own].any(axis=0) for options, usable, own in zip(bits, allowed, seen, strict=True)
    ]
    reach: NDArray[np.bool_] = (seen | np.array(beside)) & allowed
    return reach


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
