"""Fake quantization with LSQ gradients, registered with torch so that compile and export see one operator."""

from typing import Any

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, twin
from ribs.ops.build import is_native, on, place
from ribs.ops.layout import memory_order, split

_OP = "fake_quantize"
_FORWARD = "ribs::fake_quantize"
_BACKWARD = "ribs::fake_quantize_backward"
_ARGUMENTS = "Tensor x, Tensor step, Tensor zero_point, int qmin, int qmax, int? axis=None"

_library = torch.library.Library("ribs", "DEF")
_library.define(f"fake_quantize({_ARGUMENTS}) -> Tensor")
_library.define(f"fake_quantize_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor)")


def fake_quantize(x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    """Round x to the values a quantizer can represent, with LSQ gradients of x and of the step.

    `q = clamp(rint(x / step) + zero_point, qmin, qmax)`, rounded half to even after a true division; the
    result is `(q - zero_point) * step`. NaN stays NaN and infinities clamp. The gradient of x passes where
    `qmin <= u + zero_point <= qmax`, with `u = x / step`; that of the step is `rint(u) - u` there, and
    outside the bound relative to the zero point (Esser et al., Learned Step Size Quantization, 2019).

    Args:
        x: float32 of any shape and memory format; float64 runs in plain torch.
        step: dtype of x; a scalar or [1] without an axis, [channels] with one; positive and finite.
        zero_point: int32, of the shape of step.
        qmin: the smallest code.
        qmax: the largest code.
        axis: the dimension of x with a step for each index; by default one step for the whole tensor.

    Returns: a tensor like x.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: shapes, devices or codes do not fit, or a step is not positive and finite. On CUDA such a
            step gives NaN instead, since reading it would wait for the device.
    """
    result: Tensor = torch.ops.ribs.fake_quantize(x, step, zero_point, qmin, qmax, axis)
    return result


def _dense(x: Tensor) -> tuple[Tensor, list[int]]:
    """Give x, or a copy of it in the memory format of `empty_like(x)`, and its order of dimensions."""
    order = memory_order(x)
    if order is None:
        x = torch.empty_like(x).copy_(x)
        order = memory_order(x)
        assert order is not None
    return x, order


def _forward(x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None = None) -> Tensor:
    check.quantizer(_OP, x, step, zero_point, qmin, qmax, axis)
    if x.device.type == "cpu":
        check.positive_step(_OP, step)
    if x.dtype != torch.float32 or not is_native(x.device):
        return twin.fake_quantize(x, step, zero_point, qmin, qmax, axis)
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    x, order = _dense(x)
    step, zero_point = step.contiguous(), zero_point.contiguous()
    with on(x.device):
        _core.fake_quantize(
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            out.data_ptr(),
            *split(x, order, axis),
            qmin,
            qmax,
            *place(x.device),
        )
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
    check.quantizer(_OP, x, step, zero_point, qmin, qmax, axis)
    check.dtype(_OP, "grad", grad, x.dtype, hint=f"convert it with .to({x.dtype})")
    if grad.shape != x.shape:
        raise ValueError(f"[{_OP}] grad shape={list(grad.shape)} differs from that of x, {list(x.shape)}")
    if x.dtype != torch.float32 or not is_native(x.device):
        return twin.fake_quantize_backward(grad, x, step, zero_point, qmin, qmax, axis)
    grad_x, grad_step = torch.empty_like(x), torch.empty_like(step)
    if x.numel() == 0:
        return grad_x, grad_step.zero_()
    x, order = _dense(x)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    step, zero_point = step.contiguous(), zero_point.contiguous()
    sums = grad_step if grad_step.is_contiguous() else torch.empty_like(step)
    sizes = split(x, order, axis)
    partials = torch.empty(_core.fake_quantize_partials(*sizes), dtype=torch.float64, device=x.device)
    with on(x.device):
        _core.fake_quantize_backward(
            grad.data_ptr(),
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            grad_x.data_ptr(),
            sums.data_ptr(),
            partials.data_ptr(),
            *sizes,
            qmin,
            qmax,
            *place(x.device),
        )
    return grad_x, grad_step if sums is grad_step else grad_step.copy_(sums)


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
    return torch.empty_like(x), torch.empty_like(step)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, step, zero_point, ctx.qmin, ctx.qmax, ctx.axis = inputs
    ctx.save_for_backward(x, step, zero_point)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_step = torch.ops.ribs.fake_quantize_backward(grad, *ctx.saved_tensors, ctx.qmin, ctx.qmax, ctx.axis)
    return grad_x, grad_step, None, None, None, None


# CompositeExplicitAutograd serves every backend; inside, devices without native code go to the twin.
_library.impl("fake_quantize", _forward, "CompositeExplicitAutograd")
_library.impl("fake_quantize_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake(_FORWARD, _forward_fake, lib=_library)
torch.library.register_fake(_BACKWARD, _backward_fake, lib=_library)
torch.library.register_autograd(_FORWARD, _differentiate, setup_context=_setup_context, lib=_library)
