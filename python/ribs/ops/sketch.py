"""The moment sketch of a tensor: what a step search needs to know of it, exact and mergeable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 2048  # of an octave: the first 11 bits of the mantissa
RESIDUAL_BITS = 12  # the rest of it
OCTAVES = 256
CELLS = OCTAVES + 16


@dataclass(frozen=True, eq=False)
class Sketch:
    """Counts and sums of a tensor's values by the upper bits of their float format; made by `ribs.ops.sketch`.

    A bin is a sign, an exponent and the first 11 bits of a mantissa, the same for every tensor; what is left of a
    mantissa is added up as an integer. So `a + b` is, to the bit, the sketch of both tensors together, in whatever
    parts and order values come. It can be sent between processes as its tensors.

    places: int64 [octaves], ascending: sign * 256 + exponent of each octave that occurs.
    counts: int64 [octaves, 2048]: values in each bin.
    residuals: int64 [octaves, 2048]: sum of their last 12 mantissa bits.
    squares: int64 [272]: sum of the squares of those, cell e in units of 4^(e - 150), each cell below 4.
    totals: int64 [2]: all values, and those that are zero and in no bin.
    extremes: float32 [2]: the smallest and the largest value.
    """

    places: Tensor
    counts: Tensor
    residuals: Tensor
    squares: Tensor
    totals: Tensor
    extremes: Tensor

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.totals[0])

    @property
    def zeros(self) -> int:
        """Number of zeros."""
        return int(self.totals[1])

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return float(self.extremes[0])

    @property
    def maximum(self) -> float:
        """The largest value."""
        return float(self.extremes[1])

    @property
    def sum(self) -> float:
        """Sum of the values."""
        return float(self._signed(self._bin_sums()).sum())

    @property
    def square(self) -> float:
        """Sum of the squares of the values, exact but for rounding to a float."""
        start, unit = self._starts()
        crosses = start * (start * self.counts + 2 * unit * self.residuals)
        cells = torch.arange(CELLS, dtype=torch.float64, device=self.squares.device)
        return float(crosses.sum() + (self.squares * 2.0 ** (2 * (cells - 150))).sum())

    def means(self) -> tuple[Tensor, Tensor]:
        """Give the mean and the count of every bin that holds something, zeros included, as float64 [bins]."""
        filled = self.counts > 0
        counts = self.counts[filled].double()
        means = self._signed(self._bin_sums())[filled] / counts
        zero = counts.new_zeros(1)
        return torch.cat([means, zero]), torch.cat([counts, zero + self.zeros])

    def __add__(self, other: Sketch) -> Sketch:
        """Give the sketch of the values of both; the other's tensors are moved to this one's device."""
        moved = [each.to(self.places.device) for each in vars(other).values()]
        places, counts, residuals, squares, totals, extremes = moved
        merged, inverse = torch.cat([self.places, places]).unique(return_inverse=True)
        rows = [
            each.new_zeros(len(merged), BINS).index_add_(0, inverse, torch.cat([each, more]))
            for each, more in ((self.counts, counts), (self.residuals, residuals))
        ]
        ends = torch.stack([self.extremes, extremes])
        return Sketch(
            merged,
            rows[0],
            rows[1],
            carried(self.squares + squares),
            self.totals + totals,
            torch.stack([ends[:, 0].min(), ends[:, 1].max()]),
        )

    def _starts(self) -> tuple[Tensor, Tensor]:
        """Give the smallest magnitude of every bin [octaves, 2048], and a mantissa unit [octaves, 1]."""
        octave = (self.places % OCTAVES)[:, None]
        unit = torch.ldexp(torch.ones(len(octave), 1, dtype=torch.float64), octave.clamp(min=1).cpu() - 150)
        mantissa = (torch.arange(BINS, device=octave.device) + (octave > 0) * BINS) << RESIDUAL_BITS
        unit = unit.to(octave.device)
        return mantissa * unit, unit

    def _bin_sums(self) -> Tensor:
        start, unit = self._starts()
        return start * self.counts + unit * self.residuals

    def _signed(self, magnitudes: Tensor) -> Tensor:
        return torch.where((self.places < OCTAVES)[:, None], magnitudes, -magnitudes)


def carried(cells: Tensor) -> Tensor:
    """Give sums of squares in their one canonical form: every cell below 4, the rest carried to the next."""
    values, carry = cells.tolist(), 0
    for cell, value in enumerate(values):
        carry, values[cell] = divmod(value + carry, 4) if cell + 1 < len(values) else (0, value + carry)
    return torch.tensor(values, dtype=torch.int64, device=cells.device)
