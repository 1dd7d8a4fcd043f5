"""Searches that see through reconstruction: what their levers save, what they find, and the paper's Figures 3 and 4.

Run: python benchmarks/recribs.py [levers] [rivals] [settling] [figure3] [figure4] [--network demo] [--budget 3/3]
    [--seed 0] [--units stages] [--device cuda]
Needs the extra `demo`; the network is trained once. Learning rates are those of 20,000 iterations times so many as the
iterations are fewer, up to --fastest.
"""

import argparse
import contextlib
import logging
import math
from typing import Any
from unittest import mock

import torch
from run import machine
from timing import seconds_of
from torch import Tensor, nn

import ribs
from ribs.cli import digits
from ribs.quant.inputs import collect
from ribs.quant.network import calibrate, prepare
from ribs.recon.captures import CAPTURES
from ribs.recon.optimise import Optimisation
from ribs.select.loss import kl_divergence
from ribs.select.reconstructed import Reconstructed
from ribs.select.sampling import standard_error
from ribs.select.table import text_table


class Task:
    """A trained network with its calibration set and test images."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.units = STAGES if options.units == "stages" else "block"
        self.model: nn.Module = digits.trained(options.network).to(options.device)
        count = digits.RECIPES[options.network].digits
        batches = digits.batches("train", count, 64, math.ceil(options.samples / 64), seed=100 + options.seed)
        self.loader = [x.to(options.device) for x, _ in batches]
        self.images, self.labels = (digits.one_digit if count == 1 else digits.two_digits)("test", 2000, 1)
        self.images, self.labels = self.images.to(options.device), self.labels.to(options.device)
        with torch.no_grad():
            self.logits = torch.cat([self.model(x) for x in self.images.split(250)])

    def method(self, iterations: int) -> ribs.QDrop:
        faster = min(20_000 / iterations, self.options.fastest)
        return ribs.QDrop(iterations=iterations, weight_lr=1e-3 * faster, activation_lr=4e-5 * faster)

    def search(self, seed: int = 0, **options: object) -> ribs.Result:
        return ribs.search(
            self.model,
            self.loader,
            ribs.Budget(bops=self.options.budget),
            bits=self.options.bits,
            units=self.units,
            algorithm="paper",
            update_size=self.options.update_size,
            iterations=self.options.programs,
            seed=seed,
            progress=False,
            **options,
        )

    def quality(self, bits: object, seed: int = 0) -> tuple[Tensor, float]:
        """Task losses and top-1 on test images of a network with these bits, reconstructed at length."""
        method = self.method(self.options.finish)
        found = ribs.reconstruct(
            self.model, self.loader, bits, method=method, units=self.units, seed=seed, progress=False
        ).model
        with torch.no_grad():
            logits = torch.cat([found(x) for x in self.images.split(250)])
        losses = kl_divergence(self.logits, logits).double().cpu()
        return losses, digits.accuracy(found, self.images, self.labels)


def levers(task: Task) -> list[list[str]]:
    """Seconds of a search with and without what makes it affordable, and the loss of what it chose."""
    method, one_step = task.method(task.options.iterations), ribs.QDrop(iterations=1)
    on_gpu = task.options.device != "cpu"
    rows, first, chosen = [], 0.0, None
    for name in task.options.forms:
        options, captured = FORMS[name]
        if captured and not on_gpu:
            continue
        with contextlib.nullcontext() if captured else mock.patch.dict(CAPTURES, clear=True):
            started = seconds_of(task.options.device)
            found = task.search(task.options.seed, reconstruct=method, finish=one_step, **options)
            seconds = seconds_of(task.options.device) - started
        first, chosen = first or seconds, chosen or found.bits
        same = "yes" if found.bits == chosen else "no"
        rows.append([name, f"{seconds:.1f}", f"{first / seconds:.2f}", same, *shown(*task.quality(found.bits))])
        print(rows[-1], flush=True)
        # On a GPU libraries may add up in another order from one call to the next.
        assert same == "yes" or on_gpu or "profile" in options, "what is stored must not change what is found"
    return rows


def rivals(task: Task) -> list[list[str]]:
    """What is chosen without and with a look through reconstruction, all reconstructed at the same length."""
    rows = []
    method, one_step = task.method(task.options.iterations), ribs.QDrop(iterations=1)
    weight, activation = map(int, task.options.budget.split("/"))
    for seed in range(task.options.seed, task.options.seed + task.options.seeds):
        found = {
            "uniform": (weight, activation),
            "RIBS": task.search(seed).bits,
            "recRIBS": task.search(seed, reconstruct=method, finish=one_step, profile="race").bits,
        }
        for name, bits in found.items():
            rows.append([name, str(seed), *shown(*task.quality(bits, seed))])
            print(rows[-1], flush=True)
    return rows


def figure3(task: Task) -> list[list[str]]:
    """The change of the loss with the bits of the first block around a 5-bit network, on the calibration set."""
    inputs = collect(task.model, task.loader, task.options.samples)
    network = prepare(task.model, inputs[0], "block")
    units = [[(bits, bits) for bits in task.options.bits]] * len(network.units)
    losses = Reconstructed(network, inputs, units, kl_divergence, task.method(task.options.iterations))
    calibrate(network, inputs, task.options.bits)
    first = next(i for i, unit in enumerate(network.units) if len(unit.layers) > 1)
    before = (task.options.bits.index(5),) * len(units)
    reference, rows = losses.measure([before], 0)[0], []
    for k, bits in enumerate(task.options.bits):
        choice = (*before[:first], k, *before[first + 1 :])
        following = losses.measure([before, choice], 0)[1] - reference
        alone = losses.measure_alone(before, choice) - reference
        both = [f"{change:+.6f}" for each in (alone, following) for change in (each.mean(), standard_error(each))]
        rows.append([network.units[first].name, str(bits), *both])
        print(rows[-1], flush=True)
    return rows


def figure4(task: Task) -> list[list[str]]:
    """The loss on the calibration set after each program of Algorithm 1, without and with reconstruction."""
    method, one_step = task.method(task.options.iterations), ribs.QDrop(iterations=1)
    rows = []
    for seed in range(task.options.seed, task.options.seed + task.options.seeds):
        found = {
            "RIBS": task.search(seed),
            "recRIBS": task.search(seed, reconstruct=method, finish=one_step, profile="race"),
        }
        for name, result in found.items():
            for number, record in enumerate(result.history, 1):
                best = min(each.loss for each in result.history[:number])
                rows.append([name, str(seed), str(number), f"{record.loss:.4f}", f"{best:.4f}"])
                print(rows[-1], flush=True)
    return rows


def settling(task: Task) -> list[list[str]]:
    """The error of each block in the first, the fourth and the last tenth of its steps, and what still changes then.

    Would a search lose nothing by stopping where the error has settled? Only if roundings had settled as well.
    """
    owners: list[Optimisation] = []
    seen: list[Settling] = []
    step = Optimisation.step

    def watched(self: Optimisation, *batch: Any) -> None:
        step(self, *batch)
        if owners[-1:] != [self]:
            owners.append(self)
            seen.append(Settling())
        seen[-1].add(float(self.error), torch.cat([each.alpha.detach().flatten() for each in self.roundings]))

    method, bits = task.method(task.options.iterations), tuple(map(int, task.options.budget.split("/")))
    quantized = ribs.quantize(task.model, task.loader, bits, units="block", progress=False)
    Optimisation.step = watched
    try:
        with mock.patch.dict(CAPTURES, clear=True):
            ribs.reconstruct(quantized, task.loader, method=method, progress=False)
    finally:
        Optimisation.step = step
    return [[str(number), *each.row()] for number, each in enumerate(seen, 1)]


class Settling:
    """What a block's steps did to its error and to which way its weights go."""

    def __init__(self) -> None:
        self.errors: list[float] = []
        self.up: list[Tensor] = []
        self.undecided = 0.0

    def add(self, error: float, alphas: Tensor) -> None:
        self.errors.append(error)
        self.up.append(alphas >= 0)
        self.undecided = float((alphas.abs() < math.log(11)).double().mean())  # between 0 and 1, not clipped

    def row(self) -> list[str]:
        tenth = len(self.errors) // 10
        means = [sum(self.errors[first : first + tenth]) / tenth for first in (0, 3 * tenth, 9 * tenth)]
        changed = float((self.up[-1] != self.up[-1 - tenth]).double().mean())
        return [*(f"{mean:.4f}" for mean in means), f"{100 * changed:.2f}", f"{100 * self.undecided:.1f}"]


