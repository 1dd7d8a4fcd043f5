"""QDrop's fake quantization of some values, registered with torch."""

from typing import Any

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, number, soft_twin
from ribs.ops.build import is_native, on, place
from ribs.ops.fake_quantize import library
from ribs.ops.layout import dense, same_layout

_OP = "drop"
_ARGUMENTS = "Tensor x, Tensor step, Tensor zero_point, int qmin, int qmax, float keep, Tensor seed"

library.define(f"drop({_ARGUMENTS}) -> Tensor")
library.define(f"drop_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor)")


def drop(
    x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, *, keep: float = 0.5, seed: int | Tensor = 0
) -> Tensor:
    """Round each value of x to one that a quantizer can represent with probability `keep`, and leave the others.

    Wei et al., QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization, 2022. Values
    and gradients of those rounded are those of `fake_quantize`; the gradient of the others passes to x. Which are
    rounded follows from their place in memory and the seed, on every device alike.

    Args:
        x: float32 of any shape and memory format; float64 runs in plain torch.
        step: dtype of x; a scalar or [1], positive and finite.
        zero_point: int32, of the shape of step.
        qmin: the smallest code.
        qmax: the largest code.
        keep: the probability, in parts of 2^24.
        seed: 0 to 2^63 - 1, a number, or a tensor of one int64 beside x, which can change between launches of a CUDA
            graph.

    Returns: a tensor like x.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: as for `fake_quantize`, or keep or seed is not as above.
    """
    if not isinstance(seed, Tensor) and seed < 0:
        raise ValueError(f"[{_OP}] seed={seed} is not supported; it must be at least 0")
    seed = number.stored(seed, torch.int64, x)
    result: Tensor = torch.ops.ribs.drop(x, step, zero_point, qmin, qmax, keep, seed)
    return result


def _check(
    op: str, x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, keep: float, seed: Tensor
) -> None:
    check.dtype(op, "x", x, torch.float32, torch.float64, hint="convert it with .float()")
    check.quantizer(op, x, step, zero_point, qmin, qmax, None)
    if not 0 <= keep <= 1:
        raise ValueError(f"[{op}] keep={keep} is not supported; a probability lies in 0..1")
    number.check_stored(op, "seed", seed, torch.int64, x)


def _in_torch(x: Tensor) -> bool:
    return x.dtype != torch.float32 or not is_native(x.device)


def _forward(x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, keep: float, seed: Tensor) -> Tensor:
    _check(_OP, x, step, zero_point, qmin, qmax, keep, seed)
    if x.device.type == "cpu":
        check.positive_step(_OP, step)
    if _in_torch(x):
        return soft_twin.drop(x, step, zero_point, qmin, qmax, keep=keep, seed=int(seed))
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    x = dense(x)
    with on(x.device):
        _core.drop(
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            out.data_ptr(),
            x.numel(),
            qmin,
            qmax,
            seed.data_ptr(),
            soft_twin.parts(keep),
            *place(x.device),
        )
    return out


def _backward(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, keep: float, seed: Tensor
) -> tuple[Tensor, Tensor]:
    _check(f"{_OP}_backward", x, step, zero_point, qmin, qmax, keep, seed)
    check.like(f"{_OP}_backward", "grad", grad, x)
    if _in_torch(x):
        return soft_twin.drop_backward(grad, x, step, zero_point, qmin, qmax, keep, int(seed))
    grad_x, grad_step = torch.empty_like(x), torch.empty_like(step)
    if x.numel() == 0:
        return grad_x, grad_step.zero_()
    x = dense(x)
    if not same_layout(grad, x):
        grad = torch.empty_like(x).copy_(grad)
    size = _core.drop_partials(x.numel()) if x.device.type == "cuda" else 0
    partials = torch.empty(size, dtype=torch.float64, device=x.device)
    with on(x.device):
        _core.drop_backward(
            grad.data_ptr(),
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            grad_x.data_ptr(),
            grad_step.data_ptr(),
            partials.data_ptr(),
            x.numel(),
            qmin,
            qmax,
            seed.data_ptr(),
            soft_twin.parts(keep),
            *place(x.device),
        )
    return grad_x, grad_step


def _forward_fake(x: Tensor, *rest: Any) -> Tensor:
    _check(_OP, x, *rest)
    return torch.empty_like(x)


def _backward_fake(grad: Tensor, x: Tensor, step: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    _check(f"{_OP}_backward", x, step, *rest)
    check.like(f"{_OP}_backward", "grad", grad, x)
    return torch.empty_like(x), torch.empty_like(step)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, step, zero_point, *ctx.rest, seed = inputs
    ctx.save_for_backward(x, step, zero_point, seed)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    grad_x, grad_step = torch.ops.ribs.drop_backward(grad, *tensors, *ctx.rest, seed)
    return grad_x, grad_step, *([None] * 5)


library.impl("drop", _forward, "CompositeExplicitAutograd")
library.impl("drop_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ribs::drop", _forward_fake, lib=library)
torch.library.register_fake("ribs::drop_backward", _backward_fake, lib=library)
torch.library.register_autograd("ribs::drop", _differentiate, setup_context=_setup_context, lib=library)
