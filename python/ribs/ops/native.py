"""Calls of the native fake quantizer, whose arguments were checked."""

import functools
import operator

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

from ribs import _core
from ribs.ops.build import is_native, on, place
from ribs.ops.layout import sizes

ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in csrc/ops.h


def _keys(device: str) -> DispatchKeySet:
    """What torch goes through for a tensor that is nothing but memory of a device."""
    names = (device, f"Autograd{device}", f"Autocast{device}", "ADInplaceOrView")
    return functools.reduce(operator.or_, (DispatchKeySet(getattr(DispatchKey, name)) for name in names))


_PLAIN = {"cpu": _keys("CPU"), "cuda": _keys("CUDA")}


def in_torch(x: Tensor) -> bool:
    """Whether there is no native code for x."""
    return x.dtype not in ELEMENTS or not is_native(x.device)


def is_plain(x: Tensor) -> bool:
    """Whether x, of a device with native code, is nothing but memory: not wrapped, traced, or watched."""
    return torch._C._dispatch_keys(x) == _PLAIN[x.device.type] and torch._C._len_torch_dispatch_stack() == 0


def run_forward(
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None,
    floor: Tensor | None,
    signs: Tensor | None,
    *,
    out: Tensor,
) -> None:
    """Write the result for a dense x into `out`, which has its strides."""
    if x.numel() == 0:
        return
    step, zero_point = step.contiguous(), zero_point.contiguous()
    floor = None if floor is None else floor.contiguous()
    signs = None if signs is None else signs.contiguous()
    with on(x.device):
        _core.fake_quantize(
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            out.data_ptr(),
            ELEMENTS[x.dtype],
            *sizes(x, axis),
            qmin,
            qmax,
            0 if floor is None else floor.data_ptr(),
            0 if signs is None else signs.data_ptr(),
            step.numel() == 1,
            *place(x.device),
        )


def run_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None,
    floor: Tensor | None,
    signs: Tensor | None,
    scale: float,
    *,
    grad_x: Tensor,
) -> Tensor:
    """Write the gradient of a dense x into `grad_x`, with grad and grad_x of its strides; returns that of step."""
    grad_step = torch.empty_like(step)
    if x.numel() == 0:
        return grad_step.zero_()
    step, zero_point = step.contiguous(), zero_point.contiguous()
    floor = None if floor is None else floor.contiguous()
    signs = None if signs is None else signs.contiguous()
    sums = grad_step if grad_step.is_contiguous() else torch.empty_like(step)
    shape = sizes(x, axis)
    partials = None
    if x.device.type == "cuda":
        partials = torch.empty(_core.fake_quantize_partials(*shape), dtype=torch.float64, device=x.device)
    with on(x.device):
        _core.fake_quantize_backward(
            grad.data_ptr(),
            x.data_ptr(),
            step.data_ptr(),
            zero_point.data_ptr(),
            grad_x.data_ptr(),
            sums.data_ptr(),
            0 if partials is None else partials.data_ptr(),
            ELEMENTS[x.dtype],
            *shape,
            qmin,
            qmax,
            0 if floor is None else floor.data_ptr(),
            0 if signs is None else signs.data_ptr(),
            step.numel() == 1,
            scale,
            *place(x.device),
        )
    return grad_step if sums is grad_step else grad_step.copy_(sums)
