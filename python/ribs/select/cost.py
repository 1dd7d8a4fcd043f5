"""What a configuration costs: bit operations and the size of the weights, counted exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ribs import ops
from ribs.quant.inputs import as_inputs
from ribs.quant.network import Bits, check_training
from ribs.quant.quantizer import FLOAT_BITS
from ribs.quant.trace import Layer, Trace, trace
from ribs.quant.units import Unit, UnitScheme, find_units
from ribs.select.table import text_table

MIB_IN_BITS = 8 * 2**20
Configuration = dict[str, Bits]
AnyBits = int | Bits | Mapping[str, int | Bits]


@dataclass(frozen=True)
class CostTable:
    """The cost of every configuration of one network.

    BOPs: MACs x weight bits x input bits of each Conv and Linear (the classifier included), MACs x bits of both
    operands of each matmul of two activations; products that stay in float count 32 x 32. Size: the weights of Conv
    and Linear at their bits, nothing else; only when every unit is at 32 bits is it the float model's, all parameters
    included. MiB = 2^20 bytes.

    layers: in execution order.  groups: the units.  units: their names.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Unit, ...]
    float_macs: int
    parameters: int

    @classmethod
    def of(cls, seen: Trace, units: tuple[Unit, ...]) -> CostTable:
        return cls(seen.layers, units, sum(seen.unquantized.values()), seen.parameters)

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(unit.name for unit in self.groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return sum(layer.macs for layer in self.layers) + self.float_macs

    def bops(self, bits: AnyBits) -> int:
        """Bit operations of one sample. bits: an int, a (weight, activation) pair, or a dict of these by unit."""
        return self._cost(bits)[0]

    def size_mib(self, bits: AnyBits) -> float:
        """MiB of the weights. bits: as for `bops`."""
        return self.weight_bits(bits) / MIB_IN_BITS

    def weight_bits(self, bits: AnyBits) -> int:
        """Size in bits, exactly."""
        if all(pair == (FLOAT_BITS, FLOAT_BITS) for pair in self.configuration(bits).values()):
            return self.parameters * FLOAT_BITS
        return self._cost(bits)[1]

    def configuration(self, bits: AnyBits) -> Configuration:
        """(weight, activation) bits of every unit, in order.

        Raises: ValueError for bits other than 1..8 and 32, unknown units and units left out.
        """
        if not isinstance(bits, Mapping):
            pair = as_pair(bits)
            return {name: pair for name in self.units}
        unknown = [name for name in bits if name not in self.units]
        missing = [name for name in self.units if name not in bits]
        if unknown or missing:
            problem = f"names no unit: {unknown}" if unknown else f"leaves out: {missing}"
            raise ValueError(f"[ribs] the configuration {problem}; the units are {list(self.units)}")
        return {name: as_pair(bits[name]) for name in self.units}

    def candidate_costs(self, unit: Unit, candidates: Sequence[Bits]) -> list[tuple[int, int]]:
        """(BOPs, weight bits) of one unit at each candidate."""
        members = [layer for layer in self.layers if layer.name in unit.layers]
        return self._totals(members, [[candidate] * len(members) for candidate in candidates])

    def _cost(self, bits: AnyBits) -> tuple[int, int]:
        configuration = self.configuration(bits)
        owner = {name: configuration[unit.name] for unit in self.groups for name in unit.layers}
        [(bops, size)] = self._totals(self.layers, [[owner[layer.name] for layer in self.layers]])
        return bops + self.float_macs * FLOAT_BITS**2, size

    @staticmethod
    def _totals(layers: Sequence[Layer], configs: list[list[Bits]]) -> list[tuple[int, int]]:
        # Both operands of a matmul are activations: its "weight bits" are activation bits too.
        pairs = [
            [(a, a) if layer.kind == "matmul" else (w, a) for layer, (w, a) in zip(layers, config, strict=True)]
            for config in configs
        ]
        macs = torch.tensor([layer.macs for layer in layers], dtype=torch.int64)
        weights = torch.tensor([layer.weights for layer in layers], dtype=torch.int64)
        cost = ops.config_cost(torch.tensor(pairs, dtype=torch.int64), macs, weights)
        return list(zip(cost.bops.tolist(), cost.weight_bits.tolist(), strict=True))

    def __str__(self) -> str:
        owner = {name: unit.name for unit in self.groups for name in unit.layers}
        rows = [
            [layer.name, layer.kind, owner[layer.name], f"{layer.macs / 1e6:,.2f}", f"{layer.weights:,}"]
            for layer in self.layers
        ]
        layers = text_table(["layer", "kind", "unit", "MMACs", "weights"], rows, right=(3, 4))
        return f"{layers}\n\n{self.totals()}"

    def totals(self) -> str:
        """BOPs and MiB of the uniform networks, as a table."""
        first, last = self.units[0], self.units[-1]
        cases: list[tuple[str, AnyBits]] = [("32/32 (float)", FLOAT_BITS)]
        for bits in (8, 6, 4, 3):
            cases.append((f"{bits}/{bits}", bits))
            ends: dict[str, int | Bits] = {**self.configuration(bits), first: (8, 8), last: (8, 8)}
            if bits < 8:
                cases.append((f"{bits}/{bits}, first and last 8/8", ends))
        rows = [[name, f"{self.bops(bits) / 1e9:.5g}", f"{self.size_mib(bits):.4g}"] for name, bits in cases]
        return text_table(["weight/activation bits", "GBOPs", "MiB"], rows, right=(1, 2))


def count(model: nn.Module, example_input: Any, *, units: UnitScheme = "block") -> CostTable:
    """Count the MACs and weights of every layer by one forward pass without arithmetic (on the meta device).

    model: in eval mode; it is not changed.
    example_input: a batch as a loader would yield it (a tensor, a tuple led by the input, or a dict).
    units: as for `ribs.search`.
    Returns: a table; print it, or ask its `.units`, `.bops(bits)` and `.size_mib(bits)`.
    """
    check_training(model)
    seen = trace(model, as_inputs(model, example_input))
    return CostTable.of(seen, find_units(model, seen.layers, units))


def as_pair(bits: Any) -> Bits:
    """(weight, activation) bits of an int or a pair.

    Raises: ValueError for bits other than 1..8 and 32 (float).
    """
    pair = (bits, bits) if isinstance(bits, int) else tuple(bits) if isinstance(bits, (tuple, list)) else ()
    if len(pair) == 2 and all(isinstance(b, int) and (1 <= b <= 8 or b == FLOAT_BITS) for b in pair):
        return (pair[0], pair[1])
    raise ValueError(f"[ribs] bits={bits!r} is not allowed; give 1..8 or 32 (float), or a (weight, activation) pair")
