"""How much may be spent."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ribs.quant.network import Bits
from ribs.select.cost import MIB_IN_BITS, CostTable, as_pair

UNIFORM = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the cost of the quantized network; give one or both.

    bops: bit operations of one sample, as a number (28.5e9) or as "4/4", what a uniform network with 4-bit weights
        and 4-bit activations costs.
    size_mib: MiB (2^20 bytes) of the weights, as a number (5.5) or as "4/4".
    Raises: ValueError for no bound, a bound that is not positive and finite, or text that cannot be read.
    """

    bops: float | str | None = None
    size_mib: float | str | None = None

    def __post_init__(self) -> None:
        if self.bops is None and self.size_mib is None:
            raise ValueError('[Budget] no bound given; give bops=..., size_mib=... or both, e.g. Budget(bops="4/4")')
        for name, bound in (("bops", self.bops), ("size_mib", self.size_mib)):
            if isinstance(bound, str):
                _uniform_bits(name, bound)
            elif bound is not None and not (math.isfinite(bound) and bound > 0):
                raise ValueError(f'[Budget] {name}={bound!r} is not allowed; give a positive number or "4/4"')

    def limits(self, table: CostTable) -> dict[str, int]:
        """The bounds as exact integers: {"bops": bit operations, "size_mib": bits of weights}, those given."""
        limits = {}
        if self.bops is not None:
            limits["bops"] = (
                table.bops(_uniform_bits("bops", self.bops)) if isinstance(self.bops, str) else math.floor(self.bops)
            )
        if self.size_mib is not None:
            limits["size_mib"] = (
                table.weight_bits(_uniform_bits("size_mib", self.size_mib))
                if isinstance(self.size_mib, str)
                else math.floor(self.size_mib * MIB_IN_BITS)
            )
        return limits


def _uniform_bits(name: str, text: str) -> Bits:
    match = UNIFORM.fullmatch(text)
    if match is None:
        raise ValueError(f'[Budget] {name}={text!r} cannot be read; give a number or "W/A" such as "4/4"')
    return as_pair((int(match[1]), int(match[2])))
