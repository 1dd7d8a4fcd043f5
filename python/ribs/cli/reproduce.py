"""`ribs reproduce`: a row of the paper's table or figures, run and printed beside the published figures."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import ribs
from ribs.cli.evaluate import Accuracy, evaluate, labelled_images
from ribs.cli.models import input_size, load_data, load_model
from ribs.cli.output import bars, print_json
from ribs.cli.paper import (
    Cited,
    Float,
    Reconstruction,
    Row,
    Search,
    Sensitivity,
    Table,
    Training,
    Uniform,
    Variation,
    find_row,
    networks,
    tables,
)
from ribs.cli.qat import training_images
from ribs.cli.search import as_json
from ribs.quant.inputs import collect
from ribs.quant.network import calibrate, prepare
from ribs.select.cost import MIB_IN_BITS, AnyBits, Configuration
from ribs.select.loss import kl_divergence
from ribs.select.reconstructed import Reconstructed
from ribs.select.samples import standard_error
from ribs.select.table import text_table

UNCHANGED = "(none)"
EPOCHS = 90  # of training: LSQ's, as the paper gives none
STORE_MIB = 8192  # with the samples of the paper the first convolution of ResNet-18 takes 4.2 GiB, the most of all


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


def run(arguments: argparse.Namespace) -> None:
    """List all rows, or run one; one that cannot run still prints what it and its rivals cost."""
    if arguments.list:
        if arguments.json:
            print_json(_rows())
        else:
            print(_listing())
        return
    if arguments.row is None:
        raise ValueError("give a row such as table1a/ribs-28.5, or --list to see all of them")
    table, row = find_row(arguments.row)
    if refusal := _refusal(arguments, row):
        if not arguments.json:
            print(_report(table, row, Outcome(), []))
        raise ValueError(refusal)
    outcome = _Run(arguments, table, row).outcome()
    changes = _changes(arguments, table, row)
    if arguments.json:
        print_json(_as_json(table, row, outcome, changes))
    else:
        print(_report(table, row, outcome, changes))


def _refusal(arguments: argparse.Namespace, row: Row) -> str | None:
    """Why the row cannot run, if so."""
    if isinstance(row.run, Cited):
        return f"{arguments.row} is the figure of another paper; run the rows that are compared with it"
    if arguments.data is None:
        return (
            f"{arguments.row} needs --data: a folder with ImageNet's train/ and val/, a folder for each class in both"
        )
    return None


def _changes(arguments: argparse.Namespace, table: Table, row: Row) -> list[str]:
    """What the options change from the paper's setting."""
    changed = {
        "random weights": arguments.random_weights,
        f"the weights in {arguments.checkpoint}": arguments.checkpoint is not None,
        f"{arguments.limit} images for validation": arguments.limit is not None,
        f"{arguments.samples} calibration samples, not {table.samples}": arguments.samples not in (None, table.samples),
        f"seed {arguments.seed}, not {table.seed}": arguments.seed not in (None, table.seed),
    }
    if getattr(row.run, "reconstruction", None) is not None:
        most = arguments.reconstruction_iterations
        changed[f"at most {most} steps of reconstruction for each block"] = most is not None
    if getattr(row.run, "training", None) is not None:
        changed[f"{arguments.epochs} epochs, not {EPOCHS}"] = arguments.epochs != EPOCHS
    if isinstance(row.run, Search):
        iterations = f"at most {arguments.iterations} iterations, not {row.run.iterations}"
        changed[iterations] = arguments.iterations not in (None, row.run.iterations)
    return [text for text, is_so in changed.items() if is_so]


