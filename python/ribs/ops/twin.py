"""Every operator in plain torch: the oracle of the tests, and the fallback on devices without native code.

Those of reconstruction are in `ribs.ops.soft_twin`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ribs.ops import check, check_packing
from ribs.ops.sketch import BINS, CELLS, OCTAVES, RESIDUAL_BITS, Sketch, carried
from ribs.ops.twin_levels import fake_quantize_log_sqrt2 as fake_quantize_log_sqrt2
from ribs.ops.twin_levels import fake_quantize_nonuniform as fake_quantize_nonuniform
from ribs.ops.twin_levels import search_levels as search_levels
from ribs.ops.twin_levels import search_log_sqrt2 as search_log_sqrt2


class StepSearch(NamedTuple):
    """Steps, zero points, mean squared errors and what these cannot go below, each [bits] or [bits, channels]."""

    step: Tensor
    zero_point: Tensor
    mse: Tensor
    lower_bound: Tensor


class ConfigCost(NamedTuple):
    """Bit operations and bits of weights, each [configs]."""

    bops: Tensor
    weight_bits: Tensor


def fake_quantize(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    floor: Tensor | None = None,
    signs: Tensor | None = None,
) -> Tensor:
    """Round x to the values a quantizer can represent; see `ribs.ops.fake_quantize`."""
    u, step, low, high = relative(x, step, zero_point, qmin, qmax, axis, floor, signs)
    # An integer code has no negative zero; adding +0 removes it. clamp keeps NaN.
    return ((u.round().clamp(low, high) + 0.0) * step).to(x.dtype)


def quantize(x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    """Give the codes of x; see `ribs.ops.quantize`."""
    dtype = check.codes("quantize", qmin, qmax)
    u, _, low, high = relative(x, step, zero_point, qmin, qmax, axis)
    if x.device.type == "cpu":
        check.no_nan("quantize", bool(u.isnan().any()))
    above = (u.round().clamp(low, high) - low).nan_to_num(0.0).clamp(0, qmax - qmin)
    return (above + qmin).to(dtype)


def fake_quantize_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    floor: Tensor | None = None,
    signs: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Give the LSQ gradients of x and the step."""
    u, _, low, high = relative(x, step, zero_point, qmin, qmax, axis, floor, signs)
    code = u.round().clamp(low, high)
    outside = (u < low) | (u > high)
    grad_x = torch.where((u >= low) & (u <= high), grad, 0.0)
    share = widest(grad) * widest(torch.where(outside, code, code - u))
    dims = [d for d in range(x.dim()) if axis is None or step.numel() == 1 or d != axis % x.dim()]
    total = (share.sum(dims) if dims else share) * scale
    out = torch.empty_like(x).copy_(grad_x)
    return out, total.to(step.dtype).reshape(step.shape)


