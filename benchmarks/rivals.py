"""Ribs beside Algorithm 1 of the paper and the other ways to choose bits, on networks trained on the digits task.

Run: python benchmarks/rivals.py [network ...] [--methods M,M] [--bops 3/3,4/4] [--size 4/4] [--seeds 0 1 2]
    [--samples N] [--batch N] [--device cuda]
For the tables of what several runs printed: python benchmarks/rivals.py --merge LOG [LOG ...]
All choose within the same budgets, with the same quantizers; loss on the calibration samples, top-1 on unseen canvases.
A budget of size fixes all activations at 8 bits (MP/8) and then at 4 (MP/4). A seed draws the calibration set too, so
that methods without chance of their own have as many runs, and all are compared on the same sets.
"""

import argparse
import json
import math
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from run import machine
from torch import nn

import ribs
from ribs.cli import digits
from ribs.select.table import text_table

TEST = 2048
# Rows are printed when all budgets of a group are done: where time ends, the longest or least known are missing.
GROUPS = (
    ("uniform", "weight_error", "ompq", "fisher", "kl", "sqnr"),
    ("ribs",),
    ("paper",),
    ("greedy", "genetic", "random", "hawq"),
    ("limpq",),
    ("fracbits",),
    ("dnas",),
)  # "exhaustive" is for a handful of units
OWN = ("ribs", "paper")
Row = dict[str, Any]  # a run of one method; keys as `rows_of` has them


def rows_of(network: str, seed: int, options: argparse.Namespace) -> list[Row]:
    """Run the methods on one network and calibration set; rows are also printed as they come, as JSON."""
    count = digits.RECIPES[network].digits
    draw = {1: digits.one_digit, 2: digits.two_digits}[count]
    images, labels = (each.to(options.device) for each in draw("test", TEST, seed=1))
    batches = [
        x for x, _ in digits.batches("train", count, options.batch, options.samples // options.batch, 1000 + seed)
    ]
    model = digits.trained(network, progress=False).to(options.device)

    def top1(quantized: nn.Module) -> float:
        return digits.accuracy(quantized, images, labels)

    print(f"\n{network}: float {top1(model):.2f} % top-1 of {TEST}, {options.samples} samples, seed {seed}", flush=True)
    bops, size = (list(filter(None, bounds.split(","))) for bounds in (options.bops, options.size))
    kinds = {"{}": ([ribs.Budget(bops=bound) for bound in bops], None)}
    kinds |= {f"{{}}, MP/{bits}": ([ribs.Budget(size=bound) for bound in size], bits) for bits in (8, 4)}
    rows = []
    for group in GROUPS:
        methods = [method for method in group if method in options.methods.split(",")]
        for label, (budgets, activations) in kinds.items():
            if not methods or not budgets:
                continue
            comparison = ribs.compare(
                model,
                batches,
                budgets,
                methods=methods,
                seeds=[seed],
                activation_bits=activations,
                evaluate=top1,
                progress=False,
            )
            for run in comparison.runs:
                row = {
                    "network": network,
                    "budget": label.format(run.budget),
                    "method": run.method,
                    "seed": seed,
                    "loss": run.loss,
                    "top1": run.metric,
                    "work": run.forward_equivalents,
                    "seconds": run.seconds,
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def behind(rows: list[Row], other: list[Row]) -> tuple[float, float]:
    """How much more loss one method has than another on the same sets, on average, and the standard error of that."""
    theirs = {row["seed"]: row["loss"] for row in other}
    differences = [row["loss"] - theirs[row["seed"]] for row in rows if row["seed"] in theirs]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return statistics.fmean(differences), error


def tables(rows: list[Row]) -> str:
    """A table for each network and budget, and how often ribs and Algorithm 1 are first in loss."""
    cells: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        cells.setdefault((row["network"], row["budget"]), {}).setdefault(row["method"], []).append(row)
    parts, first = [], {name: [0, 0] for name in OWN}
    for (network, budget), methods in cells.items():
        seeds = max(map(len, methods.values()))
        ended = {name: own for name, own in methods.items() if len(own) == seeds}
        mean = {name: statistics.fmean(row["loss"] for row in own) for name, own in ended.items()}
        best = min(mean, key=lambda name: mean[name] if math.isfinite(mean[name]) else math.inf)
        lines = []
        for name in sorted(ended, key=mean.__getitem__):
            more, error = behind(ended[name], ended[best])
            is_first = name == best or more <= error
            if name in first:
                first[name][0] += is_first
                first[name][1] += 1
            top1, work, seconds = (
                statistics.fmean(row[key] for row in ended[name]) for key in ("top1", "work", "seconds")
            )
            cell = [name, f"{mean[name]:.4g}{' *' if is_first else '  '}", f"{more:.2g}", f"{error:.2g}"]
            lines.append([*cell, f"{top1:.2f}", f"{work:.1f}", f"{seconds:.1f}"])
        missing = ", ".join(f"{name} {len(own)}" for name, own in methods.items() if name not in ended)
        header = ["method", "loss  ", "behind the first", "+-", "top-1 %", "work", "seconds"]
        parts.append(f"\n{network}, {budget}: {seeds} seeds{f'; fewer of {missing}' if missing else ''}")
        parts.append(text_table(header, lines, right=range(1, len(header))))
    parts.append("\n* first in loss, or behind by no more than the standard error of the difference on the same sets")
    parts += [f"{name}: so in {wins} of {count} cells" for name, (wins, count) in first.items() if count]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet18", "mobilenetv2_050", "vit"], metavar="network")
    parser.add_argument("--methods", default=",".join(method for group in GROUPS for method in group))
    parser.add_argument("--bops", default="3/3,3.5/3.5,4/4", help="'' for none")
    parser.add_argument("--size", default="4/4", help="'' for none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--merge", type=Path, nargs="+", help="what other runs printed; nothing is run")
    options = parser.parse_args()
    if options.merge:
        lines = [line for log in options.merge for line in log.read_text().splitlines()]
        rows = [json.loads(line) for line in lines if line.startswith("{")]
    else:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        print(machine(options.device))
        rows = [row for name in options.networks for seed in options.seeds for row in rows_of(name, seed, options)]
    print(tables(rows))


if __name__ == "__main__":
    main()