class _Run:
    """One row on the user's images."""

    def __init__(self, arguments: argparse.Namespace, table: Table, row: Row) -> None:
        self.arguments, self.table, self.row = arguments, table, row
        self.samples = table.samples if arguments.samples is None else arguments.samples
        self.seed = table.seed if arguments.seed is None else arguments.seed
        self.progress = bars(arguments)
        self.folder = Path(arguments.data)
        self.model = load_model(
            networks()[row.network].model, checkpoint=arguments.checkpoint, pretrained=not arguments.random_weights
        )
        self.size = input_size(self.model, None)
        self.model.to(arguments.device)
        # Both before any long work, so that a folder that will not do is named at once.
        self.validation = None if table.measure == "task loss" else self._validation()
        self.calibration: Any = None if isinstance(row.run, Float) else self._calibration()

    def outcome(self) -> Outcome:
        outcome = Outcome()
        if self.validation is not None:
            # Whatever the row is: only where the float network is the paper's can its figures be compared.
            floating = [row.name for row in self.table.beside(self.row) if isinstance(row.run, Float)]
            measured = self._accuracy(self.model, "the float network")
            if not self.arguments.json:
                print(f"the float network: {measured}", flush=True)
            outcome.accuracy = dict.fromkeys(floating, measured)
        if isinstance(self.row.run, Sensitivity):
            outcome.layers = self._sensitivity(self.row.run)
        elif isinstance(self.row.run, Variation):
            outcome.deltas = self._variation(self.row.run)
        elif not isinstance(self.row.run, Float):
            outcome.result = self._quantized()
            if self.validation is not None:
                outcome.accuracy[self.row.name] = self._accuracy(outcome.result.model, "the quantized network")
        return outcome

    def _quantized(self) -> ribs.Result:
        options: dict[str, Any] = {"calibration_samples": self.samples, "progress": self.progress}
        run = self.row.run
        if isinstance(run, Uniform):
            bits = _bits(run, _costs(self.row))
            result = ribs.quantize(self.model, self.calibration, bits, units="block", recipe=run.recipe, **options)
            if run.reconstruction is None:
                return result
            method = self._method(run.reconstruction, run.reconstruction.iterations)
            options["store_mib"] = STORE_MIB
            return ribs.reconstruct(result, self.calibration, method=method, seed=self.seed, **options)
        assert isinstance(run, Search)
        if (asked := run.reconstruction) is not None:
            options["reconstruct"] = self._method(asked, asked.search_iterations or asked.iterations)
            options["store_mib"] = STORE_MIB
            options["finish"] = self._method(asked, asked.iterations)
        found = ribs.search(
            self.model,
            self.calibration,
            _budget(run),
            bits=self.table.candidates,
            activation_bits=run.activation_bits,
            units=run.units,
            recipe=run.recipe,
            algorithm="paper",
            update_size=run.update_size,
            iterations=run.iterations if self.arguments.iterations is None else self.arguments.iterations,
            pins={} if run.ends is None else {"first": run.ends, "last": run.ends},
            journal=self.arguments.journal,
            seed=self.seed,
            **options,
        )
        return found if run.training is None else self._trained(found, run.training)

    def _trained(self, found: ribs.Result, training: Training) -> ribs.Result:
        """The network after training at the bits of a search, on all images with the outputs of the teacher."""
        given = self.arguments
        images = training_images(
            self.folder / "train",
            self.model,
            self.size,
            batch_size=given.batch_size,
            workers=given.workers,
            augment=given.augment,
        )
        name = networks()[training.teacher].model
        return ribs.qat.fit(
            self.model,
            images,
            found,
            training=ribs.qat.Training(epochs=given.epochs, seed=self.seed),
            teacher=load_model(name, checkpoint=None, pretrained=not given.random_weights),
            folder=given.checkpoints,
            method=training.method,
            calibration_samples=self.samples,
            progress=self.progress,
        ).result

    def _sensitivity(self, run: Sensitivity) -> dict[str, Accuracy]:
        batches = collect(self.model, self.calibration, self.samples)
        network = prepare(self.model, batches[0], "layer")
        calibrate(network, batches, sorted({run.bits, run.others}))
        found = {}
        for name in [UNCHANGED, *(unit.name for unit in network.units)]:
            bits = {unit.name: run.bits if unit.name == name else run.others for unit in network.units}
            network.configure({unit: (value, value) for unit, value in bits.items()})
            found[name] = self._accuracy(network.model, name)
        return found

    def _variation(self, run: Variation) -> dict[int, tuple[float, float]]:
        batches = collect(self.model, self.calibration, self.samples)
        network = prepare(self.model, batches[0], "block")
        [unit] = [number for number, each in enumerate(network.units) if each.name == run.unit]
        candidates = [[(bits, bits) for bits in self.table.candidates]] * len(network.units)
        asked = run.reconstruction
        method = self._method(asked, asked.search_iterations or asked.iterations)
        losses = Reconstructed(network, batches, candidates, kl_divergence, method, seed=self.seed, store_mib=STORE_MIB)
        calibrate(network, batches, self.table.candidates)
        before = (self.table.candidates.index(run.reference),) * len(network.units)
        reference = losses.measure([before], 0)[0]
        found: dict[int, tuple[float, float]] = {}
        for index, bits in enumerate(self.table.candidates):
            choice = (*before[:unit], index, *before[unit + 1 :])
            if run.reconstruct == "unit":
                changes = losses.measure_alone(before, choice) - reference
            else:
                changes = losses.measure([before, choice], 0)[1] - reference
            found[bits] = float(changes.mean()), standard_error(changes)
        return found

    def _method(self, asked: Reconstruction, iterations: int) -> ribs.QDrop:
        most = self.arguments.reconstruction_iterations
        return ribs.QDrop(iterations=min(iterations, most or iterations), penalty=asked.penalty)

    def _accuracy(self, model: nn.Module, label: str) -> Accuracy:
        assert self.validation is not None
        return evaluate(model, self.validation, progress=self.progress, label=label)

    def _validation(self) -> Any:
        return labelled_images(
            self.folder / "val",
            self.model,
            self.size,
            batch_size=self.arguments.batch_size,
            workers=self.arguments.workers,
            limit=self.arguments.limit,
            seed=self.seed,
        )

    def _calibration(self) -> Any:
        folder = self.folder / "train"
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; --data should hold train/, with the images to calibrate on")
        loader = load_data(
            folder,
            self.model,
            self.size,
            batch_size=self.arguments.batch_size,
            seed=self.seed,
            workers=self.arguments.workers,
        )
        if len(loader.dataset) < self.samples:
            raise ValueError(
                f"{folder} has {len(loader.dataset)} images, fewer than the {self.samples} samples to take"
            )
        return loader


