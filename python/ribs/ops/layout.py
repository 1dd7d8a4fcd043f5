"""How the memory of a tensor is seen by a native operator."""

from math import prod

import torch
from torch import Tensor


def memory_order(x: Tensor) -> list[int] | None:
    """List the dimensions from the outermost to the innermost in memory, or None when memory has gaps."""
    if x.is_contiguous():
        return list(range(x.dim()))
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return [0, 2, 3, 1]  # as below, in a tenth of the time: it is asked at every layer
    order = sorted(range(x.dim()), key=lambda d: (x.stride(d), x.shape[d]), reverse=True)
    expected = 1
    for d in reversed(order):
        if x.shape[d] != 1 and x.stride(d) != expected:
            return None
        expected *= x.shape[d]
    return order


def dense(x: Tensor) -> Tensor:
    """Give x, or a copy of it in the memory format of `empty_like(x)`."""
    return x if memory_order(x) is not None else torch.empty_like(x).copy_(x)


def written(out: Tensor) -> None:
    """Tell autograd that `out` changed, so that it refuses to use what it had saved of it."""
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)


def split(x: Tensor, order: list[int], axis: int | None) -> tuple[int, int, int]:
    """Give the sizes (outer, channels, inner) of dense memory around `axis`; no axis is one channel."""
    if axis is None or x.shape[axis] == 1:
        return 1, 1, x.numel()
    shape = [x.shape[d] for d in order]
    at = order.index(axis % x.dim())
    return prod(shape[:at]), shape[at], prod(shape[at + 1 :])


def sizes(x: Tensor, axis: int | None) -> tuple[int, int, int]:
    """Give `split` of a dense x in its memory order."""
    if axis is None:
        return 1, 1, x.numel()
    order = memory_order(x)
    assert order is not None
    return split(x, order, axis)


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have their elements at the same places; dimensions of 1 have no stride."""
    if a.stride() == b.stride() or a.numel() == 0:
        return True
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in strides)


def span(x: Tensor) -> tuple[int, int]:
    """Give the addresses of the first byte of a tensor and of the first after it."""
    start = x.data_ptr()
    if x.is_contiguous():
        return start, start + x.nbytes
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return start, start + (last + 1) * x.element_size()
