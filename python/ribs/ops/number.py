"""Numbers that operators read from memory, where they can change between two launches of a CUDA graph."""

import torch
from torch import Tensor

from ribs.ops import check


def stored(value: float | Tensor, dtype: torch.dtype, x: Tensor) -> Tensor:
    """Give a number as a tensor beside x."""
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=dtype, device=x.device)


def check_stored(op: str, name: str, value: Tensor, dtype: torch.dtype, x: Tensor) -> None:
    """Refuse a tensor that is not one number of a dtype beside x."""
    check.dtype(op, name, value, dtype, hint=f"convert it with .to({dtype})")
    if value.numel() != 1 or value.device != x.device:
        got = f"{list(value.shape)} on {value.device}"
        raise ValueError(f"[{op}] {name}={got} is not supported; give a number, or a tensor of one on {x.device}")