def _costs(row: Row) -> ribs.CostTable:
    """What the row's network costs in its units."""
    return _count(networks()[row.network].model, row.run.units if isinstance(row.run, Search) else "block")


@functools.cache
def _count(name: str, units: Literal["block", "layer"]) -> ribs.CostTable:
    """What a network costs, from its shapes alone."""
    with torch.device("meta"):
        model = load_model(name, checkpoint=None, pretrained=False)
    return ribs.count(model, torch.empty(1, *input_size(model, None), device="meta"), units=units)


def _bits(run: Uniform | Cited, costs: ribs.CostTable) -> Configuration:
    """The bits of every unit; those of `run` are known."""
    assert run.bits is not None
    bits = costs.configuration(run.bits)
    if run.ends is not None:
        bits[costs.units[0]] = bits[costs.units[-1]] = (run.ends, run.ends)
    return bits


def _budget(run: Search) -> ribs.Budget:
    return ribs.Budget(bops=run.gbops * 1e9 if isinstance(run.gbops, (int, float)) else run.gbops, size=run.mib)


def cost_here(row: Row) -> dict[str, str]:
    """{"gbops": 1e9 bit operations, "mib": MiB} of a row as ribs counts them, where its bits are known.

    Of a search it is the budget, as "<= ..."; of a row that changes one layer or unit, what all together cost before.
    """
    costs, run = _costs(row), row.run
    if isinstance(run, Search):
        units = {"bops": ("gbops", 10**9), "size": ("mib", MIB_IN_BITS)}
        bounds = [(*units[term.resource.name], term.most) for term in _budget(run).terms(costs)]
        return {column: f"<= {float(most / one):.5g}" for column, one, most in bounds if most is not None}
    bits: AnyBits | None = None
    if isinstance(run, Float):
        bits = 32
    elif isinstance(run, Sensitivity):
        bits = run.others
    elif isinstance(run, Variation):
        bits = run.reference
    elif run.bits is not None:
        bits = _bits(run, costs)
    return {} if bits is None else _cost_of(costs, bits)


def _cost_of(costs: ribs.CostTable, bits: AnyBits) -> dict[str, str]:
    return {"gbops": f"{costs.bops(bits) / 1e9:.5g}", "mib": f"{costs.size_mib(bits):.4g}"}


def _rows() -> list[dict[str, Any]]:
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


def _listing() -> str:
    rows = []
    for each in _rows():
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


def _report(table: Table, row: Row, outcome: Outcome, changes: list[str]) -> str:
    """The row and its rivals, each published figure beside what ribs counts and has measured."""
    parts = [table.title, _comparison(table, row, outcome)]
    if outcome.result is not None:
        parts.insert(0, outcome.result.summary())
        if outcome.result.history:
            parts.append(_by_iteration(outcome.result))
    if outcome.layers:
        parts.append(_by_layer(outcome.layers))
    if outcome.deltas:
        parts.append(_by_bits(outcome.deltas))
    notes = [f"{other.name}: {other.differs}" for other in table.beside(row) if other.differs]
    notes += [f"{row.name}: {row.note}"] if row.note else []
    notes.append(f"network: {networks()[row.network].model}; {networks()[row.network].why}")
    notes += [f"not as in the paper: {change}" for change in changes]
    return "\n\n".join([*parts, "\n".join(notes)])


def _comparison(table: Table, row: Row, outcome: Outcome) -> str:
    shown = table.beside(row)
    here = {other.name: cost_here(other) for other in shown}
    if outcome.result is not None:
        here[row.name] = _cost_of(outcome.result.costs, outcome.result.bits)
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


def _by_bits(deltas: Mapping[int, tuple[float, float]]) -> str:
    rows = [[str(bits), f"{change:+.6g}", f"{error:.2g}"] for bits, (change, error) in deltas.items()]
    return text_table(["bits of the unit", "change of the loss", "+-"], rows, right=(0, 1, 2))


def _as_json(table: Table, row: Row, outcome: Outcome, changes: list[str]) -> dict[str, object]:
    return {
        "published": {other.name: vars(other.published) for other in table.beside(row)},
        "top1": {name: one.top1 for name, one in outcome.accuracy.items()},
        "top1_by_layer": {name: one.top1 for name, one in outcome.layers.items()},
        "change_by_bits": {bits: change for bits, (change, _) in outcome.deltas.items()},
        "result": None if outcome.result is None else as_json(outcome.result),
        "not_as_in_the_paper": changes,
    }
