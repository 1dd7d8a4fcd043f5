"""The sketch of a tensor, and the step and zero point of least error for many bit-widths at once."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, twin
from ribs.ops.build import is_native, on, place
from ribs.ops.norm_steps import least_norm
from ribs.ops.sketch import BINS, CELLS, OCTAVES, Sketch
from ribs.ops.twin import StepSearch

_OP = "search_steps"
_SKETCHED = 8192  # more values than this that share a step are sketched
_WORKSPACE = 1 << 28  # bytes; CUDA takes the rows in portions that need no more


def sketch(x: Tensor) -> Sketch:
    """Read a tensor once and keep what a step search needs to know of it; sketches add up exactly.

    One pass of native code on the CPU and two on CUDA, which is waited for; plain torch on other devices.

    Args:
        x: float32 of any layout, finite, not empty.

    Raises:
        TypeError: x is not float32.
        ValueError: x is empty or not finite.
    """
    check.searchable("sketch", x, None)
    x = x.detach()
    if not is_native(x.device):
        return twin.sketch(x)
    row = twin.rows_of(x, None)
    # Room for all octaves: on the CPU, memory that is not written to is never there.
    create = torch.zeros if x.device.type == "cuda" else torch.empty
    counts, residuals = (create(2 * OCTAVES, BINS, dtype=torch.int64, device=x.device) for _ in range(2))
    squares = create(CELLS, dtype=torch.int64, device=x.device)
    places, totals = counts.new_empty(2 * OCTAVES), counts.new_empty(2)
    room = Sketch(places, counts, residuals, squares, totals, torch.empty(2, device=x.device))
    workspace = torch.empty(64, dtype=torch.uint8, device=x.device)
    with on(x.device):
        rows = _core.sketch(row.data_ptr(), row.numel(), _addresses(room), workspace.data_ptr(), *place(x.device))
    if x.device.type == "cuda":
        if not bool(room.extremes.isfinite().all()):
            check.finite("sketch", int(x.isnan().sum()), int(x.isinf().sum()))
        places = counts.any(1).nonzero().flatten()
        return replace(room, places=places, counts=counts[places], residuals=residuals[places])
    if bool((places[:rows] % OCTAVES == OCTAVES - 1).any()):
        check.finite("sketch", int(x.isnan().sum()), int(x.isinf().sum()))
    written = [part[:rows].clone() for part in (places, counts, residuals)]
    return replace(room, places=written[0], counts=written[1], residuals=written[2])


def _addresses(sketch: Sketch) -> tuple[int, ...]:
    return tuple(part.data_ptr() for part in vars(sketch).values())


def search_steps(
    x: Tensor | Sketch,
    bits: Iterable[int] = range(2, 9),
    *,
    symmetric: bool,
    axis: int | None = None,
    exact: bool = False,
    p: float = 2.0,
) -> StepSearch:
    """Find the step and the zero point with the least squared error of x, for every bit-width.

    Symmetric codes are [-2^(bits-1), 2^(bits-1) - 1] with a zero point of 0; asymmetric codes are
    [0, 2^bits - 1] with a zero point among them, so that zero is exactly representable. At equal errors the
    larger step wins. Data that is zero throughout gets a step of 1.

    What is done depends on how many values share a step. Up to 32: every vector of codes is tried, and the
    answer is exact. Up to 8192: a grid of steps that gets finer around the best; nothing is proven, and
    `lower_bound` is 0. More: one read of x makes a sketch of it, on which steps are ruled out until what is
    left cannot be better by 1/4096 (1/1024 at 7 bits, 1/512 at 8); `lower_bound` is what no step and no zero
    point can go below, and it also allows for what the sketch does not know. A `Sketch` in the place of x is
    searched in this last way.

    Args:
        x: float32 of any layout, finite, not empty; or a sketch, for instance the sum of several.
        bits: bit-widths among 1..8, by default 2 to 8; their order is kept.
        symmetric: whether codes lie around zero.
        axis: the dimension of x with a quantizer for each index; by default one for the whole tensor.
        exact: sort the values and prove the least error to one part in a million, or as near to that as 65536
            evaluated steps come (`lower_bound` tells); takes many times longer.
        p: the power of the error whose mean is the least. Anything but 2 is searched in plain torch around the
            answer for 2 (tensors of more than 8192 values by the means of their bins), and nothing is proven;
            by channels that takes seconds for a layer of millions of weights.

    Returns: `StepSearch(step, zero_point, mse, lower_bound)` of float32, int32, float32 and float32, each
    [len(bits)] without an axis and [len(bits), channels] with one. `mse` is the mean of |error|^p, for p = 2
    an upper bound of it where x was sketched; no quantizer of that many bits has one below `lower_bound`.

    Raises:
        TypeError: x is not float32, or bits are not ints.
        ValueError: a bit-width, the axis or p is out of range, an option does not go with a sketch, the sketch
            is damaged, or x is empty or not finite. On CUDA values that are not finite give NaN steps instead,
            since finding out would wait for the device.
    """
    widths = check.bit_widths(_OP, bits)
    check.power(_OP, p)
    if isinstance(x, Sketch):
        check.sketch_options(_OP, axis, exact)
        check.sketch(_OP, x)
        found = _search_sketch(x, widths, symmetric)
        return found if p == 2 else _norm(found, *x.means(), widths, symmetric, p)
    check.searchable(_OP, x, axis)
    x = x.detach()
    found = _search_tensor(x, widths, symmetric, axis, exact)
    if p == 2:
        return found
    if axis is None and x.numel() > _SKETCHED:
        return _norm(found, *sketch(x).means(), widths, symmetric, p)
    rows = twin.rows_of(x.cpu() if x.device.type == "mps" else x, axis).double()  # float64 is not to be had there
    ones = rows.new_ones(rows.shape[1])
    return _norm(found, rows if axis is not None else rows[0], ones, widths, symmetric, p)


def _norm(
    found: StepSearch, values: Tensor, counts: Tensor, bits: tuple[int, ...], symmetric: bool, p: float
) -> StepSearch:
    """Search around `found` for another power of the error; values are [n] or [channels, n]."""
    if values.dim() == 2:
        return least_norm(found, values, counts, bits, symmetric=symmetric, p=p)
    start = StepSearch(*(each[:, None] for each in found))
    return StepSearch(*(each[:, 0] for each in least_norm(start, values[None], counts, bits, symmetric=symmetric, p=p)))


def _search_sketch(x: Sketch, bits: tuple[int, ...], symmetric: bool) -> StepSearch:
    """Search a sketch on the CPU, whatever device it is on: that takes less time than a kernel's launch saves."""
    here = Sketch(*(part.cpu().contiguous() for part in vars(x).values()))
    step, mse, lower_bound = (torch.empty(len(bits)) for _ in range(3))
    zero_point, nonfinite = torch.empty(len(bits), dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    _core.search_sketch(
        len(here.places),
        _addresses(here),
        here.count,
        bits,
        symmetric,
        step.data_ptr(),
        zero_point.data_ptr(),
        mse.data_ptr(),
        lower_bound.data_ptr(),
        nonfinite.data_ptr(),
    )
    return StepSearch(*(each.to(x.places.device) for each in (step, zero_point, mse, lower_bound)))


def _search_tensor(x: Tensor, bits: tuple[int, ...], symmetric: bool, axis: int | None, exact: bool) -> StepSearch:
    if not is_native(x.device):
        return twin.search_steps(x, bits, symmetric=symmetric, axis=axis, exact=exact)
    rows = twin.rows_of(x, axis)
    parts = [_search_rows(part, bits, symmetric, exact) for part in rows.split(_portion(rows, exact))]
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
