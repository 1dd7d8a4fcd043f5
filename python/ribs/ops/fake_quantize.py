"""Fake quantization with LSQ gradients, registered with torch so that compile and export see one operator."""

from typing import Any

import torch
from torch import Tensor

from ribs.ops import check, twin
from ribs.ops.layout import dense, same_layout, written
from ribs.ops.native import in_torch, is_plain, run_backward, run_forward

_OP = "fake_quantize"
_OP_BACKWARD = "fake_quantize_backward"
_ARGUMENTS = "Tensor x, Tensor step, Tensor zero_point, int qmin, int qmax, int? axis=None"
_LEARNED = "Tensor? floor=None, Tensor? signs=None, float scale=1.0"  # by place: names take longer

library = torch.library.Library("ribs", "DEF")
library.define(f"fake_quantize({_ARGUMENTS}, {_LEARNED}) -> Tensor")
library.define(f"fake_quantize_backward(Tensor grad, {_ARGUMENTS}, {_LEARNED}) -> (Tensor, Tensor)")
_fake_quantize = torch.ops.ribs.fake_quantize.default
_fake_quantize_backward = torch.ops.ribs.fake_quantize_backward.default


def fake_quantize(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    *,
    floor: Tensor | None = None,
    signs: Tensor | None = None,
    scale: float = 1.0,
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
        floor: like step, the least that is used of it; step may then be zero or negative, and has a gradient
            all the same.
        signs: of the dtype of step, [channels] along the axis, such as the scales of a norm: where one is negative,
            the result is minus that for -x. The step may then be a scalar or [1] as well. Without a gradient.
        scale: of the gradient of the step.
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
        result: Tensor = _fake_quantize(x, step, zero_point, qmin, qmax, axis, floor, signs, scale)
        return result
    quantizer = (step, zero_point, qmin, qmax, axis, floor, signs)
    _check(x, *quantizer)
    check.output(_OP, out, x, None, step, zero_point)
    if in_torch(x):
        return out.copy_(twin.fake_quantize(x, *quantizer))
    run_forward(x, *quantizer, out=out)
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
    floor: Tensor | None = None,
    signs: Tensor | None = None,
    scale: float = 1.0,
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
        floor: the least steps.
        signs: of channels.
        scale: of the gradient of the step.
        out: where to write the gradient of x, by default a new tensor; as for `fake_quantize`. grad must then
            have the strides of x as well; `out` may be x or grad itself.

    Returns: the gradient of x, or `out`, and the gradient of the step, like step; the latter is summed in
    double precision, in an order that does not depend on threads.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: as for `fake_quantize`.
    """
    if out is None:
        result: tuple[Tensor, Tensor] = _fake_quantize_backward(
            grad, x, step, zero_point, qmin, qmax, axis, floor, signs, scale
        )
        return result
    quantizer = (step, zero_point, qmin, qmax, axis, floor, signs)
    check.quantizer(_OP_BACKWARD, x, *quantizer)
    check.like(_OP_BACKWARD, "grad", grad, x)
    check.output(_OP_BACKWARD, out, x, grad, step, zero_point)
    if in_torch(x):
        grad_x, grad_step = twin.fake_quantize_backward(grad, x, *quantizer, scale)
        return out.copy_(grad_x), grad_step
    grad_step = run_backward(grad, x, *quantizer, scale, grad_x=out)
    written(out)
    return out, grad_step


# Below, `quantizer` is step, zero_point, qmin, qmax, axis, floor and signs; torch leaves defaults at the end away.


def _check(x: Tensor, *quantizer: Any) -> None:
    check.quantizer(_OP, x, *quantizer)
    if x.device.type == "cpu":
        check.positive_step(_OP, quantizer[0], floor=quantizer[5])


def _forward(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    floor: Tensor | None = None,
    signs: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    quantizer = (step, zero_point, qmin, qmax, axis, floor, signs)
    _check(x, *quantizer)
    if in_torch(x):
        return twin.fake_quantize(x, *quantizer)
    return _values(x, *quantizer)


def _values(x: Tensor, *quantizer: Any) -> Tensor:
    """What native code gives for arguments that were checked."""
    out = torch.empty_like(x)
    run_forward(dense(x), *quantizer, out=out)
    return out


def _backward(
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
    quantizer = (step, zero_point, qmin, qmax, axis, floor, signs)
    check.quantizer(_OP_BACKWARD, x, *quantizer)
    check.like(_OP_BACKWARD, "grad", grad, x)
    if in_torch(x):
        return twin.fake_quantize_backward(grad, x, *quantizer, scale)
    return _gradients(grad, x, *quantizer, scale)


def _gradients(grad: Tensor, x: Tensor, *quantizer: Any) -> tuple[Tensor, Tensor]:
    """The native gradients, of arguments that were checked; `quantizer` has the scale at its end."""
    x, grad_x = dense(x), torch.empty_like(x)
    if not same_layout(grad, x):
        grad = torch.empty_like(x).copy_(grad)
    return grad_x, run_backward(grad, x, *quantizer, grad_x=grad_x)


def _forward_fake(x: Tensor, *quantizer: Any) -> Tensor:
    check.quantizer(_OP, x, *quantizer[:7])
    return torch.empty_like(x)


def _backward_fake(grad: Tensor, x: Tensor, *quantizer: Any) -> tuple[Tensor, Tensor]:
    check.quantizer(_OP_BACKWARD, x, *quantizer[:7])
    check.like(_OP_BACKWARD, "grad", grad, x)
    return torch.empty_like(x), torch.empty_like(quantizer[0])


class _FakeQuantize(torch.autograd.Function):
    """The operator with its gradients.

    A training step runs this for every quantizer. What torch.library.register_autograd would make in its place, and
    each further call by way of torch, takes longer than a small kernel.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, step, zero_point, qmin, qmax, axis, floor, signs, scale = arguments
        ctx.save_for_backward(x, step, zero_point, floor, signs)
        ctx.numbers = qmin, qmax, axis, scale
        ctx.native = not in_torch(x) and is_plain(x) and is_plain(step)
        if ctx.native:
            _check(*arguments[:-1])
            return _values(*arguments[:-1])
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = _fake_quantize(*arguments)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, step, zero_point, floor, signs = ctx.saved_tensors
        qmin, qmax, axis, scale = ctx.numbers
        rest = (x, step, zero_point, qmin, qmax, axis, floor, signs, scale)
        if ctx.native and not torch.is_grad_enabled() and is_plain(grad):
            grad_x, grad_step = _gradients(grad, *rest)
        else:
            grad_x, grad_step = _fake_quantize_backward(grad, *rest)
        return grad_x, grad_step, *[None] * 7


def _differentiable(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    floor: Tensor | None = None,
    signs: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    arguments = (x, step, zero_point, qmin, qmax, axis, floor, signs, scale)
    if torch.is_grad_enabled() and (x.requires_grad or step.requires_grad):
        made: Tensor = _FakeQuantize.apply(*arguments)
        return made
    with torch._C._AutoDispatchBelowAutograd():
        result: Tensor = _fake_quantize(*arguments)
    return result


# CompositeExplicitAutograd serves every backend; inside, devices without native code go to the twin.
library.impl("fake_quantize", _forward, "CompositeExplicitAutograd")
library.impl("fake_quantize", _differentiable, "Autograd")
library.impl("fake_quantize_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ribs::fake_quantize", _forward_fake, lib=library)
torch.library.register_fake("ribs::fake_quantize_backward", _backward_fake, lib=library)
