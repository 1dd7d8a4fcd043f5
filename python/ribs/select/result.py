"""What a search returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ribs.quant.network import Bits
from ribs.quant.recipe import RecipeName
from ribs.select.cost import Configuration, CostTable
from ribs.select.exported import OnnxExport
from ribs.select.files import write_file
from ribs.select.table import text_table


@dataclass(frozen=True)
class IterationRecord:
    """One iteration of a search.

    predicted: task loss that was expected of the configuration; loss: the loss then measured, a mean over samples;
        standard_error: of that mean.
    bops, size_mib: cost of that configuration.  bits: that configuration.
    selected: the units whose candidates were measured; all in the adaptive search.
    delta_loss: {unit: {(weight bits, activation bits): loss change from the reference}}: measured in Algorithm 1, and
        in the adaptive search estimated from all that was measured before.
    delta_standard_error: of these changes; the measured ones are means over the same samples with and without.
    samples: how many samples each change is a mean over, fewer for those that left a race early; in the adaptive
        search, how many the candidate was seen on in any configuration.
    spent: exact costs of that configuration, by the names of `Result.limits`, within which each program was.
    gaps: for each integer linear program that was solved, 0.0 where its optimum is proven in exact arithmetic, and
        otherwise how far its solution may be above it, in loss (`ribs.select.ilp.Solution`).
    Both are empty in what was saved before they were there (format 1).
    """

    predicted: float
    loss: float
    standard_error: float
    bops: int
    size_mib: float
    bits: Configuration
    selected: tuple[str, ...]
    delta_loss: dict[str, dict[Bits, float]]
    delta_standard_error: dict[str, dict[Bits, float]]
    samples: dict[str, dict[Bits, int]]
    spent: dict[str, int]
    gaps: tuple[float, ...]

    @property
    def interaction_error(self) -> float:
        """What was measured less what was predicted: what losses do not just add up."""
        return self.loss - self.predicted


@dataclass(frozen=True)
class Spending:
    """What a configuration spends of a resource that is bounded.

    unit: of the numbers; "" where it is the user's own.  least, most: the bounds, None where there is none.
    """

    name: str
    unit: str
    least: Fraction | None
    most: Fraction | None
    spent: Fraction

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        name = {"bops": "", "size": ""}.get(self.name, f"{self.name.replace('_', ' ')} ")
        text = f"{name}{float(self.spent):.6g}{unit}"
        if self.most is not None:
            text += f" ({float(100 * self.spent / self.most):.2f} % of the budget)"
        if self.least is not None:
            text += f" (at least {float(self.least):.6g})"
        return text


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
    loss: mean task loss on the calibration set, in float32. As the least of many that were measured there, it is lower
        than on other inputs: `ribs.evaluate` measures it on those.  standard_error: of that mean.
    loss_as_searched: the same as the search measured it; another number only for execution="int8", and for recipes that
        have steps by channel while bits are chosen.
    bops: bit operations of one sample.  size_mib: MiB of the weights.
    limits: the budget as upper bounds in integers (see `ribs.select.plan.Plan`), such as bit operations ("bops") and
        bits of weights ("size"); empty for `ribs.quantize`.
    spending: what is spent of everything that is bounded.
    history: one record an iteration; empty for `ribs.quantize`.
    stopped: whether `max_seconds` ended the search before its last iteration.
    costs: the cost of any other configuration.
    recipe: name of the recipe of the quantizers.
    """

    bits: Configuration
    model: nn.Module
    loss: float
    standard_error: float
    loss_as_searched: float
    bops: int
    size_mib: float
    limits: dict[str, int]
    spending: tuple[Spending, ...]
    history: tuple[IterationRecord, ...]
    stopped: bool
    cost_of_search: SearchCost
    costs: CostTable
    recipe: RecipeName

    def summary(self) -> str:
        """The bits of every unit with their share of the cost, and the totals, as a table."""
        rows = []
        for unit in self.costs.groups:
            weight, activation = self.bits[unit.name]
            [(bops, weight_bits)] = self.costs.candidate_costs(unit, [(weight, activation)])
            size = weight_bits / 8 / 1024
            rows.append([unit.name, str(weight), str(activation), f"{100 * bops / self.bops:.1f}", f"{size:,.1f}"])
        table = text_table(["unit", "weight bits", "activation bits", "% of BOPs", "KiB"], rows, right=(1, 2, 3, 4))
        spent = {"bops": f"{self.bops / 1e9:.6g} GBOPs", "size": f"{self.size_mib:.4g} MiB"}
        spent |= {each.name: str(each) for each in self.spending}
        cost = self.cost_of_search
        loss = f"task loss {self.loss:.6g} +- {self.standard_error:.2g}"
        if self.loss_as_searched != self.loss:
            loss += f" ({self.loss_as_searched:.6g} as searched: {self.loss_as_searched / self.loss - 1:+.2%})"
        ended = " (out of time)" if self.stopped else ""
        return (
            f"{table}\n\n{loss}, {', '.join(spent.values())}; found in "
            f"{len(self.history)} iterations{ended}, {cost.forward_equivalents:.1f} forward equivalents, "
            f"{cost.seconds:.1f} s"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it into a folder, for `ribs.load`: weights packed at their bits, everything else as JSON.

        The folder appears whole, and takes the place of one that was saved before. docs/saving.md says what is in it.
        Raises: FileExistsError for a path where something else is; ValueError for a model whose bits were changed
            since; TypeError for quantizers or tensors of a kind that has no place in the format; OSError where the
            disk is full or the path not writable, after which what was there still is.
        """
        import_module("ribs.io.saved").save(self, path)  # of a room above: known when it is needed

    def export_onnx(
        self,
        path: str | os.PathLike[str],
        batch: Any,
        packing: Literal["packed", "native"] = "packed",
        opset: int = 21,
    ) -> OnnxExport:
        """Write the network as ONNX of standard operators, for runtimes such as onnxruntime and OpenVINO.

        batch: inputs as the loader yields them, on up to 16 samples of which the file is tried before it appears:
            its integers, every part by itself, and the outputs. With several samples, the file takes any number of them
            where the network's forward lets it be; with one, it takes one.
        packing: of weights: "packed", planes of bits, exactly as many as they have; or "native", in INT4 and INT8.
        opset: of operators, 21, or 25, which has INT2 too, and needs newer runtimes.
        docs/export.md says what is in it. A file that is there is replaced once the new one is complete.
        Raises: ribs.ExportError for a network that cannot be exported, and for a file that would not compute what the
            network computes; ImportError without the extra `onnx`, or for versions that are too old; ValueError for
            another packing or
            opset; OSError where the path is not writable. Then no file is changed.
        """
        made: OnnxExport = import_module("ribs.io.export.onnx_file").export_onnx(self, path, batch, packing, opset)
        return made

    def export_pt2(self, path: str | os.PathLike[str], batch: Any) -> None:
        """Write the network for `torch.export.load`, in operators of torch alone, with weights as int8.

        batch: as for `export_onnx`; the file is loaded and must give the outputs of the network to the last bit.
        Raises: ribs.ExportError for a network that cannot be exported; OSError where the path is not writable. Then no
            file is changed.
        """
        import_module("ribs.io.export.pt2_file").export_pt2(self, path, batch)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one page of HTML: the numbers, pictures, bits and history. It needs no network and no scripts.

        docs/report.md says what is on it. A file that is there is replaced, once the page is complete.
        Raises: ImportError without matplotlib (the extra `plot`); OSError where the path is not writable, after which
            what was there still is.
        """
        page = import_module("ribs.report.page").page(self)
        write_file(Path(path), page.encode())

    def __str__(self) -> str:
        return self.summary()
