"""`ribs reproduce`: a row of the paper's table or figures, run and printed beside the published figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
)
from ribs.cli.paper_costs import bits_of, budget_of, costs_of
from ribs.cli.paper_report import UNCHANGED, Outcome, all_rows, listing, report, report_as_json
from ribs.cli.qat import training_images
from ribs.quant.inputs import collect
from ribs.quant.network import calibrate, prepare
from ribs.select.loss import kl_divergence
from ribs.select.reconstructed import Reconstructed
from ribs.select.sampling import standard_error

EPOCHS = 90  # of training: LSQ's, as the paper gives none
STORE_MIB = 8192  # with the samples of the paper the first convolution of ResNet-18 takes 4.2 GiB, the most of all


def run(arguments: argparse.Namespace) -> None:
    """List all rows, or run one; one that cannot run still prints what it and its rivals cost."""
    if arguments.list:
        if arguments.json:
            print_json(all_rows())
        else:
            print(listing())
        return
    if arguments.row is None:
        raise ValueError("give a row such as table1a/ribs-28.5, or --list to see all of them")
    table, row = find_row(arguments.row)
    if refusal := _refusal(arguments, row):
        if not arguments.json:
            print(report(table, row, Outcome(), []))
        raise ValueError(refusal)
    outcome = _Run(arguments, table, row).outcome()
    changes = _changes(arguments, table, row)
    if arguments.json:
        print_json(report_as_json(table, row, outcome, changes))
    else:
        print(report(table, row, outcome, changes))


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
            bits = bits_of(run, costs_of(self.row))
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
            budget_of(run),
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
