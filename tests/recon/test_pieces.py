"""What is reconstructed at a time, and what is left out, by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import prepare
from ribs.recon.pieces import find_pieces

WIDTH = 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.second(F.relu(self.first(x)))


class Pair(Block):
    def forward(self, x):
        return super().forward(x), x


class Remembers(Block):
    """Gives more with every call."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + self.calls


class Shared(Block):
    def forward(self, x):
        return self.second(self.first(self.first(x)))


class Sum(Block):
    def forward(self, x):
        return super().forward(x).sum(0, keepdim=True).expand(3, WIDTH)


class Network(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList([Block(), kind()])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        samples, x = len(x), self.stem(x)
        for block in self.blocks:
            x = block(x)
            x = (x[0] if isinstance(x, tuple) else x)[:samples]
        return self.head(x)


def pieces(kind, whole="block"):
    model, x = Network(kind).eval(), Inputs((torch.randn(2, WIDTH),), {})
    network = prepare(model, x)
    return [piece.name for piece in find_pieces(network.model, network.trace.layers, whole, x)]


APART = ["stem", "blocks.0", "blocks.1.first", "blocks.1.second", "head"]


def test_blocks_and_the_layers_between_them_in_order():
    assert pieces(Block) == ["stem", "blocks.0", "blocks.1", "head"]


def test_layers():
    layers = [f"blocks.{block}.{layer}" for block in (0, 1) for layer in ("first", "second")]
    assert pieces(Block, "layer") == ["stem", *layers, "head"]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Pair, "its output is a tuple, not a tensor"),
        (Remembers, "called by itself it gives something else"),
        (Sum, "does not have the samples along its first dimension"),
    ],
    ids=["pair", "remembers", "sum"],
)
def test_a_block_that_cannot_be_called_by_itself_is_taken_layer_by_layer(kind, why):
    with pytest.warns(UserWarning, match=f"'blocks.1' is reconstructed layer by layer: .*{why}"):
        assert pieces(kind) == APART


@pytest.mark.filterwarnings("ignore:.*'blocks.1' is reconstructed layer by layer")
def test_a_layer_that_runs_twice_is_left_as_it_is():
    with pytest.warns(UserWarning, match=r"'blocks.1.first' is left as it is: it, or a layer in it, runs several"):
        assert pieces(Shared) == [name for name in APART if name != "blocks.1.first"]