def shown(losses: Tensor, top1: float) -> list[str]:
    return [f"{float(losses.mean()):.4f}", f"{float(losses.std()) / len(losses) ** 0.5:.4f}", f"{top1:.2f}"]


# What a search is given, and whether the steps of reconstruction are captured as CUDA graphs.
FORMS = {
    "plain": ({"cache_mib": 0}, False),
    "stored": ({}, False),
    "stored, captured": ({}, True),
    "race": ({"profile": "race"}, False),
    "race, captured": ({"profile": "race"}, True),
}
# Of a ResNet.
STAGES = {"first": ["conv1", "layer1.*"], "second": ["layer2.*"], "third": ["layer3.*"], "last": ["layer4.*", "fc"]}
PARTS = {
    "levers": (levers, ["form", "seconds", "ratio", "same bits", "task loss", "standard error", "top-1 %"]),
    "rivals": (rivals, ["bits by", "seed", "task loss", "standard error", "top-1 %"]),
    "settling": (settling, ["block", "first tenth", "fourth", "last", "% that changed sides", "% undecided"]),
    "figure3": (figure3, ["unit", "bits", "alone", "+-", "and all that follows", "+-"]),
    "figure4": (figure4, ["search", "seed", "program", "loss", "best so far"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--network", default="demo")
    parser.add_argument("--budget", default="3/3", help="bit operations of this uniform network")
    parser.add_argument("--bits", nargs="*", type=int, default=[2, 3, 4, 5, 6, 8])
    parser.add_argument("--iterations", type=int, default=40, help="for each block, while searching")
    parser.add_argument("--finish", type=int, default=100, help="the same, of what was chosen")
    parser.add_argument("--fastest", type=float, default=50)
    parser.add_argument("--programs", type=int, default=2)
    parser.add_argument("--update-size", type=int, default=5)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="the first one; also of the calibration images")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS), help="of levers")
    parser.add_argument("--units", choices=["block", "stages"], default="block")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ribs").setLevel(logging.INFO)  # it says where steps cannot be captured
    task = Task(options)
    print(f"{options.network}: {machine(torch.device(options.device).type)}", flush=True)
    for name in options.parts:
        part, header = PARTS[name]
        print(f"\n{name}\n", flush=True)
        print(text_table(header, part(task), right=range(1, len(header))), flush=True)


if __name__ == "__main__":
    main()
