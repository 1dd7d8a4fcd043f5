"""Steps of linears by what comes out of them: the least squared error of their output on the calibration set.

The squared error of a weight or an activation alone weighs all of them alike and looks at each by itself. In a product
some count far more than others, and errors add up or cancel. All searches go over steps around given ones, these among
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ribs import ops
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import StepAverage, Steps, code_range

ROWS = 512  # of inputs that are kept of a linear, of all batches together
WEIGHT_FACTORS = tuple(2 ** (each / 32) for each in sorted(range(-24, 25), key=abs))  # the start wins ties
END_FACTORS = tuple(2 ** (each / 4) for each in range(-6, 2))  # of each end of a range


def rows_of(x: Tensor, count: int) -> Tensor:
    """Vectors [n, channels] of x [..., channels], drawn at random, the same for all x of a size: at most `count`.

    Evenly spaced ones would be those of few places in an image, whose numbers of places are powers of two.
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    if len(rows) <= count:
        return rows.clone()
    drawn = torch.randint(len(rows), (count,), generator=torch.Generator().manual_seed(0))
    return rows[drawn.to(rows.device)]


def weight_steps(weight: Tensor, rows: Tensor, step: Tensor, bits: Sequence[int]) -> Tensor:
    """Steps [K, out] of least squared error of rows @ weight.T, each output by itself.

    weight: [out, in].  rows: [n, in].  step: [K, out], around which to look.
    """
    found = []
    for start, width in zip(step, bits, strict=True):
        codes, zero = code_range(width, symmetric=True), torch.zeros_like(start, dtype=torch.int32)
        best, least = start, torch.full_like(start, torch.inf)
        for factor in WEIGHT_FACTORS:
            tried = start * factor
            off = ops.fake_quantize(weight, tried, zero, *codes, 0) - weight
            error = (rows @ off.T).square().sum(0)
            best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
        found.append(best)
    return torch.stack(found)


def input_steps(rows: Tensor, weight: Tensor, steps: Steps, bits: Sequence[int]) -> Steps:
    """The step and zero point [K] of all rows of least squared error of rows @ weight.T.

    rows: [n, in].  weight: [out, in].  steps: around which to look; both ends of the range move by themselves.
    """
    found = []
    for step, zero_point, width in zip(*steps, bits, strict=True):
        candidates = _around(float(step), int(zero_point), 2**width)
        errors = []
        for tried, zero in candidates:
            off = ops.fake_quantize(rows, step.new_tensor(tried), zero_point.new_tensor(zero), 0, 2**width - 1) - rows
            errors.append((off @ weight.T).square().sum())
        found.append(candidates[int(torch.stack(errors).argmin())])
    step, zero_point = steps
    return step.new_tensor([tried for tried, _ in found]), zero_point.new_tensor([zero for _, zero in found])


def _around(step: float, zero_point: int, codes: int) -> list[tuple[float, int]]:
    """Steps and zero points with ranges around one's, itself first: from half a step below the first code on."""
    low, high = -(zero_point + 0.5) * step, (codes - zero_point - 0.5) * step
    tried = {(step, zero_point): None}
    for down, up in itertools.product(END_FACTORS, END_FACTORS):
        width = (high * up - low * down) / codes
        tried[width, min(max(round(-low * down / width - 0.5), 0), codes - 1)] = None
    return list(tried)


class LinearSteps(StepAverage):
    """Steps of the input of a linear, for the least squared error of its output where all channels have one step.

    rows: what it keeps of the input.  count: of how many vectors of each batch.
    """

    count = ROWS

    def __init__(
        self, name: str, choices: Sequence[int], layer: QuantizedLayer, call: int, find: Callable[..., Steps]
    ) -> None:
        super().__init__(name, choices, layer.activation_quantizers[call], find)
        self.layer = layer
        self.rows: list[Tensor] = []

    def see(self, x: Tensor) -> None:
        self.rows.append(rows_of(self.layer.vectors(x), self.count))
        super().see(x)

    def steps_of(self, x: Tensor) -> Steps:
        found = super().steps_of(x)
        if not self.quantizer.is_per_tensor:
            return found
        return input_steps(self.rows[-1], self.layer.matrix, found, self.choices)
