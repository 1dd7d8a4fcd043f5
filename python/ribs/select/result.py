"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ribs.quant.network import Bits
from ribs.select.cost import Configuration, CostTable
from ribs.select.table import text_table


@dataclass(frozen=True)
class IterationRecord:
    """One iteration of Algorithm 1.

    predicted: task loss that the ILP expected of its configuration; loss: the loss then measured.
    bops, size_mib: cost of that configuration.  bits: that configuration.
    selected: the units whose candidates were measured.
    delta_loss: {unit: {(weight bits, activation bits): measured loss change from the reference}}.
    """

    predicted: float
    loss: float
    bops: int
    size_mib: float
    bits: Configuration
    selected: tuple[str, ...]
    delta_loss: dict[str, dict[Bits, float]]


@dataclass(frozen=True)
class SearchCost:
    """forward_equivalents: work in passes of the network over the calibration set.  seconds: wall time."""

    forward_equivalents: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """A quantized network and how it was found.

    bits: (weight bits, activation bits) of each unit.
    model: the quantized network, an nn.Module in eval mode.
    loss: mean task loss on the calibration set.
    bops: bit operations of one sample.  size_mib: MiB of the weights.
    limits: the budget in bit operations ("bops") and bits of weights ("size_mib"); empty for `ribs.quantize`.
    history: one record an iteration; empty for `ribs.quantize`.
    costs: the cost of any other configuration.
    """

    bits: Configuration
    model: nn.Module
    loss: float
    bops: int
    size_mib: float
    limits: dict[str, int]
    history: tuple[IterationRecord, ...]
    cost_of_search: SearchCost
    costs: CostTable

    def summary(self) -> str:
        """The bits of every unit with their share of the cost, and the totals, as a table."""
        rows = []
        for unit in self.costs.groups:
            weight, activation = self.bits[unit.name]
            [(bops, weight_bits)] = self.costs.candidate_costs(unit, [(weight, activation)])
            size = weight_bits / 8 / 1024
            rows.append([unit.name, str(weight), str(activation), f"{100 * bops / self.bops:.1f}", f"{size:,.1f}"])
        table = text_table(["unit", "weight bits", "activation bits", "% of BOPs", "KiB"], rows, right=(1, 2, 3, 4))
        spent = [f"{self.bops / 1e9:.6g} GBOPs", f"{self.size_mib:.4g} MiB"]
        if "bops" in self.limits:
            spent[0] += f" ({100 * self.bops / self.limits['bops']:.2f} % of the budget)"
        if "size_mib" in self.limits:
            used = self.costs.weight_bits(self.bits) / self.limits["size_mib"]
            spent[1] += f" ({100 * used:.2f} % of the budget)"
        cost = self.cost_of_search
        return (
            f"{table}\n\ntask loss {self.loss:.6g}, {', '.join(spent)}; found in {len(self.history)} iterations, "
            f"{cost.forward_equivalents:.1f} forward equivalents, {cost.seconds:.1f} s"
        )

    def __str__(self) -> str:
        return self.summary()
