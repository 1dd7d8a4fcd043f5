"""Codes of a few bits as dense bytes, and back."""

from collections.abc import Callable

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check_packing, twin
from ribs.ops.build import is_native, on, place
from ribs.ops.twin import row_bytes

_NONE = torch.iinfo(torch.int64).max  # what the native code reports when nothing is wrong


def pack_bits(codes: Tensor, bits: int, *, align: int = 1) -> Tensor:
    """Pack codes of a few bits into bytes.

    Every row, that is every index of all dimensions but the last, becomes a dense stream of its own: code i
    takes the bits `i * bits` to `(i + 1) * bits - 1`, counted from the least significant bit of the first
    byte. Zeros fill it up to whole multiples of `align` bytes.

    Args:
        codes: uint8 [..., n] of any layout, every code below 2^bits.
        bits: bits of a code, 1..8.
        align: bytes; rows are a multiple of it, by default 1. With 4 they are whole little-endian 32-bit words.

    Returns: uint8 [..., bytes], contiguous, with `bytes` the least multiple of `align` that holds n * bits bits.

    Raises:
        TypeError: codes are not uint8, or bits is not an int.
        ValueError: bits or align is out of range, codes has no dimension, or a code does not fit. To find such
            a code waits for the device.
    """
    check_packing.packing("pack_bits", "codes", codes, bits, align)
    if not is_native(codes.device):
        return twin.pack_bits(codes, bits, align=align)
    n = codes.shape[-1]
    source = codes.contiguous()
    packed = torch.empty(*codes.shape[:-1], row_bytes(n, bits, align), dtype=torch.uint8, device=codes.device)
    check_packing.codes_fit(
        "pack_bits", codes, bits, _run(_core.pack_bits, source, packed, (n, packed.shape[-1]), bits)
    )
    return packed


def unpack_bits(packed: Tensor, bits: int, n: int, *, align: int = 1) -> Tensor:
    """Unpack what `pack_bits` packed.

    Args:
        packed: uint8 [..., bytes] of any layout.
        bits: bits of a code, 1..8.
        n: codes of a row.
        align: bytes; as it was for packing.

    Returns: uint8 [..., n], contiguous.

    Raises:
        TypeError: packed is not uint8, or bits is not an int.
        ValueError: bits, n or align is out of range, packed has no dimension or rows of another length, or
            there are bits set after the last code of a row. To find those waits for the device.
    """
    check_packing.packing("unpack_bits", "packed", packed, bits, align)
    check_packing.row_length("unpack_bits", packed, n, row_bytes(n, bits, align))
    if not is_native(packed.device):
        return twin.unpack_bits(packed, bits, n, align=align)
    codes = torch.empty(*packed.shape[:-1], n, dtype=torch.uint8, device=packed.device)
    source = packed.contiguous()
    check_packing.padding("unpack_bits", packed, _run(_core.unpack_bits, source, codes, (n, packed.shape[-1]), bits))
    return codes


def _run(op: Callable[..., None], source: Tensor, target: Tensor, sizes: tuple[int, int], bits: int) -> int | None:
    """Run a native operator on dense rows of `sizes` = (codes, bytes); returns the index of what is wrong, or None."""
    if source.numel() == 0 or target.numel() == 0:
        return None
    invalid = torch.full((1,), _NONE, device=source.device)
    with on(source.device):
        op(
            source.data_ptr(),
            target.data_ptr(),
            invalid.data_ptr(),
            source.numel() // source.shape[-1],
            *sizes,
            bits,
            *place(source.device),
        )
    first = int(invalid)
    return None if first == _NONE else first
