"""The recipes beside each other on a trained transformer, and ribs on top of the last: task loss and top-1.

Run: python benchmarks/recipes.py [--bops 6/6 4/4 3/3] [--seeds N] [--samples N] [--uniform | --parts] [--device D]
A seed chooses the calibration samples and the search's. The loss and the top-1 are those of canvases that were not used
otherwise, and the differences of losses are taken seed by seed. `--uniform` leaves out the search; `--parts` has repq+
with one part of it replaced in the place of the other recipes. Needs the extra `demo`; the digits' small ViT is trained
once, in a quarter of an hour.
"""

import argparse
import statistics
import warnings
from dataclasses import replace
from typing import get_args

import torch
from run import machine
from torch import Tensor, nn

import ribs
from ribs.cli.digits import accuracy, one_digit, trained
from ribs.quant.inputs import Inputs
from ribs.quant.network import Bits, assemble, calibrate, prepare
from ribs.quant.recipe import RECIPES, Recipe, RecipeName
from ribs.quant.reparameterize import reparameterize
from ribs.select.loss import kl_divergence
from ribs.select.table import text_table

PLUS = RECIPES["repq+"]
PARTS = {
    "uniform, repq+": PLUS,
    "steps by tensors alone": replace(PLUS, outputs=False),
    "the same, weights by percentiles": replace(PLUS, outputs=False, weights="percentile"),
    "the same, activations by squared error": replace(PLUS, outputs=False, activations="mse"),
    "weights by percentiles": replace(PLUS, weights="percentile"),
    "activations by squared error": replace(PLUS, activations="mse"),
    "channels by percentiles": replace(PLUS, by_channel="percentile"),
    "channels by squared error": replace(PLUS, by_channel="mse"),
    "log-sqrt2 after softmax": replace(PLUS, shares="log_sqrt2"),
    "even levels after softmax": replace(PLUS, shares=None),
    "one step after layer norms": replace(PLUS, by_channel=None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bops", nargs="+", default=["6/6", "4/4", "3/3"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--uniform", action="store_true")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(arguments.device)
    model = trained("vit").to(device)
    images, labels = (each.to(device) for each in one_digit("test", 2000, seed=0))
    floating = accuracy(model, images, labels)
    print(machine(device.type))
    print(f"digits vit: float top-1 {floating:.2f} %; {arguments.samples} samples, {arguments.seeds} seeds")
    names = list(PARTS) if arguments.parts else [f"uniform, {recipe}" for recipe in reversed(get_args(RecipeName))]
    rows = []
    for bops in arguments.bops:
        limit = ribs.count(model, images[:1]).bops(_pair(bops))
        known: dict[str, list[float]] = {}
        for name in names if arguments.uniform or arguments.parts else (*names, "ribs, repq+"):
            losses, tops, equivalents = [], [], []
            for seed in range(arguments.seeds):
                samples = one_digit("train", arguments.samples, seed=seed)[0].to(device)
                loader = list(samples.split(64))
                if arguments.parts:
                    network = _with_parts(model, loader, PARTS[name], _pair(bops))
                else:
                    result = _quantized(model, loader, name, bops, seed)
                    assert result.bops <= limit
                    network = result.model
                    equivalents.append(result.cost_of_search.forward_equivalents)
                losses.append(_loss(model, network, images))
                tops.append(accuracy(network, images, labels))
            known[name] = losses
            off = [loss - other for loss, other in zip(losses, known["uniform, repq+"], strict=True)]
            equivalents_of = f"{statistics.fmean(equivalents):.0f}" if equivalents else "-"
            rows.append([bops, name, _cell(losses, 4), _cell(off, 3), _cell(tops, 3), equivalents_of])
            print("  ".join([*rows[-1], "losses:", *(f"{loss:.5f}" for loss in losses)]), flush=True)
    header = ["BOPs of", "bits, recipe", "task loss", "less that of repq+", "top-1 %", "forward equivalents"]
    print(f"\n{text_table(header, rows, right=range(2, 6))}")


def _quantized(model: nn.Module, loader: list[Tensor], name: str, bops: str, seed: int) -> ribs.Result:
    bits, recipe = name.split(", ")
    if bits == "uniform":
        return ribs.quantize(model, loader, _pair(bops), recipe=recipe, progress=False)
    return ribs.search(model, loader, ribs.Budget(bops=bops), recipe=recipe, seed=seed, progress=False)


def _with_parts(model: nn.Module, loader: list[Tensor], recipe: Recipe, bits: Bits) -> nn.Module:
    """At these bits throughout, with a recipe that has no name."""
    batches = [Inputs((x,), {}) for x in loader]
    plain = prepare(model, batches[0], "layer")
    network = assemble(model, plain.trace, plain.units, recipe)
    calibrate(network, batches, sorted(set(bits)))
    reparameterize(network, dict.fromkeys((unit.name for unit in network.units), bits), batches)
    return network.model


@torch.no_grad()
def _loss(model: nn.Module, network: nn.Module, images: Tensor) -> float:
    losses = [kl_divergence(model(part), network(part)) for part in images.split(250)]
    return float(torch.cat(losses).double().mean())


def _pair(bops: str) -> tuple[int, int]:
    weight, activation = bops.split("/")
    return int(weight), int(activation)


def _cell(values: list[float], digits: int) -> str:
    """Mean and its standard error over seeds."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}g} +- {error:.2g}"


if __name__ == "__main__":
    main()
