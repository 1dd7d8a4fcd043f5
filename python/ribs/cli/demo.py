"""`ribs demo`: the main job on a small network and real handwritten digits, offline."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import Any

import torch
from torch import nn

import ribs
from ribs.cli.digits import accuracy, batches, demo_network, two_digits
from ribs.cli.output import bars, print_json
from ribs.select.table import text_table

BUDGET = "3/3"
UNIFORM, PAPER, RIBS = f"uniform {BUDGET}", "Algorithm 1, by block", "ribs"
TEST_SAMPLES = 4096


def run(arguments: argparse.Namespace) -> None:
    """Train once, then compare float, uniform 3/3, Algorithm 1 and ribs at the bit operations of uniform 3/3."""
    say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    say(
        "The task: name the two handwritten digits on a canvas (100 classes). The network is tested on digits that\n"
        "neither its training nor the search has seen. Budget: the bit operations of a uniform 3/3 network."
    )
    model = demo_network(progress=bars(arguments))
    images, labels = two_digits("test", TEST_SAMPLES, seed=1)
    compared = []
    for seed in range(arguments.seeds) if arguments.seeds else [arguments.seed]:
        started = time.perf_counter()
        networks = _networks(model, seed, progress=bars(arguments))
        rows = [_row(name, made, accuracy(made.model, images, labels)) for name, made in networks.items()]
        seconds = time.perf_counter() - started
        compared.append({"seed": seed, "seconds": seconds, "networks": rows})
        say(f"\nseed {seed}, {seconds:.0f} s on {torch.get_num_threads()} threads\n{_table(rows)}")
        if not arguments.seeds:
            say("".join(f"\n{name}\n{networks[name]}\n" for name in (PAPER, RIBS)), end="")
        if arguments.picture:
            _draw(networks[RIBS], networks[UNIFORM], arguments.picture)
            say(f"\npicture: {arguments.picture}")
    if arguments.json:
        print_json(compared)


def _networks(model: nn.Module, seed: int, *, progress: bool) -> dict[str, ribs.Result]:
    """By name: float, uniform 3/3, Algorithm 1 as in the paper, of which blocks are the units, and ribs."""
    # Canvases of the training digits. Their labels come along, as from any loader, and are ignored.
    loader = list(batches("train", 2, 64, 16, seed=1000 + seed))
    budget = ribs.Budget(bops=BUDGET)
    return {
        "float": ribs.quantize(model, loader, 32, progress=False),
        UNIFORM: ribs.quantize(model, loader, 3, progress=False),
        PAPER: ribs.search(model, loader, budget, units="block", algorithm="paper", seed=seed, progress=progress),
        RIBS: ribs.search(model, loader, budget, seed=seed, progress=progress),
    }


def _row(name: str, result: ribs.Result, top1: float) -> dict[str, Any]:
    return {"name": name, "top1": top1, "loss": result.loss, "bops": result.bops, "size_mib": result.size_mib}


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [row["name"], f"{row['top1']:.2f}", f"{row['loss']:.4f}", f"{row['bops'] / 1e9:.4f}", f"{row['size_mib']:.3f}"]
        for row in rows
    ]
    return text_table(["", "top-1 %", "task loss", "GBOPs", "MiB"], cells, right=(1, 2, 3, 4))


def _draw(result: ribs.Result, uniform: ribs.Result, path: str) -> None:
    from ribs.report.plot import plot_result

    title = f"The bits ribs chose for each layer, at the bit operations of a uniform {BUDGET} network"
    plot_result(result, uniform=uniform, title=title).savefig(path, dpi=130)
