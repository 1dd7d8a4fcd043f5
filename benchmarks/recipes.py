"""The recipes beside each other on a trained transformer, and ribs on top of the last: task loss and top-1.

Run: python benchmarks/recipes.py [--bops 6/6 4/4 3/3] [--seeds N] [--samples N]
A seed chooses the calibration samples and the search's. Needs the extra `demo`; the digits' small ViT is trained once,
in a quarter of an hour.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from typing import get_args

from run import machine

import ribs
from ribs.cli.digits import accuracy, one_digit, trained
from ribs.quant.recipe import RecipeName
from ribs.select.table import text_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bops", nargs="+", default=["6/6", "4/4", "3/3"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=256)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    model = trained("vit")
    images, labels = one_digit("test", 2000, seed=0)
    floating = accuracy(model, images, labels)
    print(machine("cpu"))
    print(f"digits vit: float top-1 {floating:.2f} %; {arguments.samples} samples, {arguments.seeds} seeds")
    rows = []
    for bops in arguments.bops:
        weight, activation = map(int, bops.split("/"))
        ways: dict[str, Callable[..., ribs.Result]] = {
            f"uniform, {recipe}": lambda loader, seed, recipe=recipe: ribs.quantize(
                model, loader, (weight, activation), recipe=recipe, progress=False
            )
            for recipe in get_args(RecipeName)
        }
        ways["ribs, repq+"] = lambda loader, seed: ribs.search(
            model, loader, ribs.Budget(bops=bops), recipe="repq+", seed=seed, progress=False
        )
        limit = ribs.count(model, images[:1]).bops((weight, activation))
        for name, way in ways.items():
            losses, tops, equivalents = [], [], []
            for seed in range(arguments.seeds):
                samples, _ = one_digit("train", arguments.samples, seed=seed)
                result = way(samples.split(64), seed)
                assert result.bops <= limit
                losses.append(result.loss)
                tops.append(accuracy(result.model, images, labels))
                equivalents.append(result.cost_of_search.forward_equivalents)
            rows.append([bops, name, _cell(losses, 4), _cell(tops, 3), f"{statistics.fmean(equivalents):.0f}"])
            print("  ".join(rows[-1]), flush=True)
    print()
    print(text_table(["BOPs of", "bits, recipe", "task loss", "top-1 %", "forward equivalents"], rows, right=range(2, 5)))


def _cell(values: list[float], digits: int) -> str:
    """Mean and its standard error over seeds."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}g} +- {error:.2g}"


if __name__ == "__main__":
    main()
