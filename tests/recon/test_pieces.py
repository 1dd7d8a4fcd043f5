"""What is reconstructed at a time, and what is left out, by name."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.recon.methods import QDrop
from ribs.recon.pieces import find_pieces
from ribs.recon.run import Reconstruction
from ribs.select.loss import kl_divergence, measure

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


class Masked(nn.Module):
    """Adds what has no samples along its first dimension."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, mask):
        return self.second(F.relu(self.first(x))) + mask


class WithMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Masked(), Masked()])

    def forward(self, x):
        mask = torch.arange(4.0).repeat(6, 1)
        for block in self.blocks:
            x = block(x, mask)
        return x.mean(1)


@pytest.mark.parametrize("sizes", [(4, 1), (1, 1, 1)], ids=str)
def test_what_is_stored_is_what_a_pass_gives(sizes):
    """Also of loaders with one sample a batch, where nothing tells samples from anything else."""
    data = [torch.randn(size, 6, WIDTH) for size in sizes]
    model = WithMask().eval()
    network = prepare(model, Inputs((data[0],), {}))
    calibrate(network, [Inputs((x,), {}) for x in data], [3])
    network.configure({unit.name: (3, 3) for unit in network.units})
    batches = [Inputs((x,), {}) for x in data]
    run = Reconstruction(network.model, network.trace.layers, batches, QDrop(), loss=partial(measure, kl_divergence))
    [phase] = QDrop().phases
    pieces = find_pieces(run.reference, run.layers, "block", run.batches[0].head(2))
    assert [piece.name for piece in pieces] == ["blocks.0", "blocks.1"]
    x = torch.cat(data)
    with torch.no_grad():
        first = model.blocks[0](x, torch.arange(4.0).repeat(6, 1))
        store = run._stored(pieces[1], phase)
        order = torch.tensor([2, 0])
        quantized, ((stored, mask), _), target, _ = store.take(order)
        torch.testing.assert_close(stored, first[order])
        torch.testing.assert_close(target, model.blocks[1](first, mask)[order])
        torch.testing.assert_close(quantized[0][0], network.model.blocks[0](x, mask)[order])
    assert mask.shape == (6, WIDTH)


def test_batches_of_different_shapes_are_refused():
    batches = [Inputs((torch.randn(2, length, WIDTH),), {}) for length in (5, 6)]
    network = prepare(Network(Block).eval(), batches[0])
    calibrate(network, batches, [3])
    network.configure({unit.name: (3, 3) for unit in network.units})
    run = Reconstruction(
        network.model, network.trace.layers, batches, QDrop(iterations=1), loss=partial(measure, kl_divergence)
    )
    with pytest.raises(ValueError, match=r"\[reconstruct\] 'stem': its samples have different shapes, \[5, 4\] and"):
        run.run()
