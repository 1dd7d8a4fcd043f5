"""How well few samples tell differences of losses: drawn with equal chances, and as a race draws them.

Run: python benchmarks/drawing.py [network ...] [--seeds 0 1 2] [--samples N]
Of each network what a race finds, at the budgets of benchmarks/racing.py, and all its neighbours are measured on the
whole calibration set. Then some samples are drawn, over and over, and the differences told from them. Errors are root
mean squares over neighbours and draws, in standard deviations of the true differences among the neighbours: at 1, a
difference from few samples is as much chance as truth. Needs the extra `demo`.
"""

import argparse
import statistics
import warnings

import numpy as np
import torch
from racing import BUDGET
from run import machine

import ribs
from ribs.cli.digits import RECIPES, batches, trained
from ribs.quant.network import calibrate
from ribs.select.arrange import LEVELS, level
from ribs.select.loss import kl_divergence
from ribs.select.reach import neighbours
from ribs.select.rounds import changed
from ribs.select.sampling import Sampling, order_of, sizes_of
from ribs.select.sensitivity import Sensitivity
from ribs.select.setup import set_up
from ribs.select.table import text_table

COUNTS = (32, 64, 128)
DRAWS = 200
OPTIONS = {"units": "layer", "bits": range(2, 9), "activation_bits": None}
HEADER = ["network", "largest 1 %", *(f"{kind}, {n}" for n in COUNTS for kind in ("equal", "race"))]


def measured(name: str, seed: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """[configurations, samples] losses of what a race finds and of its neighbours; [samples] sizes."""
    model = trained(name, progress=False)
    loader = [x for x, _ in batches("train", RECIPES[name].digits, 64, samples // 64, seed=1000 + seed)]
    free = dict.fromkeys(("pins", "allowed", "ties", "target"))
    budget = ribs.Budget(bops=BUDGET[name])
    best = ribs.search(model, loader, budget, profile="race", seed=seed, progress=False).bits
    setup = set_up(model, loader, [budget], calibration_samples=samples, **OPTIONS, **free)
    [plan], network = setup.plans, setup.network
    calibrate(network, setup.batches, plan.bit_widths)
    sensitivity = Sensitivity(network, setup.batches, plan.candidates, kl_divergence)
    sizes = sizes_of([sensitivity.evaluate(level(plan, share)) for share in LEVELS])
    named = zip(plan.table.units, plan.candidates, strict=True)
    found = tuple(options.index(best[unit]) for unit, options in named)
    choices = [found, *(changed(found, *move) for move in neighbours(plan.candidates, plan.allowed, found))]
    shards = [sensitivity.measure(choices, shard) for shard in range(len(sensitivity.samples))]
    return np.concatenate(shards, axis=1), sizes


def errors(losses: np.ndarray, sizes: np.ndarray, count: int) -> float:
    """Of differences from so many samples, in standard deviations of the true ones."""
    differences = losses[1:] - losses[0]
    truth, found = differences.mean(axis=1), []
    for seed in range(DRAWS):
        order = order_of(sizes, seed)
        drawn = Sampling(sizes[order])
        found.append([drawn.mean(row) for row in differences[:, order[:count]]])
    bias = np.abs(np.mean(found, axis=0) - truth) / (np.std(found, axis=0) / DRAWS**0.5 + 1e-12)
    assert np.mean(bias < 4) > 0.9, "the means are biased"
    return float(np.sqrt(np.mean((np.array(found) - truth) ** 2)) / truth.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(BUDGET), metavar="network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{machine('cpu')}; {options.samples} samples, {DRAWS} draws, medians of seeds {options.seeds}")
    rows = []
    for name in options.networks:
        results = []
        for seed in options.seeds:
            losses, sizes = measured(name, seed, options.samples)
            largest = np.sort(losses[0])[::-1][: len(losses[0]) // 100].sum() / losses[0].sum()
            kinds = (np.ones_like(sizes), sizes)
            results.append([largest, *(errors(losses, kind, count) for count in COUNTS for kind in kinds)])
        share, *found = map(statistics.median, zip(*results, strict=True))
        rows.append([name, f"{100 * share:.0f} %", *(f"{error:.2f}" for error in found)])
        print(" | ".join(rows[-1]), flush=True)
    print(text_table(HEADER, rows, right=range(1, len(HEADER))))


if __name__ == "__main__":
    main()
