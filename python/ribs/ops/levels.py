"""Fake quantization to levels at unequal distances, for what softmax puts out: nuLSQ and log-sqrt2."""

from typing import Any

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, twin_levels
from ribs.ops.build import on, place
from ribs.ops.layout import dense, same_layout
from ribs.ops.native import ELEMENTS, in_torch

_NONUNIFORM = "fake_quantize_nonuniform"
_LOG_SQRT2 = "fake_quantize_log_sqrt2"

_library = torch.library.Library("ribs", "FRAGMENT")
_library.define(f"{_NONUNIFORM}(Tensor x, Tensor steps) -> Tensor")
_library.define(f"{_NONUNIFORM}_backward(Tensor grad, Tensor x, Tensor steps) -> (Tensor, Tensor)")
_library.define(f"{_LOG_SQRT2}(Tensor x, Tensor step, int bits) -> Tensor")
_library.define(f"{_LOG_SQRT2}_backward(Tensor grad, Tensor x, Tensor step, int bits) -> (Tensor, Tensor)")


def fake_quantize_nonuniform(x: Tensor, steps: Tensor) -> Tensor:
    """Round x to levels 0, s1, s1 + s2, ... of nuLSQ, with gradients of x and of every step.

    Each value goes to the nearest level, one in the middle of two to the level of even index, as `fake_quantize`
    rounds half to even; what lies beyond the levels, infinities too, goes to the first or last. NaN stays NaN. Steps
    are added up in double precision and each sum is rounded once. The gradient of x passes from 0 to the last level,
    both included. Step i sees (level - x) / s_i of the values in its interval, and 1 of those above all levels: LSQ
    in each interval (DensoITLab/nuLSQ, unsigned). With equal steps these gradients add up to that of `fake_quantize`;
    there is no gradient scale. Half precision is computed in float32 and rounded once, at the end.

    Args:
        x: float32 of any shape and memory format, on CUDA float16 and bfloat16 as well; float64 runs in plain torch.
        steps: dtype of x, float32 for half; [2^bits - 1] for 1 to 8 bits; positive and finite, and so their sum.

    Returns: a tensor like x.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: shapes or devices do not fit, or steps are not as above. On CUDA such steps make everything NaN
            instead, since reading them would wait for the device.
    """
    result: Tensor = torch.ops.ribs.fake_quantize_nonuniform(x, steps)
    return result


