from collections import namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import prepare
from ribs.quant.tracing import trace
from ribs.quant.tree import leaves, map_leaves, tensors
from ribs.select.replay import Replay

A, B = torch.zeros(1), torch.ones(2)
Pair = namedtuple("Pair", ["left", "right"])


@dataclass(frozen=True)
class Record:
    first: torch.Tensor
    rest: dict = field(default_factory=dict)
    late: torch.Tensor = field(init=False, repr=False)


TREE = {"a": [Record(A, {"b": Pair(B, Record(A, {"c": 3}))}), "text"], "d": None}


def test_dataclasses_are_looked_into():
    assert [leaf if not isinstance(leaf, torch.Tensor) else len(leaf) for leaf in leaves(TREE)] == [
        1,
        2,
        1,
        3,
        "text",
        None,
    ]
    assert [len(leaf) for leaf in tensors(TREE)] == [1, 2, 1]


def test_dataclasses_are_mapped_into_new_ones():
    other = map_leaves(lambda leaf: leaf + 1 if isinstance(leaf, torch.Tensor) else leaf, TREE)
    assert isinstance(other["a"][0], Record) and isinstance(other["a"][0].rest["b"], Pair)
    assert [leaf.tolist() for leaf in tensors(other)] == [[1], [2, 2], [1]]
    assert [leaf.tolist() for leaf in tensors(TREE)] == [[0], [1, 1], [0]]
    both = map_leaves(lambda a, b: torch.cat([a, b]) if isinstance(a, torch.Tensor) else a, TREE, other)
    assert [leaf.tolist() for leaf in tensors(both)] == [[0, 1], [1, 1, 2, 2], [0, 1]]


def test_outputs_of_transformers_stay_what_they_are():
    outputs = pytest.importorskip("transformers").modeling_outputs
    made = map_leaves(lambda leaf: leaf + 1, outputs.SequenceClassifierOutput(logits=A))
    assert isinstance(made, outputs.SequenceClassifierOutput) and made.logits is made["logits"] is made[0]
    assert made.logits.tolist() == [1]


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)

    def forward(self, record):
        y = self.conv(record.first)
        return Record(self.norm(y), {"before": y})


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages, self.last = nn.ModuleList([Stage(), Stage()]), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        record = Record(x)
        for stage in self.stages:
            record = stage(record)
        return Record(self.last(record.first), record.rest)


def test_networks_of_dataclasses_are_followed():
    """What is returned in one is read: its norm is not folded. And nothing before a unit runs again."""
    x = torch.randn(2, 1, 4, 4)
    model = Stages().eval()
    assert trace(model, Inputs((x,), {})).batch_norms == (("stages.0.conv", "stages.0.norm"),)
    network = prepare(model, Inputs((x,), {}), "layer")
    with torch.no_grad(), Replay(network) as replay:
        plan = replay.plan(Inputs((x,), {}), Inputs((x.flip(0),), {}))
    assert plan.starts == plan.first and sorted(plan.starts) == list(plan.starts) and plan.starts[-1] > plan.starts[0]
