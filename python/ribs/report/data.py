"""The numbers behind the pictures of a result, as tables: lists of equal length by the name of a column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, code_range
from ribs.select.cost import MIB_IN_BITS
from ribs.select.points import Sweep
from ribs.select.result import IterationRecord, Result

Table = dict[str, list[Any]]
BINS = 128  # of a histogram, over the levels of a grid: one each for more


def unit_table(result: Result) -> Table:
    """What each unit has and costs, in execution order.

    unit, weight_bits, activation_bits.
    bops, bops_share: bit operations of one sample, and their part (0 to 1) of the network's.
    bytes, bytes_share: of the weights, and their part of the network's. Shares do not sum to 1 where products or
        weights in float are counted.
    """
    table: Table = {name: [] for name in ("unit", "weight_bits", "activation_bits")}
    table |= {name: [] for name in ("bops", "bops_share", "bytes", "bytes_share")}
    size = result.size_mib * MIB_IN_BITS
    for unit in result.costs.groups:
        pair = result.bits[unit.name]
        [(bops, weight_bits)] = result.costs.candidate_costs(unit, [pair])
        shares = (bops / result.bops if bops else 0.0), (weight_bits / size if weight_bits else 0.0)
        row = (unit.name, *pair, bops, shares[0], weight_bits / 8, shares[1])
        for column, value in zip(table.values(), row, strict=True):
            column.append(value)
    return table


def sensitivity_table(result: Result) -> Table:
    """How the loss changes with the bits of one unit, a row for each candidate that has a number in the last iteration.

    unit, weight_bits, activation_bits.
    delta_loss, standard_error, samples: as in `ribs.select.result.IterationRecord`.
    chosen: whether the result has these bits.  Empty without a history.
    """
    table: Table = {name: [] for name in ("unit", "weight_bits", "activation_bits")}
    table |= {name: [] for name in ("delta_loss", "standard_error", "samples", "chosen")}
    for record in result.history[-1:]:
        for unit in result.costs.units:
            for pair, change in sorted(record.delta_loss.get(unit, {}).items()):
                error, samples = record.delta_standard_error[unit][pair], record.samples[unit][pair]
                row = (unit, *pair, change, error, samples, result.bits[unit] == pair)
                for column, value in zip(table.values(), row, strict=True):
                    column.append(value)
    return table


def iteration_table(result: Result) -> Table:
    """What was expected and measured in each iteration. Empty without a history.

    iteration: from 1.
    predicted, loss, standard_error, interaction_error, bops, size_mib: as in `ribs.select.result.IterationRecord`.
    changed: how many units have other bits than in the iteration before; all in the first.
    programs: how many integer linear programs were solved in it.
    gap: of the worst of these, 0.0 where the optimum of each is proven; None where it was not saved.
    bound: name of the bound of `Result.limits` that the configuration came closest to, and
    share: how close, 0 to 1; "" and None where it was not saved.
    """
    fields = ("predicted", "loss", "standard_error", "interaction_error", "bops", "size_mib")
    table: Table = {"iteration": list(range(1, len(result.history) + 1))}
    table |= {name: [getattr(record, name) for record in result.history] for name in fields}
    bits = [{}, *(record.bits for record in result.history)]
    changed = [sum(new[unit] != old.get(unit) for unit in new) for old, new in pairwise(bits)]
    table |= {"changed": changed, "programs": [len(record.gaps) for record in result.history]}
    table |= {"gap": [max(record.gaps, default=None) for record in result.history]}
    closest = [max(_shares(record, result.limits), default=(None, "")) for record in result.history]
    return table | {"bound": [name for _, name in closest], "share": [share for share, _ in closest]}


def step_table(x: Tensor, quantizer: FakeQuantizer) -> Table:
    """How the values of a tensor lie on the grid of its quantizer at the chosen bits: a histogram in codes.

    x: of the quantizer, such as `layer.weight` of `layer.weight_quantizer`.
    low, high: bounds of each bin, in codes before rounding: x / step + zero point, with the step of each channel. Each
        level c has the bins from c - 0.5 to c + 0.5. The first bin begins at -inf and the last ends at inf.
    count: how many values are in it.  clipped: whether these are beyond the grid, so that they get its last level.
    Raises: ValueError at 32 bits, where there is no grid.
    """
    if quantizer.bits == FLOAT_BITS:
        raise ValueError("[step_table] the quantizer is at 32 bits, which have no steps; choose others by set_bits")
    step, zero_point = quantizer.present
    if quantizer.axis is not None:
        shape = [-1 if axis == quantizer.axis % x.dim() else 1 for axis in range(x.dim())]
        step, zero_point = step.view(shape), zero_point.view(shape)
    codes = x.detach().double() / step + zero_point
    least, most = code_range(quantizer.bits, quantizer.symmetric)
    levels = most - least + 1
    parts = max(1, BINS // levels)  # of a level
    beyond = max(1, levels // 4)  # levels' worth of bins on each side
    edges = torch.arange((levels + 2 * beyond) * parts + 1, dtype=torch.float64) / parts + least - beyond - 0.5
    edges[0], edges[-1] = -math.inf, math.inf
    counts = torch.bucketize(codes.flatten().cpu(), edges[1:-1], right=True).bincount(minlength=len(edges) - 1)
    low, high = edges[:-1].tolist(), edges[1:].tolist()
    clipped = [right <= least - 0.5 or left >= most + 0.5 for left, right in zip(low, high, strict=True)]
    return {"low": low, "high": high, "count": counts.tolist(), "clipped": clipped}


def _shares(record: IterationRecord, limits: Mapping[str, int]) -> Iterator[tuple[float, str]]:
    """How close it came to each bound. That of a least cost is negative, as what is spent then is."""
    for name, spent in record.spent.items():
        parts = sorted(map(abs, (spent, limits[name])))
        yield (float(Fraction(*parts)) if parts[1] else 1.0), name


def front_table(sweep: Sweep) -> Table:
    """What was measured at each budget of a sweep, and of uniform networks.

    budget: in words.  uniform: whether it is a uniform network, which follow the others.
    loss, standard_error, bops, size_mib: as in `ribs.select.points.Point`.
    and a column for each other resource that all budgets bound, with what is spent; None of uniform networks.
    """
    points = (*sweep.points, *sweep.uniform)
    table: Table = {"budget": [point.budget for point in points]}
    table["uniform"] = [number >= len(sweep.points) for number in range(len(points))]
    table |= {name: [getattr(point, name) for point in points] for name in ("loss", "standard_error")}
    table |= {name: [getattr(point, name) for point in points] for name in ("bops", "size_mib")}
    for each in sweep.points[0].spending:
        if each.name not in ("bops", "size"):
            spent = [{own.name: float(own.spent) for own in point.spending} for point in points]
            table[each.name] = [own.get(each.name) for own in spent]
    return table


def printable(text: str) -> str:
    """The text with a mark in the place of what cannot be shown, such as line ends and control characters."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
