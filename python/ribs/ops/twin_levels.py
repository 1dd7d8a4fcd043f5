"""The operators on levels at unequal distances in plain torch; `ribs.ops.twin` has them beside the others."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ribs.ops import check

PERCENTILES = (0.999, 0.9999, 0.99999)  # of which RepQ-ViT chooses


class LevelSearch(NamedTuple):
    """Steps of each bit-width, float32 [2^bits - 1], and mean squared errors [len(bits)]."""

    steps: tuple[Tensor, ...]
    mse: Tensor


class LogSearch(NamedTuple):
    """The step and the mean squared error of each bit-width, each float32 [len(bits)]."""

    step: Tensor
    mse: Tensor


def fake_quantize_nonuniform(x: Tensor, steps: Tensor) -> Tensor:
    """Round x to zero and to sums of the steps; see `ribs.ops.fake_quantize_nonuniform`."""
    return _rounded(x, *nonuniform_table(steps))


def fake_quantize_nonuniform_backward(grad: Tensor, x: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Give the nuLSQ gradients of x and of the steps."""
    grad_x, sums = _gradients(grad, x, *nonuniform_table(steps))
    return grad_x, (sums[1:] / steps + sums[0]).to(steps.dtype)


def fake_quantize_log_sqrt2(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Round x to zero and to half octaves below the step; see `ribs.ops.fake_quantize_log_sqrt2`."""
    return _rounded(x, *log_sqrt2_table(step, bits))


def fake_quantize_log_sqrt2_backward(grad: Tensor, x: Tensor, step: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Give the straight-through gradients of x and of the step."""
    grad_x, sums = _gradients(grad, x, *log_sqrt2_table(step, bits))
    return grad_x, (sums[1:].sum() / step + sums[0]).to(step.dtype)


def search_levels(x: Tensor, bits: Iterable[int] = range(2, 9)) -> LevelSearch:
    """Find the levels of least squared error among all there are; see `ribs.ops.search_levels`.

    Takes memory for the square of the number of different values.
    """
    widths = check.bit_widths("search_levels", bits)
    check.searchable("search_levels", x, None)
    check.finite("search_levels", int(x.isnan().sum()), int(x.isinf().sum()))
    values, counts = x.detach().cpu().double().unique(return_counts=True)
    values, counts = values[values > 0], counts[values > 0].double()
    count, total = (torch.nn.functional.pad(each.cumsum(0), (1, 0)) for each in (counts, counts * values))
    size = count - count[:, None]
    gain = torch.where(size > 0, (total - total[:, None]).square() / size, torch.where(size < 0, -torch.inf, 0.0))
    saved, begins = torch.zeros_like(count), []
    for _ in range(2 ** max(widths) - 1):
        saved, begin = (saved[:, None] + gain).max(0)
        begins.append(begin.tolist())
    steps = []
    for width in widths:
        levels, last = [0.0], len(values)
        for first_of in reversed(begins[: 2**width - 1]):
            first = first_of[last]
            if first < last:
                levels.insert(1, float((total[last] - total[first]) / (count[last] - count[first])))
            last = first
        ones = [1.0] * (2**width - 1)  # where no value is positive
        steps.append(_halved([b - a for a, b in pairwise(levels)] or ones, 2**width - 1))
    mse = [(x - fake_quantize_nonuniform(x, each.to(x))).double().square().mean() for each in steps]
    return LevelSearch(tuple(each.to(x.device) for each in steps), torch.stack(mse).float())


def search_log_sqrt2(x: Tensor, bits: Iterable[int] = range(2, 9)) -> LogSearch:
    """Choose among percentiles of the sorted values; see `ribs.ops.search_log_sqrt2`."""
    widths = check.bit_widths("search_log_sqrt2", bits)
    check.searchable("search_log_sqrt2", x, None)
    check.finite("search_log_sqrt2", int(x.isnan().sum()), int(x.isinf().sum()))
    ordered = x.detach().flatten().sort().values
    steps = ordered[[min(math.ceil(len(ordered) * each), len(ordered)) - 1 for each in PERCENTILES]]
    steps = steps[steps > 0] if bool(steps.max() > 0) else ordered[-1:].clamp(min=0)
    steps = torch.where(steps > 0, steps, 1.0).flip(0)
    errors = [
        torch.stack([(x - fake_quantize_log_sqrt2(x, step, width)).double().square().mean() for step in steps])
        for width in widths
    ]
    mse, best = torch.stack(errors).min(1)
    return LogSearch(steps[best], mse.float())


def _halved(steps: list[float], count: int) -> Tensor:
    """Halve the widest steps until there are `count`."""
    while len(steps) < count:
        at = max(range(len(steps)), key=steps.__getitem__)
        steps[at : at + 1] = [steps[at] / 2] * 2
    return torch.tensor(steps)


def _rounded(x: Tensor, levels: Tensor, thresholds: Tensor) -> Tensor:
    value = x.to(levels.dtype)
    found = levels[_indices(value, thresholds)]
    return torch.empty_like(x).copy_(torch.where(value.isnan(), value, found))


def _indices(x: Tensor, thresholds: Tensor) -> Tensor:
    """Count the thresholds that values reach; NaN reaches none."""
    found = torch.bucketize(x.contiguous(), thresholds, right=True)
    return torch.where(x.isnan() | thresholds[0].isnan(), 0, found)


def _gradients(grad: Tensor, x: Tensor, levels: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Give the gradient of x, and sums of `grad` over what all steps see, then of `grad` times errors by interval."""
    value, wide = x.to(levels.dtype), grad.double()
    index = _indices(value, thresholds)
    level, top = levels[index], levels[-1]
    inside = (value >= 0) & (value <= top)
    beyond = torch.where(value > top, 1.0, torch.where(value < 0, levels[0].double(), torch.nan))
    share = wide * torch.where(inside, level.double() - value.double(), beyond)
    interval = torch.where(inside, index + (value > level), 0)
    sums = share.new_zeros(len(levels)).index_add_(0, interval.flatten(), share.flatten())
    return torch.empty_like(x).copy_(torch.where(inside, grad, 0.0)), sums


def nonuniform_table(steps: Tensor) -> tuple[Tensor, Tensor]:
    """Give levels from zero up, and the least value that is rounded to each but the first, or to one above it."""
    checked = torch.where((steps > 0) & (steps < torch.inf), steps, torch.nan).double()
    levels = torch.nn.functional.pad(checked.cumsum(0).to(steps.dtype), (1, 0))
    middle = 0.5 * (levels[:-1].double() + levels[1:].double())
    even = torch.arange(1, len(levels), device=steps.device) % 2 == 0
    return _valid(levels, _least(middle, even, steps.dtype))


def log_sqrt2_table(step: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Give the same for levels at half octaves, whose thresholds lie a quarter of an octave below."""
    codes = torch.arange(2**bits - 1, -1, -1, device=step.device)
    octaves = torch.ldexp(torch.ones_like(codes, dtype=torch.float64), -((codes + 1) // 2))
    roots = octaves.new_tensor([[1.0, 2.0**0.5], [2.0**-0.25, 2.0**0.25]])[:, codes % 2]
    wide = torch.where((step > 0) & (step < torch.inf), step, torch.nan).double().reshape(1)
    levels, thresholds = wide * (octaves * roots)
    levels = torch.nn.functional.pad(levels.to(step.dtype), (1, 0))
    return _valid(levels, _least(thresholds, torch.ones_like(codes, dtype=torch.bool), step.dtype))


def _least(value: Tensor, itself: Tensor, dtype: torch.dtype) -> Tensor:
    """Give the least number of a dtype that is at least `value`, or above it unless `itself` counts."""
    near = value.to(dtype)
    above = (near.double() < value) | ((near.double() == value) & ~itself)
    return torch.where(above, near.nextafter(near.new_full((), torch.inf)), near)


def _valid(levels: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Make all NaN of steps that are not positive and finite, or add up to more than there is."""
    valid = levels[-1] < torch.inf
    return torch.where(valid, levels, torch.nan), torch.where(valid, thresholds, torch.nan)
