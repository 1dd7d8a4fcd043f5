"""Models of every kind through the whole search: what it says it measured is what the returned model loses."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ribs
from ribs.quant.inputs import Inputs, as_inputs
from ribs.select.loss import measure


@dataclass(frozen=True)
class State:
    hidden: torch.Tensor
    extra: dict


@dataclass
class Output:
    logits: torch.Tensor
    states: list


class Plain:
    """No dataclass: an object that torch and ribs cannot look into."""

    def __init__(self, hidden):
        self.hidden = hidden


class Block(nn.Module):
    """Takes and returns what `make` makes of a tensor, a dataclass or an object."""

    def __init__(self, make):
        super().__init__()
        self.one, self.two, self.make = nn.Linear(8, 8), nn.Linear(8, 8), make

    def forward(self, state):
        return self.make(state.hidden + self.two(F.relu(self.one(state.hidden))))


class Stateful(nn.Module):
    def __init__(self, make, wrap):
        super().__init__()
        self.stem, self.head, self.wrap, self.make = nn.Linear(8, 8), nn.Linear(8, 5), wrap, make
        self.blocks = nn.ModuleList(Block(make) for _ in range(3))

    def forward(self, x):
        state = self.make(self.stem(x))
        states = [state := block(state) for block in self.blocks]
        logits = self.head(state.hidden)
        return Output(logits, states) if self.wrap else logits


class Tied(nn.Module):
    """Integers and an additive mask with -inf in, and a head whose weights are those of the embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn = nn.Embedding(11, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids, mask):
        x = self.embed(ids)
        mask = mask[:, None].expand(-1, ids.shape[1], -1).repeat_interleave(2, 0)
        x = x + self.attn(x, x, x, attn_mask=mask, need_weights=False)[0]
        return {"loss": None, "logits": self.head(x + self.mlp(x))}


class Branches(nn.Module):
    """Two inputs of different shapes, a branch that is never taken, and a tuple that holds None."""

    def __init__(self):
        super().__init__()
        self.image, self.numbers = nn.Conv2d(1, 4, 3), nn.Linear(3, 4)
        self.unused, self.head = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, image, numbers, flag=False):
        x = self.image(image).mean((2, 3)) + self.numbers(numbers)
        return self.head(self.unused(x) if flag else x), None


class Named(nn.Module):
    def forward(self, x):
        return {"out": x, "aux": x}


def tokens(samples, length, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(11, (samples, length), generator=generator)
    padding = torch.arange(length) >= torch.randint(1, length + 1, (samples, 1), generator=generator)
    return {"ids": ids, "mask": torch.zeros(samples, length).masked_fill(padding, -torch.inf), "labels": ids}


def vectors(*shapes):
    return [torch.randn(*shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(shapes)]


IMAGES = [((torch.rand(8, 1, 5, 5), torch.randn(8, 3)), torch.zeros(8)) for _ in range(2)]
CASES = {
    "dataclass inside": (lambda: Stateful(lambda x: State(x, {"twice": x * 2}), False), vectors((12, 8), (5, 8)), {}),
    "dataclass out": (lambda: Stateful(lambda x: State(x, {"twice": x * 2}), True), vectors((12, 8), (5, 8)), {}),
    "object inside": (lambda: Stateful(Plain, False), vectors((12, 8), (5, 8)), {}),
    "tied": (
        Tied,
        [tokens(8, 6, 0), tokens(8, 9, 1), tokens(3, 2, 2)],
        {"loss": ribs.losses.Dense(dim=-1)},
    ),
    "branches": (Branches, IMAGES, {"skip": ["unused"]}),
    "fixed activations": (lambda: Stateful(lambda x: State(x, {}), True), vectors((12, 8)), {"activation_bits": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_the_returned_model(case):
    build, loader, options = CASES[case]
    options = {"loss": ribs.losses.KLDivergence()} | options
    torch.manual_seed(0)
    model = build().eval()
    budget = ribs.Budget(average_bits=6)
    result = ribs.search(model, loader, budget, bits=(2, 4, 8), iterations=2, progress=False, **options)
    losses = []
    with torch.no_grad():
        for batch in loader:
            inputs = as_inputs(model, batch)
            losses.append(measure(options["loss"], inputs.call(model), inputs.call(result.model), inputs))
    assert result.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5) and result.loss > 0
    assert len(set(result.bits.values())) > 1, "so that it was measured from some unit on"


@pytest.mark.parametrize("method", ["ribs", "hawq", "limpq", "fracbits"])
def test_every_method_takes_a_loss_that_asks_for_the_inputs(method):
    """Of a dictionary, whose losses are worth as much as the first input of a sample says."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 5), Named()).eval()
    loader = vectors((6, 8), (2, 8))

    def weighted(reference, output, inputs):
        return inputs.args[0][:, 0].square() * ribs.losses.KLDivergence(at="out")(reference, output)

    [run] = ribs.compare(
        model,
        loader,
        [ribs.Budget(bops="4/4")],
        methods=[method],
        seeds=[0],
        bits=(2, 8),
        loss=weighted,
        progress=False,
    ).runs
    result = ribs.quantize(model, loader, run.bits, loss=weighted, progress=False)
    assert run.loss == pytest.approx(result.loss, rel=1e-6)
    with torch.no_grad():
        losses = [weighted(model(x), result.model(x), Inputs((x,), {})) for x in loader]
    assert run.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_the_fisher_matrix_is_that_of_the_logits_that_the_loss_finds():
    layers = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 5)).eval()
    model = nn.Sequential(*layers, Named()).eval()
    options = {"methods": ["fisher"], "seeds": [0], "bits": (2, 8), "progress": False}
    budgets, loss = [ribs.Budget(bops="4/4")], ribs.losses.KLDivergence(at="out")
    named = ribs.compare(model, vectors((6, 8)), budgets, loss=loss, **options)
    plain = ribs.compare(layers, vectors((6, 8)), budgets, **options)
    assert named.runs[0].bits == plain.runs[0].bits
    with pytest.raises(TypeError, match=r"'out': a .* 'aux': a "):
        ribs.compare(model, vectors((6, 8)), budgets, **options)
