"""The numbers behind the pictures of a result, as tables: lists of equal length by the name of a column."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ribs.select.cost import MIB_IN_BITS
from ribs.select.result import Result
from ribs.select.sweep import Sweep

Table = dict[str, list[Any]]


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
    """
    fields = ("predicted", "loss", "standard_error", "interaction_error", "bops", "size_mib")
    table: Table = {"iteration": list(range(1, len(result.history) + 1))}
    table |= {name: [getattr(record, name) for record in result.history] for name in fields}
    bits = [{}, *(record.bits for record in result.history)]
    changed = [sum(new[unit] != old.get(unit) for unit in new) for old, new in pairwise(bits)]
    return table | {"changed": changed}


def front_table(sweep: Sweep) -> Table:
    """What was measured at each budget of a sweep, and of uniform networks.

    budget: in words.  uniform: whether it is a uniform network, which follow the others.
    loss, standard_error, bops, size_mib: as in `ribs.select.sweep.Point`.
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
