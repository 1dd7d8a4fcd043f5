"""What the rows of the paper cost, as ribs counts it."""

from __future__ import annotations

import functools
from typing import Literal

import torch

import ribs
from ribs.cli.models import input_size, load_model
from ribs.cli.paper import Cited, Float, Row, Search, Sensitivity, Uniform, Variation, networks
from ribs.select.cost import MIB_IN_BITS, AnyBits, Configuration


def costs_of(row: Row) -> ribs.CostTable:
    """What the row's network costs in its units."""
    return _count(networks()[row.network].model, row.run.units if isinstance(row.run, Search) else "block")


@functools.cache
def _count(name: str, units: Literal["block", "layer"]) -> ribs.CostTable:
    """What a network costs, from its shapes alone."""
    with torch.device("meta"):
        model = load_model(name, checkpoint=None, pretrained=False)
    return ribs.count(model, torch.empty(1, *input_size(model, None), device="meta"), units=units)


def bits_of(run: Uniform | Cited, costs: ribs.CostTable) -> Configuration:
    """The bits of every unit; those of `run` are known."""
    assert run.bits is not None
    bits = costs.configuration(run.bits)
    if run.ends is not None:
        bits[costs.units[0]] = bits[costs.units[-1]] = (run.ends, run.ends)
    return bits


def budget_of(run: Search) -> ribs.Budget:
    return ribs.Budget(bops=run.gbops * 1e9 if isinstance(run.gbops, (int, float)) else run.gbops, size=run.mib)


def cost_here(row: Row) -> dict[str, str]:
    """{"gbops": 1e9 bit operations, "mib": MiB} of a row as ribs counts them, where its bits are known.

    Of a search it is the budget, as "<= ..."; of a row that changes one layer or unit, what all together cost before.
    """
    costs, run = costs_of(row), row.run
    if isinstance(run, Search):
        units = {"bops": ("gbops", 10**9), "size": ("mib", MIB_IN_BITS)}
        bounds = [(*units[term.resource.name], term.most) for term in budget_of(run).terms(costs)]
        return {column: f"<= {float(most / one):.5g}" for column, one, most in bounds if most is not None}
    bits: AnyBits | None = None
    if isinstance(run, Float):
        bits = 32
    elif isinstance(run, Sensitivity):
        bits = run.others
    elif isinstance(run, Variation):
        bits = run.reference
    elif run.bits is not None:
        bits = bits_of(run, costs)
    return {} if bits is None else as_printed(costs, bits)


def as_printed(costs: ribs.CostTable, bits: AnyBits) -> dict[str, str]:
    return {"gbops": f"{costs.bops(bits) / 1e9:.5g}", "mib": f"{costs.size_mib(bits):.4g}"}