def relative(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None,
    floor: Tensor | None = None,
    signs: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give x / step, the step, and the range of codes relative to the zero point, shaped to broadcast."""
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    x = x.float() if x.dtype in check.HALF else x
    step = step if floor is None else torch.maximum(step, floor)
    valid = (step > 0) & (step < torch.inf)
    step = torch.where(valid, step, torch.nan).reshape(shape)
    zero_point = zero_point.reshape(shape)
    low, high = (qmin - zero_point).to(x.dtype), (qmax - zero_point).to(x.dtype)
    if signs is not None:  # minus what -x is rounded to has the range turned around
        negative = signs.reshape(shape) < 0
        low, high = torch.where(negative, -high, low), torch.where(negative, -low, high)
    return x / step, step, low, high


def widest(x: Tensor) -> Tensor:
    """Give x in float64 where the device has it."""
    return x if x.device.type == "mps" else x.double()


def rows_of(x: Tensor, axis: int | None) -> Tensor:
    """Give x as dense [channels, n], or [1, n] without an axis; values of a row may come in any order."""
    if axis is not None:
        return x.movedim(axis, 0).reshape(x.shape[axis], -1).contiguous()
    if not x.is_contiguous() and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(1, -1).contiguous()  # a reshape may be a strided view


def sketch(x: Tensor) -> Sketch:
    """Sketch a tensor by adding up integers; see `ribs.ops.sketch`."""
    check.searchable("sketch", x, None)
    check.finite("sketch", int(x.isnan().sum()), int(x.isinf().sum()))
    x = x.detach().flatten()
    x = x.cpu() if x.device.type == "mps" else x  # what is done with sketches wants float64
    word = x.view(torch.int32).long() & 0xFFFFFFFF
    word = word[(word & 0x7FFFFFFF) != 0]
    key, residual = word >> RESIDUAL_BITS, word & (1 << RESIDUAL_BITS) - 1
    places, inverse = (key // BINS).unique(return_inverse=True)
    at = inverse * BINS + key % BINS
    counts = torch.zeros(len(places) * BINS, dtype=torch.int64, device=x.device)
    residuals = torch.zeros_like(counts).index_add_(0, at, residual)
    counts.index_add_(0, at, torch.ones_like(at))
    squares = torch.zeros(CELLS, dtype=torch.int64, device=x.device)
    squares.index_add_(0, (key // BINS % OCTAVES).clamp(min=1), residual * residual)
    totals = torch.tensor([x.numel(), x.numel() - len(word)], device=x.device)
    extremes = torch.stack([x.min(), x.max()])
    return Sketch(places, counts.view(-1, BINS), residuals.view(-1, BINS), carried(squares), totals, extremes)


def search_steps(
    x: Tensor, bits: Iterable[int] = range(2, 9), *, symmetric: bool, axis: int | None = None, exact: bool = False
) -> StepSearch:
    """Find the step and zero point of least squared error by a dense search; see `ribs.ops.search_steps`.

    Every error is exact, whatever `exact` says, but nothing is proven: `lower_bound` is 0.
    """
    widths = check.bit_widths("search_steps", bits)
    check.searchable("search_steps", x, axis)
    check.finite("search_steps", int(x.isnan().sum()), int(x.isinf().sum()))
    rows = rows_of(x.detach(), axis)
    rows = rows.cpu() if rows.device.type == "mps" else rows
    found = [_search_row(row.double(), widths, symmetric) for row in rows]
    step, zero_point, mse = (torch.stack(each, 1) for each in zip(*found, strict=True))
    result = StepSearch(step.float(), zero_point.int(), mse.float(), torch.zeros_like(mse).float())
    return StepSearch(*((each if axis is not None else each[:, 0]).to(x.device) for each in result))


def _search_row(row: Tensor, bits: tuple[int, ...], symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    largest = row.abs().max()
    if largest == 0:
        zero = torch.zeros(len(bits), dtype=torch.float64)
        return zero + 1, zero, zero
    row = row.sort().values
    tail = torch.cat([row.flip(0).cumsum(0).flip(0), row.new_zeros(1)])
    found = [_search_bits(row, tail, width, symmetric, float(largest)) for width in bits]
    step, zero_point, mse = (row.new_tensor(each) for each in zip(*found, strict=True))
    return step, zero_point, mse


def _search_bits(row: Tensor, tail: Tensor, bits: int, symmetric: bool, largest: float) -> tuple[float, int, float]:
    """Search from all codes zero down to heavy clipping, deeper for few bits; then around the best."""
    smallest = torch.finfo(torch.float32).tiny
    span = 2 * largest / 2**bits
    best = _best_of(row, tail, span * 2 ** torch.arange(bits - 12, bits + 1, 1 / 64).double(), bits, symmetric)
    for spacing in (1 / 1024, 1 / 16384):
        near = best[1] * 2 ** (torch.arange(-32, 33).double() * spacing)
        best = min(best, _best_of(row, tail, near, bits, symmetric))
    error, step, zero_point = best
    return max(step, smallest), zero_point, max(error, 0.0) / len(row)


def _best_of(row: Tensor, tail: Tensor, steps: Tensor, bits: int, symmetric: bool) -> tuple[float, float, int]:
    """Give (error, step, zero point) of the best candidate, from sums over the thresholds passed."""
    steps = steps.to(row.device).float().double()
    levels = 2**bits
    k = torch.arange(levels - 1, dtype=torch.float64, device=row.device)
    threshold = (k + 0.5) * steps[:, None]
    above = torch.searchsorted(row, threshold, right=True)
    below = torch.searchsorted(row, -threshold)
    product = _from_zero(tail[above]), _from_zero(tail[below] - tail[0])
    square = _from_zero((2 * k + 1) * (len(row) - above)), _from_zero((2 * k + 1) * below)
    z = torch.tensor([levels // 2]) if symmetric else torch.arange(levels)
    up, down = (levels - 1 - z).to(row.device), z.to(row.device)
    a = product[0][:, up] + product[1][:, down]
    b = square[0][:, up] + square[1][:, down]
    error = (row * row).sum() - steps[:, None] * (2 * a - steps[:, None] * b)
    at = int(error.argmin())
    candidate, window = divmod(at, len(z))
    return float(error.flatten()[at]), float(steps[candidate]), 0 if symmetric else int(z[window])


def _from_zero(x: Tensor) -> Tensor:
    """Give cumulative sums along the last dimension, starting from none."""
    return torch.nn.functional.pad(x.cumsum(-1), (1, 0))


def config_cost(bits: Tensor, macs: Tensor, weights: Tensor) -> ConfigCost:
    """Add up what every configuration costs; see `ribs.ops.config_cost`."""
    check.cost_arguments("config_cost", bits, macs, weights)
    weight, activation = bits.to(torch.int64).unbind(-1)
    return ConfigCost((macs * weight * activation).sum(1), (weights * weight).sum(1))


def pack_bits(codes: Tensor, bits: int, *, align: int = 1) -> Tensor:
    """Pack codes of a few bits into bytes; see `ribs.ops.pack_bits`."""
    check_packing.packing("pack_bits", "codes", codes, bits, align)
    check_packing.codes_fit("pack_bits", codes, bits, first_at(codes.int() >= 2**bits))
    stream = (codes[..., None] >> torch.arange(bits, device=codes.device) & 1).flatten(-2)
    stream = torch.nn.functional.pad(stream, (0, 8 * row_bytes(codes.shape[-1], bits, align) - stream.shape[-1]))
    powers = 1 << torch.arange(8, device=codes.device)
    packed: Tensor = (stream.unflatten(-1, (-1, 8)) * powers).sum(-1)
    return packed.to(torch.uint8)


def unpack_bits(packed: Tensor, bits: int, n: int, *, align: int = 1) -> Tensor:
    """Unpack codes of a few bits from bytes; see `ribs.ops.unpack_bits`."""
    check_packing.packing("unpack_bits", "packed", packed, bits, align)
    check_packing.row_length("unpack_bits", packed, n, row_bytes(n, bits, align))
    stream = (packed[..., None] >> torch.arange(8, device=packed.device) & 1).flatten(-2)
    check_packing.padding("unpack_bits", packed, first_at(stream[..., n * bits :].any(-1)))
    powers = 1 << torch.arange(bits, device=packed.device)
    codes: Tensor = (stream[..., : n * bits].unflatten(-1, (n, bits)) * powers).sum(-1)
    return codes.to(torch.uint8)


def row_bytes(n: int, bits: int, align: int) -> int:
    """Give the bytes that a row of n codes takes, a multiple of `align`."""
    return -(-n * bits // (8 * align)) * align


def first_at(found: Tensor) -> int | None:
    """Give the index of the first True among all values, or None."""
    at = found.flatten().nonzero()
    return int(at[0]) if len(at) else None
