"""The integers that quantization rounds to."""

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, twin
from ribs.ops.build import on, place
from ribs.ops.layout import dense, memory_order, split, written
from ribs.ops.native import ELEMENTS, in_torch

_OP = "quantize"


def quantize(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Give the codes of the values that `fake_quantize` rounds x to.

    `q = clamp(rint(x / step) + zero_point, qmin, qmax)`; `(q - zero_point) * step` is what `fake_quantize` gives,
    to the last bit, for zero points of up to 2^23 in magnitude. Infinities clamp. Codes have no gradient.

    Args:
        x: as for `fake_quantize`.
        step: as for `fake_quantize`.
        zero_point: as for `fake_quantize`.
        qmin: the smallest code, -128..255.
        qmax: the largest code, at most 255, or 127 where qmin is negative.
        axis: the dimension of x with a step for each index; by default one step for the whole tensor.
        out: where to write the codes, by default a new tensor: of the shape and strides of x, which must be dense,
            and apart from x in memory.

    Returns: uint8, or int8 where qmin is negative, of the shape and memory format of x; or `out`.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: shapes, devices or codes do not fit, a step is not positive and finite, `out` is not as above,
            or x holds NaN; `out` has then been written to. On CUDA NaN gives qmin instead, and such a step gives
            it everywhere, since to find them would wait for the device.
    """
    check.quantizer(_OP, x, step, zero_point, qmin, qmax, axis)
    dtype = check.codes(_OP, qmin, qmax)
    if x.device.type == "cpu":
        check.positive_step(_OP, step)
    if out is None:
        x = dense(x)
        codes = torch.empty_like(x, dtype=dtype)
    else:
        check.codes_output(_OP, out, x, dtype, step, zero_point)
        codes = out
    if in_torch(x):
        codes.copy_(twin.quantize(x, step, zero_point, qmin, qmax, axis))
    elif x.numel() > 0:
        _run(x, step, zero_point, qmin, qmax, axis, codes)
    if out is not None:
        written(out)
    return codes


def _run(x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None, codes: Tensor) -> None:
    """Write the codes of a dense x into `codes`, which has its strides."""
    order = memory_order(x)
    assert order is not None
    step, zero_point = step.contiguous(), zero_point.contiguous()
    with on(x.device):
        nan = _core.quantize(
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            codes.data_ptr(),
            ELEMENTS[x.dtype],
            *split(x, order, axis),
            qmin,
            qmax,
            *place(x.device),
        )
    check.no_nan(_OP, nan)
