"""The operators of reconstruction in plain torch, as `ribs.ops.twin` has the others."""

import torch
from torch import Tensor

from ribs.ops import twin
from ribs.ops.twin import relative, widest

_WORD, _LONG = 2**32 - 1, 2**64 - 1


def soft_round(
    weight: Tensor,
    alpha: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    *,
    beta: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Round weights between their two neighbours; see `ribs.ops.soft_round`."""
    u, step, low, high = relative(weight, step, zero_point, qmin, qmax, axis)
    h, _ = _upward(alpha)
    values = ((u.floor() + h).clamp(low, high) + 0.0) * step
    penalty = 1 - (2 * widest(h) - 1).abs().pow(beta)
    return torch.empty_like(weight).copy_(values), penalty.sum().to(weight.dtype)


def soft_round_backward(
    grad: Tensor,
    grad_penalty: Tensor,
    weight: Tensor,
    alpha: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None,
    beta: float,
) -> Tensor:
    """Give the gradient of alpha."""
    u, step, low, high = relative(weight, step, zero_point, qmin, qmax, axis)
    h, slope = _upward(alpha)
    code = u.floor() + h
    total = torch.where((code >= low) & (code <= high), grad * step, 0.0)
    if beta > 0:
        side = 2 * h - 1
        total = total - grad_penalty * 2 * beta * side.abs().pow(beta - 1) * side.sign()
    return torch.empty_like(weight).copy_(total * slope)


def _upward(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Give h of AdaRound, and its derivative."""
    sigmoid = alpha.sigmoid()
    stretched = 1.2 * sigmoid - 0.1
    inside = (stretched >= 0) & (stretched <= 1)
    return stretched.clamp(0, 1), torch.where(inside, 1.2 * sigmoid * (1 - sigmoid), 0.0)


def drop(
    x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, *, keep: float = 0.5, seed: int = 0
) -> Tensor:
    """Quantize some values; see `ribs.ops.drop`."""
    return torch.where(kept(x, keep, seed), twin.fake_quantize(x, step, zero_point, qmin, qmax), x)


def drop_backward(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: int, qmax: int, keep: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Give the gradients of x and the step."""
    chosen = kept(x, keep, seed)
    quantized, of_step = twin.fake_quantize_backward(torch.where(chosen, grad, 0.0), x, step, zero_point, qmin, qmax)
    return torch.empty_like(x).copy_(torch.where(chosen, quantized, grad)), of_step


def kept(x: Tensor, keep: float, seed: int) -> Tensor:
    """Give which values of x are quantized: by their place in the memory of `empty_like(x)`, and the seed."""
    layout = torch.empty_like(x)
    at = torch.empty_strided(layout.shape, layout.stride(), dtype=torch.int64, device=x.device)
    at.as_strided((x.numel(),), (1,)).copy_(torch.arange(x.numel(), device=x.device))
    first, second = keys(seed)
    bits = _spread((_spread((at & _WORD) ^ first) + (at >> 32) * 0x9E3779B9 + second) & _WORD)
    return (bits >> 8) < parts(keep)


def _spread(x: Tensor) -> Tensor:
    """Spread the bits of a 32-bit word over all of them."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def keys(seed: int) -> tuple[int, int]:
    """Give two words for a seed, so that neighbouring seeds have nothing in common (SplitMix64)."""
    x = (seed + 0x9E3779B97F4A7C15) & _LONG
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _LONG
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _LONG
    x ^= x >> 31
    return x & _WORD, x >> 32


def parts(keep: float) -> int:
    """Give a probability in parts of 2^24."""
    return round(keep * 2**24)
