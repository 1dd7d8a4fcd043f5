"""What a configuration costs: bit operations and the size of the weights, counted exactly."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ribs import ops
from ribs.quant.copies import unwrap
from ribs.quant.inputs import as_inputs
from ribs.quant.network import Bits
from ribs.quant.quantizer import FLOAT_BITS
from ribs.quant.recipe import RECIPES, RecipeName, find_recipe
from ribs.quant.skip import Skip, check_training
from ribs.quant.trace import Layer, Trace
from ribs.quant.tracing import trace
from ribs.quant.units import Unit, UnitScheme, find_units
from ribs.select.accounting import (
    ACCOUNTINGS,
    STEP_BITS,
    ZERO_POINT_BITS,
    Accounting,
    AccountingName,
    find_accounting,
)
from ribs.select.table import text_table

MIB_IN_BITS = 8 * 2**20
Configuration = dict[str, Bits]
AnyBits = int | Bits | Mapping[str, int | Bits]


@dataclass(frozen=True)
class CostTable:
    """The cost of every configuration of one network.

    BOPs: MACs x weight bits x input bits of each Conv and Linear (the classifier included), MACs x bits of both
    operands of each matmul of two activations; products that stay in float count 32 x 32. Size: the weights of Conv
    and Linear at their bits, those that are skipped at 32, nothing else; only when every unit is at 32 bits is it the
    float model's, all parameters included. MiB = 2^20 bytes. So counts the accounting "paper";
    `ribs.select.accounting` says how the others differ.

    layers: in execution order.  groups: the units.  units: their names.
    recipe: of the quantizers, whose steps the accounting "deployment" counts.
    """

    trace: Trace
    groups: tuple[Unit, ...]
    accounting: AccountingName = "paper"
    recipe: RecipeName = "mse"

    @classmethod
    def of(
        cls,
        seen: Trace,
        units: tuple[Unit, ...],
        accounting: AccountingName = "paper",
        recipe: RecipeName | None = None,
    ) -> CostTable:
        find_accounting(accounting)
        return cls(seen, units, accounting, find_recipe(recipe, seen).name)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.trace.layers

    @property
    def parameters(self) -> int:
        return self.trace.parameters

    @property
    def rules(self) -> Accounting:
        return find_accounting(self.accounting)

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(unit.name for unit in self.groups)

    @property
    def owner(self) -> dict[str, str]:
        """The unit of each layer."""
        return {name: unit.name for unit in self.groups for name in unit.layers}

    @property
    def ends(self) -> tuple[str, str]:
        """The units of the first and the last layer."""
        owner = self.owner
        return owner[self.layers[0].name], owner[self.layers[-1].name]

    @property
    def float_macs(self) -> int:
        """MACs of products that stay in float, as far as they are counted."""
        rules = self.rules
        skipped = sum(layer.macs for layer in self.trace.skipped if rules.matmuls or layer.kind != "matmul")
        return skipped + (sum(self.trace.unquantized.values()) if rules.matmuls else 0)

    @property
    def float_bits(self) -> int:
        """Bits of what is stored beside the layers under quantizers, as far as it is counted."""
        numbers = sum(layer.weights for layer in self.trace.skipped)
        if self.rules.everything_stored:
            numbers += sum(layer.biases for layer in self.trace.skipped) + self.trace.others
        return numbers * FLOAT_BITS

    def has_weights(self, unit: Unit) -> bool:
        return any(layer.weights for layer in self.members(unit))

    def members(self, unit: Unit) -> list[Layer]:
        """The layers of a unit."""
        names = set(unit.layers)
        return [layer for layer in self.layers if layer.name in names]

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

        An accounting with ends at 8 bits has them there too where `bits` is one for all units, unless that is float.
        Raises: ValueError for bits other than 1..8 and 32, unknown units and units left out.
        """
        if not isinstance(bits, Mapping):
            pair = as_pair(bits)
            ends = self.ends if self.rules.ends_at_8_bits and pair != (FLOAT_BITS, FLOAT_BITS) else ()
            return {name: (8, 8) if name in ends else pair for name in self.units}
        unknown = [name for name in bits if name not in self.units]
        missing = [name for name in self.units if name not in bits]
        if unknown or missing:
            problem = f"names no unit: {unknown}" if unknown else f"leaves out: {missing}"
            raise ValueError(f"[ribs] the configuration {problem}; the units are {list(self.units)}")
        return {name: as_pair(bits[name]) for name in self.units}

    def candidate_costs(self, unit: Unit, candidates: Sequence[Bits]) -> list[tuple[int, int]]:
        """(BOPs, weight bits) of one unit at each candidate."""
        members = self.members(unit)
        return self._totals(members, [[candidate] * len(members) for candidate in candidates])

    def _cost(self, bits: AnyBits) -> tuple[int, int]:
        configuration = self.configuration(bits)
        owner = self.owner
        [(bops, size)] = self._totals(self.layers, [[configuration[owner[layer.name]] for layer in self.layers]])
        return bops + self.float_macs * FLOAT_BITS**2, size + self.float_bits

    def _totals(self, layers: Sequence[Layer], configs: list[list[Bits]]) -> list[tuple[int, int]]:
        # Both operands of a matmul are activations: its "weight bits" are activation bits too.
        pairs = [
            [(a, a) if layer.kind == "matmul" else (w, a) for layer, (w, a) in zip(layers, config, strict=True)]
            for config in configs
        ]
        counted = [layer.macs if layer.kind != "matmul" or self.rules.matmuls else 0 for layer in layers]
        macs = torch.tensor(counted, dtype=torch.int64)
        weights = torch.tensor([layer.weights for layer in layers], dtype=torch.int64)
        cost = ops.config_cost(torch.tensor(pairs, dtype=torch.int64), macs, weights)
        stored = [0] * len(configs)
        if self.rules.everything_stored:
            beside = [self._stored_beside(layer) for layer in layers]
            stored = [sum(count(bits) for count, bits in zip(beside, config, strict=True)) for config in configs]
        return list(zip(cost.bops.tolist(), map(operator.add, cost.weight_bits.tolist(), stored), strict=True))

    def _stored_beside(self, layer: Layer) -> Callable[[Bits], int]:
        """Counts the bits of a layer's biases, steps and zero points at its (weight, activation) bits."""
        recipe = RECIPES[self.recipe]
        operands = (2 if layer.kind == "matmul" else 1) * layer.calls
        shares = sum(name == layer.name for name, _, _ in self.trace.shares) if recipe.shares is not None else 0
        readers = itertools.chain(*self.trace.norms.values()) if recipe.by_channel is not None else ()
        makes_bias = not layer.biases and layer.name in readers

        def count(bits: Bits) -> int:
            weight_bits, activation_bits = bits
            numbers = layer.biases * FLOAT_BITS
            if weight_bits != FLOAT_BITS:
                numbers += layer.channels * (STEP_BITS if recipe.symmetric else STEP_BITS + ZERO_POINT_BITS)
            if activation_bits != FLOAT_BITS:
                levels = 2**activation_bits - 1 if recipe.shares == "nonuniform" else 1
                numbers += shares * levels * STEP_BITS + (operands - shares) * (STEP_BITS + ZERO_POINT_BITS)
                numbers += layer.channels * FLOAT_BITS if makes_bias else 0
            return numbers

        return count

    def __str__(self) -> str:
        owner = self.owner
        rows = [
            [layer.name, layer.kind, owner[layer.name], f"{layer.macs / 1e6:,.2f}", f"{layer.weights:,}"]
            for layer in self.layers
        ]
        layers = text_table(["layer", "kind", "unit", "MMACs", "weights"], rows, right=(3, 4))
        return f"{layers}\n\n{self.totals()}"

    def totals(self) -> str:
        """BOPs and MiB of the uniform networks in every accounting, as a table."""
        tables = [replace(self, accounting=name) for name in ACCOUNTINGS]
        header = ["weight/activation bits"]
        header += [f"{name} {unit}" for name in ACCOUNTINGS for unit in ("GBOPs", "MiB")]
        rows = []
        for bits in (FLOAT_BITS, 8, 6, 4, 3):
            costs = [(f"{t.bops(bits) / 1e9:.5g}", f"{t.size_mib(bits):.4g}") for t in tables]
            name = "32/32 (float)" if bits == FLOAT_BITS else f"{bits}/{bits}"
            rows.append([name, *(cell for pair in costs for cell in pair)])
        return text_table(header, rows, right=range(1, len(header)))


