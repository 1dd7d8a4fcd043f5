"""Rows of the paper in print: all of them, and one with its rivals beside what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ribs
from ribs.cli.evaluate import Accuracy
from ribs.cli.paper import Cited, Row, Table, networks, tables
from ribs.cli.paper_costs import as_printed, cost_here
from ribs.cli.search import as_json
from ribs.select.table import text_table

UNCHANGED = "(none)"


@dataclass
class Outcome:
    """What a row gave, as far as it has any of these.

    accuracy: {name of a row of the same table: measured}.
    layers: {layer: measured with that layer alone changed}, led by UNCHANGED.
    deltas: {bits of the unit: (change of the loss, its standard error)}.
    """

    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    result: ribs.Result | None = None
    layers: dict[str, Accuracy] = field(default_factory=dict)
    deltas: dict[int, tuple[float, float]] = field(default_factory=dict)


def all_rows() -> list[dict[str, Any]]:
    """All rows as the paper prints them; waits_for: what must be there to run one, null for another paper's figure."""
    return [
        {
            "row": f"{name}/{row.name}",
            "method": row.method,
            "bits": row.bits,
            "published": vars(row.published),
            "waits_for": None if isinstance(row.run, Cited) else ["ImageNet"],
        }
        for name, table in tables().items()
        for row in table.rows
    ]


def listing() -> str:
    rows = []
    for each in all_rows():
        cells = [each["published"][key] or "" for key in ("gbops", "mib", "top1")]
        rows.append([each["row"], each["method"], each["bits"], *cells, ", ".join(each["waits_for"] or ["-"])])
    header = ["row", "method", "W/A", "GBOPs", "MiB", "top-1 %", "waits for"]
    titles = "\n".join(f"{name}: {table.title}" for name, table in tables().items())
    used = "\n".join(f"{name}: {network.model}; {network.why}" for name, network in networks().items())
    return (
        f"{titles}\n\nThe rows, with the figures that the paper prints\n{text_table(header, rows, right=(3, 4, 5))}\n\n"
        "ImageNet: its folder, and the weights of the network: ribs reproduce ROW --data IMAGENET\n"
        f"-: the figure of another paper, which ribs does not run\n\nNetworks\n{used}"
    )


def report(table: Table, row: Row, outcome: Outcome, changes: list[str]) -> str:
    """The row and its rivals, each published figure beside what ribs counts and has measured."""
    parts = [table.title, _comparison(table, row, outcome)]
    if outcome.result is not None:
        parts.insert(0, outcome.result.summary())
        if outcome.result.history:
            parts.append(_by_iteration(outcome.result))
    if outcome.layers:
        parts.append(_by_layer(outcome.layers))
    if outcome.deltas:
        parts.append(_bybits_of(outcome.deltas))
    notes = [f"{other.name}: {other.differs}" for other in table.beside(row) if other.differs]
    notes += [f"{row.name}: {row.note}"] if row.note else []
    notes.append(f"network: {networks()[row.network].model}; {networks()[row.network].why}")
    notes += [f"not as in the paper: {change}" for change in changes]
    return "\n\n".join([*parts, "\n".join(notes)])


def _comparison(table: Table, row: Row, outcome: Outcome) -> str:
    shown = table.beside(row)
    here = {other.name: cost_here(other) for other in shown}
    if outcome.result is not None:
        here[row.name] = as_printed(outcome.result.costs, outcome.result.bits)
    for name, accuracy in outcome.accuracy.items():
        here[name]["top1"] = f"{accuracy.top1:.2f}"
    columns: list[tuple[str, list[str]]] = []
    for key, title in (("gbops", "GBOPs"), ("mib", "MiB"), ("top1", "top-1 %")):
        columns.append((f"{title} paper", [vars(other.published)[key] or "" for other in shown]))
        columns.append((f"{title} here", [here[other.name].get(key, "") for other in shown]))
    columns = [(title, cells) for title, cells in columns if any(cells)]
    rows = [
        ["->" if other is row else "", other.name, other.method, other.bits, *(cells[index] for _, cells in columns)]
        for index, other in enumerate(shown)
    ]
    header = ["", "row", "method", "W/A", *(title for title, _ in columns)]
    return text_table(header, rows, right=range(4, len(header)))


def _by_iteration(result: ribs.Result) -> str:
    rows = [
        [str(index + 1), f"{one.loss:.6g}", f"{one.standard_error:.2g}"] for index, one in enumerate(result.history)
    ]
    return text_table(["iteration", "task loss", "+-"], rows, right=(0, 1, 2))


def _by_layer(layers: Mapping[str, Accuracy]) -> str:
    rows = [[name, f"{one.top1:.2f}", f"{one.top1 - layers[UNCHANGED].top1:+.2f}"] for name, one in layers.items()]
    return text_table(["layer changed", "top-1 %", "change"], rows, right=(1, 2))


def _bybits_of(deltas: Mapping[int, tuple[float, float]]) -> str:
    rows = [[str(bits), f"{change:+.6g}", f"{error:.2g}"] for bits, (change, error) in deltas.items()]
    return text_table(["bits of the unit", "change of the loss", "+-"], rows, right=(0, 1, 2))


def report_as_json(table: Table, row: Row, outcome: Outcome, changes: list[str]) -> dict[str, object]:
    return {
        "published": {other.name: vars(other.published) for other in table.beside(row)},
        "top1": {name: one.top1 for name, one in outcome.accuracy.items()},
        "top1_by_layer": {name: one.top1 for name, one in outcome.layers.items()},
        "change_by_bits": {bits: change for bits, (change, _) in outcome.deltas.items()},
        "result": None if outcome.result is None else as_json(outcome.result),
        "not_as_in_the_paper": changes,
    }
