"""A small network and its calibration set, searched in a fraction of a second."""

import os
import sqlite3
from collections.abc import Callable

import highspy
import torch
from torch import nn

import ribs
from ribs.select.loss import KLDivergence


def network(seed=0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    convs = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()]
    model = nn.Sequential(*convs, nn.Flatten(), nn.Linear(72, 5))
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return model.eval()


def loader(batches=3, samples=8):
    return [torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(batches)]


def search(model=None, data=None, budget="4/4", **options) -> ribs.Result:
    options = {"bits": (2, 4, 8), "units": "layer", "iterations": 3, "progress": False} | options
    budget = ribs.Budget(bops=budget) if isinstance(budget, str) else budget
    return ribs.search(model or network(), data or loader(), budget, **options)


def in_children(*actions: Callable[[], object]) -> list[int]:
    """The process numbers of copies of this process, each of which does one of the actions and nothing else."""
    torch.set_num_threads(1)  # a forked process has no other threads
    highspy.Highs.resetGlobalScheduler(True)  # and a solver that has run here would wait for those it had
    children = []
    for action in actions:
        child = os.fork()
        if child == 0:
            try:
                action()
            finally:
                os._exit(0)
        children.append(child)
    return children


def content(result: ribs.Result) -> str:
    """All of a result, but the time it took, to the last bit."""
    cost = result.cost_of_search.forward_equivalents
    fields = [result.bits, result.loss, result.standard_error, result.bops, result.history, result.stopped, cost]
    weights = [value.numpy().tobytes().hex() for value in result.model.state_dict().values()]
    return repr([*fields, weights])


def counting(calls, stop_at=None):
    """The usual loss, which to a journal it is, counted; interrupted at one call."""

    def before():
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(1)

    return usual_loss(before)


def usual_loss(before: Callable[[], None]):
    """The usual loss, which to a journal it is, with something done before each."""

    class Loss(KLDivergence):
        def __call__(self, reference, output):
            before()
            return super().__call__(reference, output)

    Loss.__module__, Loss.__name__, Loss.__qualname__ = KLDivergence.__module__, *[KLDivergence.__qualname__] * 2
    return Loss()


def journaled(folder, rank="*") -> list[tuple[bytes, int]]:
    """The configurations and shards whose losses are in a journal, whatever it belongs to."""
    keys = []
    for path in sorted(folder.glob(f"losses-{rank}.sqlite")):
        with sqlite3.connect(path) as database:
            keys += database.execute("SELECT choice, shard FROM losses").fetchall()
    return keys