def fake_quantize_log_sqrt2(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Round x to powers of the square root of a half, times a step, with straight-through gradients.

    `q = max(0, round(-2 log2(x / step)))`, and the result is `step * 2^(-q / 2)`, or 0 where `q >= 2^bits`: 2^bits
    levels and zero (Li et al., RepQ-ViT, 2023). What is not positive gives 0, and NaN stays NaN. Values are compared
    with thresholds that are computed in double precision, so no logarithm is taken of any of them. The gradient of
    x passes from 0 to the step; that of the step is (result - x) / step there, and 1 above it, as for LSQ. Half
    precision is computed in float32 and rounded once, at the end.

    Args:
        x: as for `fake_quantize_nonuniform`.
        step: dtype of x, float32 for half; a scalar or [1]; the largest level, positive and finite.
        bits: 1 to 8.

    Returns: a tensor like x.

    Raises:
        TypeError: a dtype is not supported, or bits is not an int.
        ValueError: shapes, devices or bits do not fit, or the step is not as above. On CUDA such a step makes
            everything NaN instead, since reading it would wait for the device.
    """
    result: Tensor = torch.ops.ribs.fake_quantize_log_sqrt2(x, step, bits)
    return result


def _run_forward(x: Tensor, steps: Tensor, top: int, log_sqrt2: bool) -> Tensor:
    """Round x to levels 0..top."""
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    x, steps = dense(x), steps.contiguous()
    with on(x.device):
        _core.fake_quantize_levels(
            x.data_ptr(),
            steps.data_ptr(),
            out.data_ptr(),
            ELEMENTS[x.dtype],
            log_sqrt2,
            top,
            x.numel(),
            *place(x.device),
        )
    return out


def _run_backward(grad: Tensor, x: Tensor, steps: Tensor, top: int, log_sqrt2: bool) -> tuple[Tensor, Tensor]:
    """Give the gradient of x, and the sums that those of the steps are made of, float64 [top + 1]."""
    x, grad_x, steps = dense(x), torch.empty_like(x), steps.contiguous()
    sums = torch.zeros(top + 1, dtype=torch.float64, device=x.device)
    if x.numel() == 0:
        return grad_x, sums
    if not same_layout(grad, x):
        grad = torch.empty_like(x).copy_(grad)
    size = _core.fake_quantize_levels_partials(x.numel(), top) if x.device.type == "cuda" else 0
    partials = torch.empty(size, dtype=torch.float64, device=x.device)
    with on(x.device):
        _core.fake_quantize_levels_backward(
            grad.data_ptr(),
            x.data_ptr(),
            steps.data_ptr(),
            grad_x.data_ptr(),
            sums.data_ptr(),
            partials.data_ptr(),
            ELEMENTS[x.dtype],
            log_sqrt2,
            top,
            x.numel(),
            *place(x.device),
        )
    return grad_x, sums


def _nonuniform(x: Tensor, steps: Tensor) -> Tensor:
    check.levels(_NONUNIFORM, x, steps)
    if x.device.type == "cpu":
        check.positive_step(_NONUNIFORM, steps, "steps")
        check.positive_step(_NONUNIFORM, steps.sum(), "the sum of steps")
    if in_torch(x):
        return twin_levels.fake_quantize_nonuniform(x, steps)
    return _run_forward(x, steps, len(steps), False)


def _nonuniform_backward(grad: Tensor, x: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    check.levels(f"{_NONUNIFORM}_backward", x, steps)
    check.like(f"{_NONUNIFORM}_backward", "grad", grad, x)
    if in_torch(x):
        return twin_levels.fake_quantize_nonuniform_backward(grad, x, steps)
    grad_x, sums = _run_backward(grad, x, steps, len(steps), False)
    return grad_x, (sums[1:] / steps + sums[0]).to(steps.dtype)


def _log_sqrt2(x: Tensor, step: Tensor, bits: int) -> Tensor:
    check.levels(_LOG_SQRT2, x, step, bits)
    if x.device.type == "cpu":
        check.positive_step(_LOG_SQRT2, step)
    if in_torch(x):
        return twin_levels.fake_quantize_log_sqrt2(x, step, bits)
    return _run_forward(x, step, 2**bits, True)


def _log_sqrt2_backward(grad: Tensor, x: Tensor, step: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    check.levels(f"{_LOG_SQRT2}_backward", x, step, bits)
    check.like(f"{_LOG_SQRT2}_backward", "grad", grad, x)
    if in_torch(x):
        return twin_levels.fake_quantize_log_sqrt2_backward(grad, x, step, bits)
    grad_x, sums = _run_backward(grad, x, step, 2**bits, True)
    return grad_x, (sums[1:].sum() / step + sums[0]).to(step.dtype)


def _nonuniform_fake(x: Tensor, steps: Tensor) -> Tensor:
    check.levels(_NONUNIFORM, x, steps)
    return torch.empty_like(x)


def _log_sqrt2_fake(x: Tensor, step: Tensor, bits: int) -> Tensor:
    check.levels(_LOG_SQRT2, x, step, bits)
    return torch.empty_like(x)


def _backward_fake(grad: Tensor, x: Tensor, steps: Tensor, *bits: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(steps)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, steps, *ctx.bits = inputs
    ctx.save_for_backward(x, steps)


def _nonuniform_differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = torch.ops.ribs.fake_quantize_nonuniform_backward(grad, *ctx.saved_tensors)
    return found


def _log_sqrt2_differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    grad_x, grad_step = torch.ops.ribs.fake_quantize_log_sqrt2_backward(grad, *ctx.saved_tensors, *ctx.bits)
    return grad_x, grad_step, None


# CompositeExplicitAutograd serves every backend; inside, devices without native code go to the twin.
for _name, _forward, _backward, _fake, _differentiate in (
    (_NONUNIFORM, _nonuniform, _nonuniform_backward, _nonuniform_fake, _nonuniform_differentiate),
    (_LOG_SQRT2, _log_sqrt2, _log_sqrt2_backward, _log_sqrt2_fake, _log_sqrt2_differentiate),
):
    _library.impl(_name, _forward, "CompositeExplicitAutograd")
    _library.impl(f"{_name}_backward", _backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ribs::{_name}", _fake, lib=_library)
    torch.library.register_fake(f"ribs::{_name}_backward", _backward_fake, lib=_library)
    torch.library.register_autograd(f"ribs::{_name}", _differentiate, setup_context=_setup_context, lib=_library)
