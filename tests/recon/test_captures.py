"""Captured steps against the loop that they stand for, and what happens where they cannot be captured.

A stand-in for a CUDA graph records the operators of a step, whose effects it takes back, and launches them again on the
memory that they were recorded on: numbers that Python computed stay as they were.
"""

import logging

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ribs
from ribs.recon import captures
from small import content, loader, network, search

FACTS = {"iterations": 20, "weight_lr": 0.05, "penalty": 0.1}
METHODS = {
    "adaround": ribs.AdaRound(**FACTS),
    "brecq": ribs.BRECQ(**FACTS, activation_lr=0.01),
    "fisher": ribs.BRECQ(**FACTS, fisher=True),
    "qdrop": ribs.QDrop(**FACTS, activation_lr=0.01),
}


class Recorder(TorchDispatchMode):
    def __init__(self):
        self.calls, self.before = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        given = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        self.before += [(each, each.clone()) for name in written for each in tree_leaves(given[name])]
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, tree_leaves(result)))
        return result

    @torch.no_grad()
    def take_back(self):
        for written, before in reversed(self.before):
            written.copy_(before)

    @torch.no_grad()
    def launch(self):
        for func, args, kwargs, results in self.calls:
            for place, new in zip(results, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != new.data_ptr():
                    place.copy_(new)


class StandIn:
    def __init__(self):
        self.uncaptured_runs = self.captured = self.launched = 0

    def uncaptured(self, run):
        self.uncaptured_runs += 1
        run()

    def __call__(self, run):
        self.captured += 1
        with Recorder() as recorder:
            run()
        recorder.take_back()

        def launch():
            self.launched += 1
            recorder.launch()

        return launch


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def residual():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(Block(), Block()), nn.Flatten(), nn.Linear(144, 5)).eval()


def state(method, model):
    found = ribs.reconstruct(model, loader(4, 16), (2, 4), method=method, progress=False, seed=3)
    return {**found.model.state_dict(), "loss": torch.tensor(found.loss)}


@pytest.mark.parametrize(("build", "name"), [(network, "qdrop"), *((residual, name) for name in METHODS)])
def test_captured_steps_are_those_of_the_loop_to_the_last_bit(build, name, monkeypatch):
    plain, found = state(METHODS[name], build()), StandIn()
    monkeypatch.setitem(captures.CAPTURES, "cpu", lambda device: found)
    monkeypatch.setattr("ribs.recon.run.CHECK_EVERY", 7)
    again = state(METHODS[name], build())
    for key, value in plain.items():
        assert torch.equal(value, again[key]), key
    pieces = 3 if build is network else 4 + 2 * (name == "adaround")
    steps = [phase.iterations - 1 for phase in METHODS[name].phases if phase.iterations >= captures.LEAST]
    # Of BRECQ's five last steps none is captured.
    assert found.uncaptured_runs == found.captured == pieces * len(steps)
    assert found.launched == pieces * sum(steps)


@pytest.mark.parametrize("at", ["begin", "end"])
def test_steps_that_cannot_be_captured_are_done_as_they_are(at, monkeypatch, caplog):
    tried, found = [], []

    class Refusing(StandIn):
        def __call__(self, run):
            tried.append(1)
            if at == "end":
                super().__call__(run)
            raise RuntimeError("operation not permitted when stream is capturing\nwith more to say")

    plain = state(METHODS["qdrop"], residual())
    monkeypatch.setitem(captures.CAPTURES, "cpu", lambda device: found.append(Refusing()) or found[0])
    with caplog.at_level(logging.INFO, "ribs"):
        again = state(METHODS["qdrop"], residual())
    assert tried == [1] and "operation not permitted when stream is capturing" in caplog.text
    # All of the piece whose capture failed, so that its variables stay on the stream of their first use.
    assert [each.uncaptured_runs for each in found] == [METHODS["qdrop"].iterations]
    assert all(torch.equal(value, again[key]) for key, value in plain.items())


def test_a_search_that_begins_each_piece_part_of_the_way_ends_the_same(monkeypatch):
    monkeypatch.setattr("ribs.select.run.SHARE", 0.25)
    method = ribs.QDrop(**FACTS | {"iterations": 4 * captures.LEAST}, activation_lr=0.01)
    options = {"reconstruct": method, "finish": method, "profile": "race", "budget": "3/3", "bits": (2, 4)}
    plain, found = content(search(data=loader(2, 12), **options)), StandIn()
    monkeypatch.setitem(captures.CAPTURES, "cpu", lambda device: found)
    assert content(search(data=loader(2, 12), **options)) == plain
    # Some were all of the iterations, some the last quarter; the first of either was done as it was.
    assert captures.LEAST - 1 < found.launched / found.captured < 4 * captures.LEAST - 1
