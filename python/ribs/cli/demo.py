"""`ribs demo`: the main job on a small network and real handwritten digits, offline."""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

import ribs
from ribs.cli.digits import accuracy, batches, demo_network, two_digits
from ribs.select.table import text_table

BUDGET = "3/3"
TEST_SAMPLES = 4096


def run(arguments: argparse.Namespace) -> None:
    """Train once, then compare float, uniform 3/3, Algorithm 1 and ribs at the bit operations of uniform 3/3."""
    print(
        "The task: name the two handwritten digits on a canvas (100 classes). The network is tested on digits that\n"
        "neither its training nor the search has seen. Budget: the bit operations of a uniform 3/3 network."
    )
    model = demo_network()
    images, labels = two_digits("test", TEST_SAMPLES, seed=1)
    for seed in range(arguments.seeds) if arguments.seeds else [arguments.seed]:
        paper, found, uniform = _compare(model, images, labels, seed)
        if not arguments.seeds:
            print(f"\nAlgorithm 1, by block\n{paper}\n\nribs\n{found}")
        if arguments.picture:
            _draw(found, uniform, arguments.picture)


def _compare(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> tuple[ribs.Result, ...]:
    """Print one table: float, uniform 3/3, Algorithm 1 as in the paper, of which blocks are the units, and ribs."""
    started = time.perf_counter()
    # Canvases of the training digits. Their labels come along, as from any loader, and are ignored.
    loader = list(batches("train", 2, 64, 16, seed=1000 + seed))
    budget = ribs.Budget(bops=BUDGET)
    uniform = ribs.quantize(model, loader, 3, progress=False)
    paper = ribs.search(model, loader, budget, units="block", algorithm="paper", seed=seed)
    found = ribs.search(model, loader, budget, seed=seed)

    def row(name: str, network: nn.Module, loss: float, bops: int, mib: float) -> list[str]:
        top1 = accuracy(network, images, labels)
        return [name, f"{top1:.2f}", f"{loss:.4f}", f"{bops / 1e9:.4f}", f"{mib:.3f}"]

    rows = [row("float", model, 0.0, uniform.costs.bops(32), uniform.costs.size_mib(32))]
    for name, result in ((f"uniform {BUDGET}", uniform), ("Algorithm 1, by block", paper), ("ribs", found)):
        rows.append(row(name, result.model, result.loss, result.bops, result.size_mib))
    print(f"\nseed {seed}, {time.perf_counter() - started:.0f} s on {torch.get_num_threads()} threads")
    print(text_table(["", "top-1 %", "task loss", "GBOPs", "MiB"], rows, right=(1, 2, 3, 4)), flush=True)
    return paper, found, uniform


def _draw(result: ribs.Result, uniform: ribs.Result, path: str) -> None:
    from ribs.report.plot import plot_result

    title = f"The bits ribs chose for each layer, at the bit operations of a uniform {BUDGET} network"
    plot_result(result, uniform=uniform, title=title).savefig(path, dpi=130)
    print(f"\npicture: {path}")
