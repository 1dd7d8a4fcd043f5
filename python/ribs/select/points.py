"""What a sweep returns."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork
from ribs.quant.recipe import RecipeName
from ribs.quant.reparameterize import reparameterize
from ribs.select.cost import Configuration, CostTable
from ribs.select.files import write_file
from ribs.select.loss import TaskLoss
from ribs.select.result import Result, SearchCost, Spending
from ribs.select.sampling import standard_error
from ribs.select.sensitivity import Sensitivity
from ribs.select.table import text_table


@dataclass(frozen=True)
class Point:
    """A configuration and what was measured of it.

    budget: in words, the one within which no other measured configuration is better; "uniform 4/4" of a uniform one.
    bits: (weight bits, activation bits) of each unit.
    loss: mean task loss on the calibration set as the sweep measured it; `Sweep.result` has that of the finished
        network, another number only for recipes that have steps by channel while bits are chosen.
    standard_error: of that mean.
    bops: bit operations of one sample.  size_mib: MiB of the weights.
    limits, spending: as in `ribs.Result`; empty of a uniform one.
    """

    budget: str
    bits: Configuration
    loss: float
    standard_error: float
    bops: int
    size_mib: float
    limits: dict[str, int]
    spending: tuple[Spending, ...]


@dataclass(frozen=True)
class Sweep:
    """Measured configurations at several budgets; print it for a table.

    points: one for each budget, in the order given. One configuration may be the answer at several of them. No point
        is dominated: none that spends as little of everything bounded, and less of something, has as low a loss.
    uniform: the uniform networks that the candidates allow, with rising bits; pinned units stay as they are.
    stopped: whether `max_seconds` ended the sweep early.
    costs: the cost of any other configuration.  recipe: name of the recipe of the quantizers.
    """

    points: tuple[Point, ...]
    uniform: tuple[Point, ...]
    stopped: bool
    cost_of_search: SearchCost
    costs: CostTable
    recipe: RecipeName
    _network: QuantizedNetwork = field(repr=False)
    _batches: list[Inputs] = field(repr=False)
    _loss: TaskLoss = field(repr=False)

    def result(self, index: int) -> Result:
        """The quantized network of a point, as `ribs.search` returns it but without a history.

        index: of `points`. It takes a copy of the network and two passes of the calibration set.
        """
        point = self.points[index]
        network = copy.deepcopy(self._network)
        sensitivity = Sensitivity(network, self._batches, [[pair] for pair in point.bits.values()], self._loss)
        reparameterize(network, point.bits, self._batches)
        losses = sensitivity.losses_of(network)
        return Result(
            bits=point.bits,
            model=network.model,
            loss=float(losses.mean()),
            standard_error=standard_error(losses),
            loss_as_searched=point.loss,
            bops=point.bops,
            size_mib=point.size_mib,
            limits=point.limits,
            spending=point.spending,
            history=(),
            stopped=self.stopped,
            cost_of_search=self.cost_of_search,
            costs=self.costs,
            recipe=self.recipe,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all points as a table, .json or .csv by the name of the file, in place of one that is there.

        Raises: ValueError for another ending; OSError where the path is not writable, after which what was there
            still is.
        """
        path = Path(path)
        check_ending(path)
        text = self.as_csv() if path.suffix == ".csv" else json.dumps(self.as_json(), indent=2) + "\n"
        write_file(path, text.encode())

    def as_json(self) -> dict[str, Any]:
        """Everything but the network, for other programs."""
        return {
            "points": [_as_json(point) for point in self.points],
            "uniform": [_as_json(point) for point in self.uniform],
            "recipe": self.recipe,
            "stopped": self.stopped,
            "forward_equivalents": self.cost_of_search.forward_equivalents,
            "seconds": self.cost_of_search.seconds,
        }

    def as_csv(self) -> str:
        """A line for each point, and for each uniform network; the bits of each unit as "weights/activations"."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["budget", "loss", "standard_error", "bops", "size_mib", *self.costs.units])
        for point in (*self.points, *self.uniform):
            bits = [f"{w}/{a}" for w, a in point.bits.values()]
            writer.writerow([point.budget, point.loss, point.standard_error, point.bops, point.size_mib, *bits])
        return text.getvalue()

    def __str__(self) -> str:
        others = [each.name for each in self.points[0].spending if each.name not in ("bops", "size")]
        header = ["budget", "task loss", "+-", "GBOPs", "MiB", *(name.replace("_", " ") for name in others)]
        rows = []
        for point in (*self.points, *self.uniform):
            spent = {each.name: f"{float(each.spent):.4g}" for each in point.spending}
            cells = [point.budget, f"{point.loss:.5g}", f"{point.standard_error:.2g}", f"{point.bops / 1e9:.4g}"]
            rows.append([*cells, f"{point.size_mib:.4g}", *(spent.get(name, "") for name in others)])
        cost = self.cost_of_search
        ended = " (out of time)" if self.stopped else ""
        return (
            f"{text_table(header, rows, right=range(1, len(header)))}\n\n{len(self.points)} budgets, "
            f"{cost.forward_equivalents:.1f} forward equivalents{ended}, {cost.seconds:.1f} s"
        )


def check_ending(path: Path) -> None:
    """Raise ValueError for a file in which no sweep is saved."""
    if path.suffix not in (".json", ".csv"):
        raise ValueError(f"[sweep] path={str(path)!r} is not supported; give the name of a .json or a .csv file")


def _as_json(point: Point) -> dict[str, Any]:
    fields = {each.name: getattr(point, each.name) for each in dataclasses.fields(point)}
    return {**fields, "spending": {each.name: float(each.spent) for each in point.spending}}
