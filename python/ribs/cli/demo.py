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
UNIFORM_BITS = 3
TEST_SAMPLES = 4096


def run(arguments: argparse.Namespace) -> None:
    """Train once, then compare float, uniform 3/3 and ribs at the bit operations of uniform 3/3."""
    print("The task: name two handwritten digits on one canvas (100 classes); the digits tested were never trained on.")
    model = demo_network()
    images, labels = two_digits("test", TEST_SAMPLES, seed=1)
    for seed in [arguments.seed] if arguments.seeds is None else range(arguments.seeds):
        result = _compare(model, images, labels, seed, arguments)
        if arguments.seeds is None:
            print(f"\n{result.summary()}")


def _compare(model: nn.Module, images: Tensor, labels: Tensor, seed: int, arguments: argparse.Namespace) -> ribs.Result:
    started = time.perf_counter()
    # Unlabelled inputs: canvases of the training digits; their labels come along and are ignored.
    loader = list(batches("train", 2, 64, 16, seed=1000 + seed))
    uniform = ribs.quantize(model, loader, UNIFORM_BITS, units=arguments.units, progress=False)
    found = ribs.search(model, loader, ribs.Budget(bops=BUDGET), units=arguments.units, seed=seed)
    table = found.costs

    def row(name: str, network: nn.Module, loss: float, bops: int, mib: float) -> list[str]:
        top1 = accuracy(network, images, labels)
        return [name, f"{top1:.2f}", f"{loss:.4f}", f"{bops / 1e9:.4f}", f"{mib:.3f}"]

    rows = [
        row("float", model, 0.0, table.bops(32), table.size_mib(32)),
        row(f"uniform {BUDGET}", uniform.model, uniform.loss, uniform.bops, uniform.size_mib),
        row("ribs", found.model, found.loss, found.bops, found.size_mib),
    ]
    header = ["", "top-1 %", "task loss", "GBOPs", "MiB"]
    print(f"\nseed {seed}, {time.perf_counter() - started:.0f} s, {torch.get_num_threads()} threads")
    print(text_table(header, rows, right=(1, 2, 3, 4)))
    if arguments.picture is not None:
        from ribs.report.plot import plot_result

        title = f"{BUDGET} budget: loss {found.loss:.3f}, uniform {uniform.loss:.3f}"
        plot_result(found, uniform=uniform, title=title).savefig(arguments.picture, dpi=150)
        print(f"picture: {arguments.picture}")
    return found
