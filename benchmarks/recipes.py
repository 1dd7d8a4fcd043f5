"""The recipes beside each other on a trained transformer, and ribs on top of the last: task loss and top-1.

Run: python benchmarks/recipes.py [--bops 6/6 4/4 3/3] [--seeds N] [--samples N] [--uniform]
A seed chooses the calibration samples and the search's. The loss and the top-1 are those of canvases that were not used
otherwise, and the differences of losses are taken seed by seed. `--uniform` leaves out the search. Needs the extra
`demo`; the digits' small ViT is trained once, in a quarter of an hour.
"""

import argparse
import statistics
import warnings
from typing import get_args

import torch
from run import machine
from torch import Tensor, nn

import ribs
from ribs.cli.digits import accuracy, one_digit, trained
from ribs.quant.recipe import RecipeName
from ribs.select.loss import kl_divergence
from ribs.select.table import text_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bops", nargs="+", default=["6/6", "4/4", "3/3"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--uniform", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    model = trained("vit")
    images, labels = one_digit("test", 2000, seed=0)
    floating = accuracy(model, images, labels)
    print(machine("cpu"))
    print(f"digits vit: float top-1 {floating:.2f} %; {arguments.samples} samples, {arguments.seeds} seeds")
    names = [f"uniform, {recipe}" for recipe in reversed(get_args(RecipeName))]
    rows = []
    for bops in arguments.bops:
        limit = ribs.count(model, images[:1]).bops(_pair(bops))
        known: dict[str, list[float]] = {}
        for name in names if arguments.uniform else (*names, "ribs, repq+"):
            losses, tops, equivalents = [], [], []
            for seed in range(arguments.seeds):
                samples, _ = one_digit("train", arguments.samples, seed=seed)
                result = _quantized(model, list(samples.split(64)), name, bops, seed)
                assert result.bops <= limit
                losses.append(_loss(model, result.model, images))
                tops.append(accuracy(result.model, images, labels))
                equivalents.append(result.cost_of_search.forward_equivalents)
            known[name] = losses
            off = [loss - other for loss, other in zip(losses, known["uniform, repq+"], strict=True)]
            equivalents_of = f"{statistics.fmean(equivalents):.0f}"
            rows.append([bops, name, _cell(losses, 4), _cell(off, 3), _cell(tops, 3), equivalents_of])
            print("  ".join(rows[-1]), flush=True)
    header = ["BOPs of", "bits, recipe", "task loss", "less that of repq+", "top-1 %", "forward equivalents"]
    print(f"\n{text_table(header, rows, right=range(2, 6))}")


def _quantized(model: nn.Module, loader: list[Tensor], name: str, bops: str, seed: int) -> ribs.Result:
    bits, recipe = name.split(", ")
    if bits == "uniform":
        return ribs.quantize(model, loader, _pair(bops), recipe=recipe, progress=False)
    return ribs.search(model, loader, ribs.Budget(bops=bops), recipe=recipe, seed=seed, progress=False)


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
