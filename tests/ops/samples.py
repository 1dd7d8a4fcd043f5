"""Tensors and quantizers that the tests of several operators share."""

import math

import torch

LAYOUTS = {
    "contiguous": lambda: torch.randn(4, 6, 5, 7),
    "channels_last": lambda: torch.randn(4, 6, 5, 7).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(6, 4, 5, 7).transpose(0, 1),
    "expanded": lambda: torch.randn(1, 6, 1, 7).expand(4, 6, 5, 7),  # stride 0: copied
    "strided": lambda: torch.randn(4, 6, 5, 14)[..., ::2],
    "sliced": lambda: torch.randn(8, 6, 5, 7)[2:6],
    "misaligned": lambda: torch.randn(4 * 6 * 5 * 7 + 1)[1:].view(4, 6, 5, 7),
    "flipped": lambda: torch.randn(4, 6, 5, 7).flip(0),
    "wide": lambda: torch.randn(2, 3, 100, 100),  # rows of several reduction segments
    "one_channel": lambda: torch.randn(70, 1, 2, 2),
    "many_rows": lambda: torch.randn(300, 5),  # several lines of folded columns
    "few_columns": lambda: torch.randn(9001, 3),  # odd lines: a last one that is cut short
    "many_columns": lambda: torch.randn(70, 331, 2, 2),  # blocks of columns, whole channels of 4
    "short_rows": lambda: torch.randn(80, 7, 7, 7),  # rows of 49: more than a vector, less than a block
    "empty": lambda: torch.randn(0, 3, 2),
}
DENSE = [name for name in LAYOUTS if name not in ("expanded", "strided")]
SPECIALS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-40, -1e-40, 0.5, 1.5, 2.5, -0.5, -0.25]


def quantizer(x: torch.Tensor, axis: int | None, zero: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    shape = () if axis is None else (x.shape[axis],)
    step = torch.rand(shape, device=x.device) * 0.3 + 0.05
    return step, torch.full(shape, zero, dtype=torch.int32, device=x.device)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype
    assert torch.equal(a.isnan(), b.isnan())
    integer = torch.int32 if a.dtype == torch.float32 else torch.int16
    a, b = (each.masked_fill(each.isnan(), 0.0).contiguous().view(integer) for each in (a, b))
    assert torch.equal(a, b)
