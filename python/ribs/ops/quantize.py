"""Fake quantization with LSQ gradients, registered with torch so that compile and export see one operator."""

from typing import Any

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, twin
from ribs.ops.build import is_native, on, place
from ribs.ops.layout import dense, memory_order, same_layout, split, written

_OP = "fake_quantize"
_OP_BACKWARD = "fake_quantize_backward"
ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in csrc/ops.h
_FORWARD = "ribs::fake_quantize"
_BACKWARD = "ribs::fake_quantize_backward"
_ARGUMENTS = "Tensor x, Tensor step, Tensor zero_point, int qmin, int qmax, int? axis=None"

library = torch.library.Library("ribs", "DEF")
library.define(f"fake_quantize({_ARGUMENTS}) -> Tensor")
library.define(f"fake_quantize_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor)")


def fake_quantize(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Round x to the values a quantizer can represent, with LSQ gradients of x and of the step.

    `q = clamp(rint(x / step) + zero_point, qmin, qmax)`, rounded half to even after a true division; the
    result is `(q - zero_point) * step`. NaN stays NaN and infinities clamp. The gradient of x passes where
    `qmin <= u + zero_point <= qmax`, with `u = x / step`; that of the step is `rint(u) - u` there, and
    outside the bound relative to the zero point (Esser et al., Learned Step Size Quantization, 2019).
    Half precision is computed in float32 and rounded once, at the end.

    Args:
        x: float32 of any shape and memory format, on CUDA float16 and bfloat16 as well; float64 runs in plain
            torch.
        step: dtype of x, float32 for half; a scalar or [1] without an axis, [channels] with one; positive and
            finite.
        zero_point: int32, of the shape of step.
        qmin: the smallest code.
        qmax: the largest code.
        axis: the dimension of x with a step for each index; by default one step for the whole tensor.
        out: where to write the result, by default a new tensor: like x, with the strides of x, which must be
            dense; may be x itself. Not while gradients are recorded for x or step. Only float64 makes
            temporaries.

    Returns: a tensor like x, or `out`.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: shapes, devices or codes do not fit, a step is not positive and finite, or `out` is not as
            above. On CUDA such a step gives NaN instead, since reading it would wait for the device.
    """
    if out is None:
        result: Tensor = torch.ops.ribs.fake_quantize(x, step, zero_point, qmin, qmax, axis)
        return result
    check.quantizer(_OP, x, step, zero_point, qmin, qmax, axis)
    check.output(_OP, out, x, None, step, zero_point)
    if x.device.type == "cpu":
        check.positive_step(_OP, step)
    if in_torch(x):
        return out.copy_(twin.fake_quantize(x, step, zero_point, qmin, qmax, axis))
    _run_forward(x, step, zero_point, qmin, qmax, axis, out)
    written(out)
    return out


def fake_quantize_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Give the LSQ gradients of x and of the step, as `fake_quantize` defines them, in one pass.

    Args:
        grad: the gradient of the result, like x.
        x: as for `fake_quantize`, like the arguments after it.
        step: the steps.
        zero_point: the zero points.
        qmin: the smallest code.
        qmax: the largest code.
        axis: the dimension of x with a step for each index.
        out: where to write the gradient of x, by default a new tensor; as for `fake_quantize`. grad must then
            have the strides of x as well; `out` may be x or grad itself.

    Returns: the gradient of x, or `out`, and the gradient of the step, like step; the latter is summed in
    double precision, in an order that does not depend on threads.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: as for `fake_quantize`.
    """
    if out is None:
        result: tuple[Tensor, Tensor] = torch.ops.ribs.fake_quantize_backward(
            grad, x, step, zero_point, qmin, qmax, axis
        )
        return result
    check.quantizer(_OP_BACKWARD, x, step, zero_point, qmin, qmax, axis)
    check.like(_OP_BACKWARD, "grad", grad, x)
    check.output(_OP_BACKWARD, out, x, grad, step, zero_point)
    if in_torch(x):
        grad_x, grad_step = twin.fake_quantize_backward(grad, x, step, zero_point, qmin, qmax, axis)
        return out.copy_(grad_x), grad_step
    grad_step = _run_backward(grad, x, step, zero_point, qmin, qmax, axis, out)
    written(out)
    return out, grad_step


def in_torch(x: Tensor) -> bool:
    """Whether there is no native code for x."""
    return x.dtype not in ELEMENTS or not is_native(x.device)


def _run_forward(
    x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None, out: Tensor
) -> None:
    """Write the result for a dense x into `out`, which has its strides."""
    if x.numel() == 0:
        return
    order = memory_order(x)
    assert order is not None
    step, zero_point = step.contiguous(), zero_point.contiguous()
    with on(x.device):
        _core.fake_quantize(
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            out.data_ptr(),
            ELEMENTS[x.dtype],
            *split(x, order, axis),
            qmin,
            qmax,
            *place(x.device),
        )


def _run_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None,
    grad_x: Tensor,
) -> Tensor:
    """Write the gradient of a dense x into `grad_x`, with grad and grad_x of its strides; returns that of step."""
    grad_step = torch.empty_like(step)
    if x.numel() == 0:
        return grad_step.zero_()
    order = memory_order(x)
    assert order is not None
    step, zero_point = step.contiguous(), zero_point.contiguous()
    sums = grad_step if grad_step.is_contiguous() else torch.empty_like(step)
    sizes = split(x, order, axis)
    size = _core.fake_quantize_partials(*sizes) if x.device.type == "cuda" else 0
    partials = torch.empty(size, dtype=torch.float64, device=x.device)
    with on(x.device):
        _core.fake_quantize_backward(
            grad.data_ptr(),
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            grad_x.data_ptr(),
            sums.data_ptr(),
            partials.data_ptr(),
            ELEMENTS[x.dtype],
            *sizes,
            qmin,
            qmax,
            *place(x.device),
        )
    return grad_step if sums is grad_step else grad_step.copy_(sums)


