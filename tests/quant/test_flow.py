"""What reads layer norms and softmax: told on small networks where it can be seen by eye."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import prepare
from ribs.quant.tracing import trace

X = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))


class Norm(nn.Module):
    """A linear, a layer norm, what comes between, and a linear; `between` may use the layer norm's output again."""

    def __init__(self, between, width=8):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(width, 8)
        self.between = between

    def forward(self, x):
        return self.between(self, self.norm(self.first(x)))


def norms(model, x=X):
    return trace(model.eval(), Inputs((x,), {})).norms


@pytest.mark.parametrize(
    ("between", "kept"),
    [
        (lambda m, y: m.last(y), True),
        (lambda m, y: m.last(y[:, 0]), True),
        (lambda m, y: m.last(y.transpose(0, 1).reshape(-1, 8).unflatten(0, (4, -1)).contiguous()), True),
        (lambda m, y: m.last(F.dropout(torch.roll(y, 1, dims=1), training=False)), True),
        (lambda m, y: m.last(F.pad(y, (0, 0, 0, 0))), True),
        (lambda m, y: m.last(y) + y.shape[-1], True),
        (lambda m, y: m.last(F.pad(y, (0, 0, 0, 1))), False),  # zeros are no outputs of the layer norm
        (lambda m, y: m.last(y) + y, False),
        (lambda m, y: m.last(y.mean(1)), False),
        (lambda m, y: m.last(torch.roll(y, 1, dims=2)), False),
        (lambda m, y: m.last(torch.roll(y, 1)), False),
        (lambda m, y: m.last(y.flip(-1)), False),
        (lambda m, y: m.last(y[:, [1, 0]]), False),
        (lambda m, y: m.last(y.relu_()), False),
        (lambda m, y: (m.last(y), y), False),
        (lambda m, y: m.last(y) @ y.transpose(1, 2), False),
        (lambda m, y: F.linear(y, m.last.weight), True),
        (lambda m, y: F.linear(y, m.last.weight, torch.cat([m.last.bias[:3], m.first.bias[3:]])), True),
        (lambda m, y: m.last(F.linear(m.first.weight, y[0]).T), False),  # the layer norm is on the right
        (lambda m, y: F.linear(y, m.last.weight, y[0, 0]), False),
        (lambda m, y: m.last(m.last(y)), False),  # which runs twice
        (lambda m, y: m.last(y) + m.norm(m.first(y)), False),
    ],
)
def test_a_layer_norm_is_absorbed_where_linears_alone_read_its_channels(between, kept):
    assert norms(Norm(between)) == ({"norm": ("last",)} if kept else {})


def test_dimensions_of_equal_size_are_told_apart():
    x = torch.randn(2, 8, 8)
    assert norms(Norm(lambda m, y: m.last(y)), x) == {"norm": ("last",)}
    assert norms(Norm(lambda m, y: m.last(y.transpose(1, 2))), x) == {}
    assert norms(Norm(lambda m, y: m.last(y.transpose(1, 2).transpose(1, 2))), x) == {}


@pytest.mark.parametrize(
    ("between", "reader"),
    [
        (lambda m, y: y @ m.table, "table_linear0"),
        (lambda m, y: torch.addmm(m.last.bias, y.flatten(0, 1), m.table), "table_linear0"),
        (lambda m, y: y @ m.last.weight.T, "last.weight_linear0"),
        (lambda m, y: F.linear(y, m.table / m.table.norm()), "table_linear0"),
        (lambda m, y: torch.addmm(m.last.bias, y.flatten(0, 1), m.table, alpha=0.5), None),
        (lambda m, y: torch.bmm(y, m.table.expand(len(y), 8, 8)), None),
        (lambda m, y: torch.einsum("bsi,io->bso", y, m.table), None),
        (lambda m, y: m.table[:4, :4] @ y, None),
    ],
)
def test_functionals_that_are_linears_absorb_too(between, reader):
    model = Norm(lambda m, y: m.last(m.first.bias + between(m, y)))
    model.table = nn.Parameter(torch.randn(8, 8))
    assert norms(model) == ({"norm": (reader,)} if reader else {})


def test_linears_that_read_the_same_layer_norm_come_in_order():
    model = Norm(lambda m, y: m.last(y) + m.other(y))
    model.other = nn.Linear(8, 8)
    assert norms(model) == {"norm": ("last", "other")}


class Attention(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.qkv, self.share = nn.Linear(8, 24), share

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.share(q @ k.transpose(1, 2)) @ v


@pytest.mark.parametrize(
    ("share", "found"),
    [
        (lambda a: a.softmax(-1), True),
        (lambda a: F.dropout(F.softmax(a, -1), training=False).to(a.dtype).contiguous(), True),
        (lambda a: torch.softmax(a, -1).masked_fill(a > 9, 0.0), True),
        (lambda a: nn.Softmax(-1)(a), True),
        (lambda a: a.sigmoid(), False),
        (lambda a: a.softmax(-1) * 2, False),
        (lambda a: a.softmax(-1).mul_(2), False),
    ],
)
def test_operands_that_softmax_gave_are_found(share, found):
    shares = trace(Attention(share).eval(), Inputs((X,), {})).shares
    assert shares == (frozenset({("matmul1", 0, 0)}) if found else frozenset())


class TalkingHeads(Attention):
    """What softmax gives is mixed by a linear before it is multiplied."""

    def __init__(self):
        super().__init__(None)
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.mix((q @ k.transpose(1, 2)).softmax(-1)) @ v


def test_a_linear_that_reads_softmax_has_its_own_quantizer():
    network = prepare(TalkingHeads().eval(), Inputs((X,), {}), recipe="repq+")
    assert network.trace.shares == frozenset()


def test_fused_attention_is_looked_into_and_calls_are_numbered():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = x + 1
            return self.attention(x, x, x)[0] + self.attention(y, y, y)[0]

    shares = trace(Twice().eval(), Inputs((X,), {})).shares
    assert shares == {("attention.matmul1", 0, 0), ("attention.matmul1", 1, 0)}
