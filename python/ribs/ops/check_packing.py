"""What packing of bits refuses."""

import torch
from torch import Tensor

from ribs.ops import check


def packing(op: str, name: str, value: Tensor, bits: int, align: int) -> None:
    """Refuse tensors, bit-widths and alignments that bit packing does not have."""
    check.dtype(op, name, value, torch.uint8, hint="convert it with .to(torch.uint8)")
    if value.dim() == 0:
        raise ValueError(f"[{op}] {name} shape=[] is not supported; it must have at least one dimension")
    check.bit_widths(op, [bits])
    if isinstance(align, bool) or not isinstance(align, int) or align < 1:
        raise ValueError(f"[{op}] align={align!r} is not supported; it must be an int of at least 1, in bytes")


def codes_fit(op: str, codes: Tensor, bits: int, first: int | None) -> None:
    """Refuse codes that do not fit into their bits, given the flat index of the first such code."""
    if first is not None:
        index: list[int] = []
        for size in reversed(codes.shape):
            first, at = divmod(first, size)
            index.insert(0, at)
        value = int(codes[tuple(index)])
        raise ValueError(f"[{op}] codes{index}={value} is not supported; codes of {bits} bits are 0..{2**bits - 1}")


def row_length(op: str, packed: Tensor, n: int, want: int) -> None:
    """Refuse packed rows that n codes would not make."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"[{op}] n={n!r} is not supported; it must be an int of at least 0")
    if packed.shape[-1] != want:
        raise ValueError(f"[{op}] packed shape={list(packed.shape)} does not fit n={n}; rows must have {want} bytes")


def padding(op: str, packed: Tensor, first: int | None) -> None:
    """Refuse bits after the last code of a row, given the first such row."""
    if first is not None:
        raise ValueError(f"[{op}] row={first} of packed has bits set after its last code; they must be zero")
