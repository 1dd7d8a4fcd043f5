"""How many calibration samples a search needs: what it found on them, and what that is worth on unseen canvases.

Run: python benchmarks/samples.py [network ...] [--samples N ...] [--seeds N ...] [--methods M,M] [--bops 4/4]
    [--iterations N]
The networks of the digits task. A seed draws the calibration set and the search. "Unseen" are canvases of digits that
neither training nor search has seen; "fresh" are canvases of training digits, as those of the calibration set, that no
search has seen, so that the difference to the loss found is by choosing alone.
"""

import argparse
import statistics
import warnings

import torch
from run import machine
from torch import Tensor, nn

import ribs
from ribs.cli import digits
from ribs.select.table import text_table

OTHERS = 2048
BATCH = 64
PROFILES = {"ribs": "full", "race": "race"}
FIGURES = ("loss found", "fresh loss", "unseen loss", "top-1 %")


def figures(
    network: str, method: str, samples: int, seed: int, options: argparse.Namespace
) -> tuple[list[float], float]:
    """The four figures of what one method found, and its work."""
    model, count = digits.trained(network, progress=False), digits.RECIPES[network].digits
    size = min(samples, BATCH)
    calibration, fresh, unseen = (
        [x for x, _ in digits.batches(kind, count, size, total // size, seed=own)]
        for kind, total, own in (("train", samples, 1000 + seed), ("train", OTHERS, 5000), ("test", OTHERS, 2000))
    )
    images, labels = {1: digits.one_digit, 2: digits.two_digits}[count]("test", OTHERS, seed=1)
    found: list[float] = []

    def evaluate(quantized: nn.Module) -> float:
        def loss(batches: list[Tensor]) -> float:
            return ribs.evaluate(model, quantized, batches, progress=False).loss

        found.extend([loss(fresh), loss(unseen)])
        return digits.accuracy(quantized, images, labels)

    budget = ribs.Budget(bops=options.bops)
    if method in PROFILES:
        how = {"profile": PROFILES[method], "iterations": options.iterations}
        result = ribs.search(model, calibration, budget, **how, seed=seed, progress=False)
        top1 = evaluate(result.model)
        return [result.loss, *found, top1], result.cost_of_search.forward_equivalents
    [run] = ribs.compare(
        model, calibration, [budget], methods=[method], seeds=[seed], evaluate=evaluate, progress=False
    ).runs
    assert run.metric is not None
    return [run.loss, *found, run.metric], run.forward_equivalents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["mobilenetv2_050"], metavar="network")
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", default="ribs,race,sqnr", help="of ribs.compare, or race: ribs with that profile")
    parser.add_argument("--iterations", type=int, help="of ribs and race, at most (default: 2 a unit)")
    parser.add_argument("--bops", default="4/4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(machine("cpu"), flush=True)
    rows = []
    for network in options.networks:
        for method in options.methods.split(","):
            for samples in options.samples:
                runs = [figures(network, method, samples, seed, options) for seed in options.seeds]
                means = [statistics.fmean(column) for column in zip(*(found for found, _ in runs), strict=True)]
                work = statistics.fmean(work for _, work in runs)
                cells = [f"{value:.4g}" for value in means[:3]] + [f"{means[3]:.2f}", f"{work * samples:.3g}"]
                rows.append([network, method, str(samples), *cells])
                print(*rows[-1], flush=True)
    print(f"\nat {options.bops}, means over seeds {', '.join(map(str, options.seeds))}")
    print(text_table(["network", "method", "samples", *FIGURES, "passes of a sample"], rows, right=range(2, 8)))


if __name__ == "__main__":
    main()