def _forward(x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    check.quantizer(_OP, x, step, zero_point, qmin, qmax, axis)
    if x.device.type == "cpu":
        check.positive_step(_OP, step)
    if in_torch(x):
        return twin.fake_quantize(x, step, zero_point, qmin, qmax, axis)
    out = torch.empty_like(x)
    _run_forward(dense(x), step, zero_point, qmin, qmax, axis, out)
    return out


def _backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
) -> tuple[Tensor, Tensor]:
    check.quantizer(_OP_BACKWARD, x, step, zero_point, qmin, qmax, axis)
    check.like(_OP_BACKWARD, "grad", grad, x)
    if in_torch(x):
        return twin.fake_quantize_backward(grad, x, step, zero_point, qmin, qmax, axis)
    x, grad_x = dense(x), torch.empty_like(x)
    if not same_layout(grad, x):
        grad = torch.empty_like(x).copy_(grad)
    return grad_x, _run_backward(grad, x, step, zero_point, qmin, qmax, axis, grad_x)


def _forward_fake(x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    check.quantizer(_OP, x, step, zero_point, qmin, qmax, axis)
    return torch.empty_like(x)


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
) -> tuple[Tensor, Tensor]:
    check.quantizer(_OP_BACKWARD, x, step, zero_point, qmin, qmax, axis)
    check.like(_OP_BACKWARD, "grad", grad, x)
    return torch.empty_like(x), torch.empty_like(step)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, step, zero_point, ctx.qmin, ctx.qmax, ctx.axis = inputs
    ctx.save_for_backward(x, step, zero_point)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_step = torch.ops.ribs.fake_quantize_backward(grad, *ctx.saved_tensors, ctx.qmin, ctx.qmax, ctx.axis)
    return grad_x, grad_step, None, None, None, None


# CompositeExplicitAutograd serves every backend; inside, devices without native code go to the twin.
library.impl("fake_quantize", _forward, "CompositeExplicitAutograd")
library.impl("fake_quantize_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake(_FORWARD, _forward_fake, lib=library)
torch.library.register_fake(_BACKWARD, _backward_fake, lib=library)
torch.library.register_autograd(_FORWARD, _differentiate, setup_context=_setup_context, lib=library)
