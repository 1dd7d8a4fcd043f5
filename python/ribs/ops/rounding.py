"""Soft rounding of weights, with its regulariser from the same pass, registered with torch."""

from typing import Any

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, number, soft_twin
from ribs.ops.build import is_native, on, place
from ribs.ops.fake_quantize import library
from ribs.ops.layout import dense, memory_order, same_layout, split

_OP = "soft_round"
_ARGUMENTS = "Tensor weight, Tensor alpha, Tensor step, Tensor zero_point, int qmin, int qmax, int? axis, Tensor beta"

library.define(f"soft_round({_ARGUMENTS}) -> (Tensor, Tensor)")
library.define(f"soft_round_backward(Tensor grad, Tensor grad_penalty, {_ARGUMENTS}) -> Tensor")


def soft_round(
    weight: Tensor,
    alpha: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    *,
    beta: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    """Round weights between their two neighbours, and say how far they are from either (AdaRound, 2020).

    `h = clip(1.2 * sigmoid(alpha) - 0.1, 0, 1)`; the values are
    `(clamp(floor(weight / step) + h + zero_point, qmin, qmax) - zero_point) * step`, and the penalty is
    `sum(1 - |2h - 1|^beta)` (Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, equations 23
    and 24). Only alpha has a gradient: none passes where h or the code is clipped.

    Args:
        weight: float32 of any shape and memory format; float64 runs in plain torch.
        alpha: like weight.
        step: as for `fake_quantize`, like the arguments after it.
        zero_point: the zero points.
        qmin: the smallest code.
        qmax: the largest code.
        axis: the dimension of weight with a step for each index.
        beta: the sharpness of the penalty, 1..1000; 0 is no penalty. A tensor, of one float32 beside weight, can change
            between launches of a CUDA graph; on CUDA its value is not checked.

    Returns: values like weight, and the penalty, a scalar. It is summed in double precision, in an order that does not
    depend on threads.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: as for `fake_quantize`, or alpha or beta is not as above.
    """
    if not isinstance(beta, Tensor):
        _check_sharpness(beta)
    beta = number.stored(beta, torch.float32, weight)
    result: tuple[Tensor, Tensor] = torch.ops.ribs.soft_round(weight, alpha, step, zero_point, qmin, qmax, axis, beta)
    return result


def _check(op: str, weight: Tensor, alpha: Tensor, quantizer: tuple[Any, ...], beta: Tensor) -> None:
    check.dtype(op, "weight", weight, torch.float32, torch.float64, hint="convert it with .float()")
    check.quantizer(op, weight, *quantizer)
    check.like(op, "alpha", alpha, weight, "weight")
    number.check_stored(op, "beta", beta, torch.float32, weight)


def _check_sharpness(beta: float) -> None:
    if beta != 0 and not 1 <= beta <= 1000:
        raise ValueError(f"[{_OP}] beta={beta} is not supported; it must be 0, or lie in 1..1000")


def _in_torch(weight: Tensor) -> bool:
    return weight.dtype != torch.float32 or not is_native(weight.device)


def _as(weight: Tensor, value: Tensor) -> Tensor:
    """Give a tensor in the memory format of weight."""
    return value if same_layout(value, weight) else torch.empty_like(weight).copy_(value)


def _sizes(weight: Tensor, axis: int | None) -> tuple[int, int, int]:
    order = memory_order(weight)
    assert order is not None
    return split(weight, order, axis)


def _forward(
    weight: Tensor,
    alpha: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None,
    beta: Tensor,
) -> tuple[Tensor, Tensor]:
    _check(_OP, weight, alpha, (step, zero_point, qmin, qmax, axis), beta)
    if weight.device.type == "cpu":
        check.positive_step(_OP, step)
        _check_sharpness(beta.item())
    if _in_torch(weight):
        return soft_twin.soft_round(weight, alpha, step, zero_point, qmin, qmax, axis, beta=float(beta))
    out = torch.empty_like(weight)
    if weight.numel() == 0:
        return out, weight.new_zeros(())
    weight = dense(weight)
    alpha, step, zero_point = _as(weight, alpha), step.contiguous(), zero_point.contiguous()
    penalty = torch.empty((), dtype=weight.dtype, device=weight.device)
    size = _core.soft_round_partials(weight.numel()) if weight.device.type == "cuda" else 0
    partials = torch.empty(size, dtype=torch.float64, device=weight.device)
    with on(weight.device):
        _core.soft_round(
            weight.data_ptr(),
            alpha.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            out.data_ptr(),
            penalty.data_ptr(),
            partials.data_ptr(),
            *_sizes(weight, axis),
            qmin,
            qmax,
            beta.data_ptr(),
            *place(weight.device),
        )
    return out, penalty


def _backward(
    grad: Tensor,
    grad_penalty: Tensor,
    weight: Tensor,
    alpha: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None,
    beta: Tensor,
) -> Tensor:
    _check(f"{_OP}_backward", weight, alpha, (step, zero_point, qmin, qmax, axis), beta)
    check.like(f"{_OP}_backward", "grad", grad, weight, "weight")
    if _in_torch(weight):
        return soft_twin.soft_round_backward(
            grad, grad_penalty, weight, alpha, step, zero_point, qmin, qmax, axis, float(beta)
        )
    grad_alpha = torch.empty_like(weight)
    if weight.numel() == 0:
        return grad_alpha
    weight = dense(weight)
    grad, alpha, step, zero_point = _as(weight, grad), _as(weight, alpha), step.contiguous(), zero_point.contiguous()
    with on(weight.device):
        _core.soft_round_backward(
            grad.data_ptr(),
            grad_penalty.data_ptr(),
            weight.data_ptr(),
            alpha.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            grad_alpha.data_ptr(),
            *_sizes(weight, axis),
            qmin,
            qmax,
            beta.data_ptr(),
            *place(weight.device),
        )
    return grad_alpha


def _forward_fake(weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    alpha, *quantizer, beta = rest
    _check(_OP, weight, alpha, tuple(quantizer), beta)
    return torch.empty_like(weight), weight.new_empty(())


def _backward_fake(grad: Tensor, grad_penalty: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    alpha, *quantizer, beta = rest
    _check(f"{_OP}_backward", weight, alpha, tuple(quantizer), beta)
    check.like(f"{_OP}_backward", "grad", grad, weight, "weight")
    return torch.empty_like(weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.qmin, ctx.qmax, ctx.axis, beta = inputs
    ctx.save_for_backward(*tensors, beta)


def _differentiate(ctx: Any, grad: Tensor, grad_penalty: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, beta = ctx.saved_tensors
    rest = (ctx.qmin, ctx.qmax, ctx.axis, beta)
    grad_alpha = torch.ops.ribs.soft_round_backward(grad, grad_penalty, *tensors, *rest)
    return None, grad_alpha, *([None] * 6)


library.impl("soft_round", _forward, "CompositeExplicitAutograd")
library.impl("soft_round_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ribs::soft_round", _forward_fake, lib=library)
torch.library.register_fake("ribs::soft_round_backward", _backward_fake, lib=library)
torch.library.register_autograd("ribs::soft_round", _differentiate, setup_context=_setup_context, lib=library)
