"""BRECQ and QDrop as ribs has them, beside the authors' own code: one network, the same images, and as many steps.

Run: python benchmarks/reconstruction_authors.py FOLDER [--network resnet18] [--bits 4/4 3/3 2/4] [--methods QDrop]
    [--recipes NAME NAME] [--iterations N] [--faster N] [--samples N] [--rounds N] [--seed N] [--device cuda]
FOLDER has clones of github.com/yhhhli/BRECQ and github.com/wimh966/QDrop in it. Needs the extra `demo`; the network is
trained once. All layers have the same bits, but for the image: it has 8 in ribs, and is left as it is by theirs.
"""

import argparse
import copy
import functools
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from authors import THEIRS, Begin, Theirs, add_folder
from reconstruction import as_bits, methods, quality, row
from run import machine
from timing import seconds_of
from torch import Tensor, nn

import ribs
from ribs.cli import digits
from ribs.quant.inputs import collect
from ribs.quant.network import Bits
from ribs.quant.recipe import RecipeName
from ribs.quant.redirect import call_alone
from ribs.recon.batches import Batches
from ribs.recon.captures import LEAST, Captures
from ribs.recon.methods import Method, Phase
from ribs.recon.optimise import Optimisation
from ribs.recon.pieces import Piece
from ribs.recon.run import Reconstruction
from ribs.select.loss import kl_divergence
from ribs.select.result import Result
from ribs.select.table import text_table


def their(name: str, model: nn.Module, images: Tensor, bits: Bits, method: Method, faster: float) -> Theirs:
    """Their code around a network, which must still be the same function."""
    theirs = THEIRS[name](model, images, bits, method, faster)
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        torch.testing.assert_close(theirs.floating(images[:64]), model(images[:64]), rtol=1e-4, atol=1e-4)
    return theirs


def reconstructed(theirs: Theirs) -> nn.Module:
    """The network that their code makes."""
    for phase in range(len(theirs.method.phases)):
        theirs.begin(phase)
        for name in theirs.pieces:
            theirs.rebuild(name, phase)
    return theirs.finish()


def our_step(run: Reconstruction, piece: Piece, phase: Phase) -> Callable[[], None]:
    """A step of ours with the drawing of its batch, as `Reconstruction` makes it; on a GPU it is captured."""
    call = functools.partial(call_alone, run.model, run.model.get_submodule(piece.name))
    optimisation = Optimisation(run.method, phase, call, *run._softs(piece, phase))
    batches = Batches(run._stored(piece, phase), phase.keep, run.method.batch_size, run.generator)

    compute = Captures(run.generator.device).repeated(lambda: optimisation.step(*batches.present()), LEAST)

    def step() -> None:
        batches.draw()
        optimisation.begin(phase.iterations // 2)
        compute()

    return step


def beside(rebuild: Callable[[Begin], None], step: Callable[[], None], device: str) -> tuple[float, float]:
    """Median seconds of our step and of theirs, which take turns; the first two of ours and of theirs do not count."""
    ours, theirs, ended = [], [], 0.0

    def begin() -> None:
        nonlocal ended
        started = seconds_of(device)
        theirs.append(started - ended)
        step()
        ended = seconds_of(device)
        ours.append(ended - started)

    rebuild(begin)
    return statistics.median(ours[2:]), statistics.median(theirs[2:])  # before the first of theirs was no other


def times(name: str, model: nn.Module, quantized: Result, images: Tensor, rounds: int) -> list[list[str]]:
    """A step of each phase of every piece, with the regulariser, in ms of the CPU, or of the clock on a GPU."""
    facts = {"activation_share": 1} if name == "BRECQ" else {}
    method = {"BRECQ": ribs.BRECQ, "QDrop": ribs.QDrop}[name](iterations=rounds + 2, warm_up=0, **facts)
    theirs = their(name, model, images, (4, 4), method, 1)
    result = copy.deepcopy(quantized)
    inputs = collect(result.model, images.split(64), len(images))
    run = Reconstruction(result.model, result.costs.layers, inputs, method, loss=kl_divergence)
    rows = []
    for number, phase in enumerate(method.phases):
        learned = " and ".join(what for what in ("rounding", "steps") if getattr(phase, what))
        theirs.begin(number)
        totals = [0.0, 0.0]
        for piece in run.pieces:
            with run._activations(phase):
                rebuild = functools.partial(theirs.rebuild, piece.name, number)
                found = beside(rebuild, our_step(run, piece, phase), images.device.type)
            totals = [total + seconds for total, seconds in zip(totals, found, strict=True)]
            rows.append([learned, *row(piece.name, *found)])
        rows.append([learned, *row("all", *totals)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with BRECQ and QDrop in it")
    parser.add_argument("--network", choices=["demo", "resnet18"], default="demo")
    parser.add_argument("--bits", nargs="*", type=as_bits, default=[(4, 4), (3, 3), (2, 4)])
    parser.add_argument("--methods", nargs="*", choices=list(THEIRS), default=list(THEIRS))
    parser.add_argument("--recipes", nargs="*", choices=get_args(RecipeName), default=["mse", "asymmetric"])
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--faster", type=float, default=20, help="learning rates, as in reconstruction.py")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15, help="of the timing; 0 leaves it away")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    add_folder(options.folder)
    device = options.device
    model = digits.trained(options.network).to(device)
    loader = [x.to(device) for x, _ in digits.batches("train", 2, 64, math.ceil(options.samples / 64), seed=100)]
    images, labels = (each.to(device) for each in digits.two_digits("test", 2000, 1))
    with torch.no_grad():
        test = torch.cat([model(x) for x in images.split(250)]), images, labels
    print(f"{options.network}: {machine(device)}; 1 thread", flush=True)
    layers = list(ribs.quantize(model, loader, 32, progress=False).bits)

    def quantized(bits: Bits, recipe: RecipeName) -> Result:
        units = dict.fromkeys(layers, bits) | {layers[0]: (bits[0], 8)}
        return ribs.quantize(model, loader, units, recipe=recipe, progress=False)

    if options.rounds:
        for name in options.methods:
            table = times(name, model, quantized((4, 4), options.recipes[0]), torch.cat(loader), options.rounds)
            print(f"\nA step of {name}, batch 32, W4A4, ms:\n")
            print(text_table(["learned", "piece", "ribs", "authors", "ratio"], table, right=(2, 3, 4)), flush=True)
    print(f"\n{options.iterations} iterations, {64 * len(loader)} samples, learning rates x {options.faster:g}")
    print(f"float: {digits.accuracy(model, images, labels):.2f} % of {len(labels)} test images\n", flush=True)
    rows = []
    for bits in options.bits:
        for name in options.methods:
            method = methods(options.iterations, options.faster)[name]
            for recipe in (*options.recipes, None):
                started = seconds_of(device)
                if recipe is not None:
                    ours = quantized(bits, recipe)
                    found = ribs.reconstruct(ours, loader, method=method, seed=options.seed, progress=False).model
                else:
                    torch.manual_seed(options.seed)
                    found = reconstructed(their(name, model, torch.cat(loader), bits, method, options.faster))
                seconds = seconds_of(device) - started
                code = "authors" if recipe is None else f"ribs, {recipe}"
                rows.append([f"W{bits[0]}A{bits[1]}", name, code, *quality(found, *test), f"{seconds:.0f}"])
                print(rows[-1], flush=True)
    header = ["bits", "method", "code", "task loss", "standard error", "top-1 %", "seconds"]
    print(text_table(header, rows, right=range(3, len(header))))


if __name__ == "__main__":
    main()