def count(
    model: nn.Module,
    example_input: Any,
    *,
    units: UnitScheme = "layer",
    skip: Iterable[str] = (),
    accounting: AccountingName = "paper",
    recipe: RecipeName | None = None,
) -> CostTable:
    """Count the MACs and weights of every layer by one forward pass without arithmetic (on the meta device).

    model: in eval mode; it is not changed.
    example_input: a batch as a loader would yield it (a tensor, a tuple led by the input, or a dict).
    units, skip, recipe: as for `ribs.search`; the recipe only matters to the accounting "deployment".
    accounting: what is counted; one of `ribs.select.accounting.ACCOUNTINGS`. `.totals()` shows all of them.
    Returns: a table; print it, or ask its `.units`, `.bops(bits)` and `.size_mib(bits)`.
    """
    model = unwrap(model)
    check_training(model)
    seen = trace(model, as_inputs(model, example_input), Skip(model, skip))
    return CostTable.of(seen, find_units(model, seen.layers, units), accounting, recipe)


def as_pair(bits: Any) -> Bits:
    """(weight, activation) bits of an int or a pair.

    Raises: ValueError for bits other than 1..8 and 32 (float).
    """
    pair = (bits, bits) if isinstance(bits, int) else tuple(bits) if isinstance(bits, (tuple, list)) else ()
    if len(pair) == 2 and all(isinstance(b, int) and (1 <= b <= 8 or b == FLOAT_BITS) for b in pair):
        return (pair[0], pair[1])
    raise ValueError(f"[ribs] bits={bits!r} is not allowed; give 1..8 or 32 (float), or a (weight, activation) pair")
