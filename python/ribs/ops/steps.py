"""The MSE-optimal step and zero point of a tensor, for many bit-widths at once."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, twin
from ribs.ops.build import is_native, on, place
from ribs.ops.twin import StepSearch

_OP = "search_steps"
_WORKSPACE = 1 << 28  # bytes; CUDA takes the rows in portions that need no more


def search_steps(
    x: Tensor, bits: Iterable[int] = range(2, 9), *, symmetric: bool, axis: int | None = None, exact: bool = False
) -> StepSearch:
    """Find the step and the zero point with the least squared error of x, for every bit-width.

    Symmetric codes are [-2^(bits-1), 2^(bits-1) - 1] with a zero point of 0; asymmetric codes are
    [0, 2^bits - 1] with a zero point among them, so that zero is exactly representable. At equal errors the
    larger step wins. Data that is zero throughout gets a step of 1.

    What is done depends on how many values share a step. Up to 32: every vector of codes is tried, and the
    answer is exact. Up to 8192: a grid of steps that gets finer around the best; nothing is proven, and
    `lower_bound` is 0. More: one read of x makes a sketch of it, on which steps are ruled out until what is
    left cannot be better by 1/4096 (1/1024 at 7 bits, 1/512 at 8); `lower_bound` is what no step and no zero
    point can go below, and it also allows for what the sketch does not know.

    Args:
        x: float32 of any layout, finite, not empty.
        bits: bit-widths among 1..8, by default 2 to 8; their order is kept.
        symmetric: whether codes lie around zero.
        axis: the dimension of x with a quantizer for each index; by default one for the whole tensor.
        exact: sort the values and prove the least error to one part in a million; takes many times longer.

    Returns: `StepSearch(step, zero_point, mse, lower_bound)` of float32, int32, float32 and float32, each
    [len(bits)] without an axis and [len(bits), channels] with one. `mse` is the mean squared error of a value,
    or an upper bound of it where x was sketched; no quantizer of that many bits has one below `lower_bound`.

    Raises:
        TypeError: x is not float32, or bits are not ints.
        ValueError: a bit-width or the axis is out of range, or x is empty or not finite. On CUDA values that
            are not finite give NaN steps instead, since finding out would wait for the device.
    """
    widths = check.bit_widths(_OP, bits)
    check.searchable(_OP, x, axis)
    x = x.detach()
    if not is_native(x.device):
        return twin.search_steps(x, widths, symmetric=symmetric, axis=axis, exact=exact)
    rows = twin.rows_of(x, axis)
    parts = [_search_rows(part, widths, symmetric, exact) for part in rows.split(_portion(rows, exact))]
    found = parts[0] if len(parts) == 1 else StepSearch(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))
    return found if axis is not None else StepSearch(*(each[:, 0] for each in found))


def _portion(rows: Tensor, exact: bool) -> int:
    """How many rows to search in one go."""
    if rows.device.type == "cpu":
        return rows.shape[0]
    one = _core.search_steps_workspace(1, rows.shape[1], exact)
    return max(1, min(rows.shape[0], _WORKSPACE // max(one, 1)))


def _search_rows(rows: Tensor, bits: tuple[int, ...], symmetric: bool, exact: bool) -> StepSearch:
    count, n = rows.shape
    step = torch.empty(len(bits), count, device=rows.device)
    zero_point = torch.empty(len(bits), count, dtype=torch.int32, device=rows.device)
    mse, lower_bound = torch.empty_like(step), torch.empty_like(step)
    nonfinite = torch.zeros(1, dtype=torch.int64, device=rows.device)
    on_cuda = rows.device.type == "cuda"
    size = _core.search_steps_workspace(count, n, exact) if on_cuda else 0
    workspace = torch.empty(size, dtype=torch.uint8, device=rows.device)
    ordered = rows.sort(dim=1).values if on_cuda and exact else rows
    with on(rows.device):
        _core.search_steps(
            rows.data_ptr(),
            count,
            n,
            bits,
            symmetric,
            exact,
            step.data_ptr(),
            zero_point.data_ptr(),
            mse.data_ptr(),
            lower_bound.data_ptr(),
            nonfinite.data_ptr(),
            workspace.data_ptr(),
            ordered.data_ptr(),
            *place(rows.device),
        )
    if not on_cuda and nonfinite.item():
        check.finite(_OP, int(rows.isnan().sum()), int(rows.isinf().sum()))
    return StepSearch(step, zero_point, mse, lower_bound)
