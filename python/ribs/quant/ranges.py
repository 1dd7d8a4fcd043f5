"""Ways to find the step and zero point of a tensor for many bit-widths at once, all with the signature of `mse`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ribs import ops
from ribs.quant.quantizer import Steps, code_range
from ribs.quant.recipe import Ranges

POWER = 2.4  # of the error, in BRECQ and QDrop
PERCENTILES = (0.999, 0.9999, 0.99999)  # of RepQ-ViT


def mse(x: Tensor, bits: Sequence[int], *, symmetric: bool, axis: int | None) -> Steps:
    """Steps of least squared error.

    x: float32, finite, not empty.  symmetric: whether codes lie around zero.  axis: the dimension with a step for each
        index; None for one step.
    """
    found = ops.search_steps(x, bits, symmetric=symmetric, axis=axis)
    return found.step, found.zero_point


def norm(x: Tensor, bits: Sequence[int], *, symmetric: bool, axis: int | None) -> Steps:
    """Steps of least power 2.4 of the error, as BRECQ and QDrop have them; they cut off less than those of `mse`."""
    found = ops.search_steps(x, bits, symmetric=symmetric, axis=axis, p=POWER)
    return found.step, found.zero_point


def minmax(x: Tensor, bits: Sequence[int], *, symmetric: bool, axis: int | None) -> Steps:
    """Steps with which the codes reach from the least to the largest value, zero among them."""
    rows = _rows(x, axis)
    return _squeezed(_between(rows.amin(1), rows.amax(1), bits, symmetric), axis)


def percentile(x: Tensor, bits: Sequence[int], *, symmetric: bool, axis: int | None) -> Steps:
    """Of the ranges that leave out the outer 0.1, 0.01 and 0.001 % on either side, the one of least squared error.

    These are the ranges of RepQ-ViT (arXiv 2212.08254). Values that share one step are sketched, so that percentiles
    are known to 1/2048.
    """
    ordered, counts = _ordered(x, axis)
    rank = counts.cumsum(0)
    found = []
    for share in PERCENTILES:
        low, high = _quantile(ordered, rank, 1 - share), _quantile(ordered, rank, share)
        step, zero_point = _between(low, high, bits, symmetric)
        errors = [
            (ops.fake_quantize(ordered, s, z, *code_range(b, symmetric), 0) - ordered).square() @ counts.float()
            for s, z, b in zip(step, zero_point, bits, strict=True)
        ]
        found.append((step, zero_point, torch.stack(errors)))
    steps, zero_points, errors_of = (torch.stack(each) for each in zip(*found, strict=True))
    best = errors_of.argmin(0, keepdim=True)
    return _squeezed((steps.gather(0, best)[0], zero_points.gather(0, best)[0]), axis)


def cut(x: Tensor, bits: Sequence[int], *, symmetric: bool, axis: int | None) -> Steps:
    """Steps with which the codes leave out the outer 0.1 % on either side, at every bit-width.

    So the steps of rows have one ratio to each other at all bit-widths.
    """
    ordered, counts = _ordered(x, axis)
    rank, share = counts.cumsum(0), PERCENTILES[0]
    low, high = _quantile(ordered, rank, 1 - share), _quantile(ordered, rank, share)
    return _squeezed(_between(low, high, bits, symmetric), axis)


RANGES: Mapping[Ranges, Callable[..., Steps]] = {
    "minmax": minmax,
    "mse": mse,
    "norm": norm,
    "percentile": percentile,
    "cut": cut,
}


def _between(low: Tensor, high: Tensor, bits: Sequence[int], symmetric: bool) -> Steps:
    """Steps [K, rows] with which the codes reach from low to high [rows]; 1 where there is nothing but zero."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    steps, zero_points = [], []
    for each in bits:
        qmin, qmax = code_range(each, symmetric)
        step = torch.maximum(low / qmin, high / max(qmax, 1)) if symmetric else (high - low) / qmax
        step = torch.where(step > 0, step, 1.0)
        steps.append(step)
        zero_points.append(torch.zeros_like(step) if symmetric else (-low / step).round().clamp(qmin, qmax))
    return torch.stack(steps), torch.stack(zero_points).int()


def _ordered(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """The values of each row [rows, n], ascending, and for how many each stands, float64 [n]."""
    if axis is not None:
        ordered = _rows(x, axis).sort(1).values
        return ordered, ordered.new_ones(ordered.shape[1], dtype=torch.float64)
    means, counts = ops.sketch(x).means()
    order = means.argsort()
    return means[order].float()[None], counts[order]


def _quantile(ordered: Tensor, rank: Tensor, share: float) -> Tensor:
    """Between the two values around that share of each row; rank: how many there are up to each, [n]."""
    place = share * (float(rank[-1]) - 1)
    around = torch.tensor([math.floor(place), math.ceil(place)], dtype=rank.dtype, device=rank.device)
    below, above = ordered[:, torch.searchsorted(rank, around, right=True)].unbind(1)
    return torch.lerp(below, above, place - math.floor(place))


def _rows(x: Tensor, axis: int | None) -> Tensor:
    x = x.detach()
    if not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or Inf")
    return x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)


def _squeezed(found: Steps, axis: int | None) -> Steps:
    step, zero_point = found
    return (step[:, 0], zero_point[:, 0]) if axis is None else found
