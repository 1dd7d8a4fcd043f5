"""Bit packing against copying the codes.

Run: python benchmarks/packing.py [threads ...]
"""

import sys

import numpy as np
import torch
from timing import Case, interleave, medians, table

from ribs import ops


def check(codes: torch.Tensor, bits: int) -> None:
    """Compare with numpy's bits, least significant first."""
    planes = np.unpackbits(codes.numpy()[..., None], axis=-1, count=bits, bitorder="little")
    want = np.packbits(planes.reshape(len(codes), -1), axis=1, bitorder="little")
    packed = ops.pack_bits(codes, bits)
    assert (packed.numpy() == want).all() and torch.equal(ops.unpack_bits(packed, bits, codes.shape[1]), codes)


def measure(bits: int, rows: int = 512, n: int = 65536) -> list[Case]:
    codes = torch.randint(0, 2**bits, (rows, n), dtype=torch.uint8)
    check(codes[:8, :1000], bits)
    packed, out = ops.pack_bits(codes, bits), torch.empty_like(codes)
    took = medians(
        interleave(
            {
                "copy_": lambda: out.copy_(codes),
                "pack": lambda: ops.pack_bits(codes, bits),
                "unpack": lambda: ops.unpack_bits(packed, bits, n),
            },
            15,
        )
    )
    return [
        Case(
            f"{key}, {bits} bits",
            f"{rows}x{n}",
            torch.get_num_threads(),
            took[key],
            {"/ copy_": took[key] / took["copy_"]},
        )
        for key in ("pack", "unpack")
    ]


def main() -> None:
    for threads in [int(each) for each in sys.argv[1:]] or [1]:
        torch.set_num_threads(threads)
        print(table([case for bits in (2, 3, 4, 8) for case in measure(bits)]), end="\n\n")


if __name__ == "__main__":
    main()
