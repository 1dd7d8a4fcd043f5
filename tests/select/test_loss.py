"""Each loss against torch's own, sample by sample, on every form of output."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ribs
from ribs.quant.inputs import Inputs
from ribs.select.loss import LOSSES, check_loss, find_tensor, kl_divergence, measure

A, B = torch.randn(5, 7) * 3, torch.randn(5, 7) * 3
NOTHING = Inputs((), {})
Named = namedtuple("Named", ["aux", "logits"])


@dataclass
class Output:
    aux: torch.Tensor
    logits: torch.Tensor = field(default=None)


def kl(p, q, dim):
    """torch's own, of two classes and more."""
    p, q = p.double().log_softmax(dim), q.double().log_softmax(dim)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(dim)


def test_kl_divergence_against_torch():
    torch.testing.assert_close(kl_divergence(A, B), kl(A, B, 1))
    assert torch.equal(kl_divergence(A, A), torch.zeros(5, dtype=torch.float64))


def test_a_class_without_probability_has_no_part():
    banned = torch.arange(7) == 3
    p, q = (each.masked_fill(banned, -torch.inf) for each in (A, B))
    torch.testing.assert_close(kl_divergence(p, q), kl(A[:, ~banned], B[:, ~banned], 1))


@pytest.mark.parametrize(
    ("wrap", "at"),
    [
        (lambda x: x, None),
        (lambda x: (x, x[:1]), None),
        (lambda x: [x, "text"], None),
        (lambda x: {"loss": x.sum(), "logits": x}, None),
        (lambda x: OrderedDict(out=x), None),
        (lambda x: Output(x[:1], x), None),
        (lambda x: Output(x), None),
        (lambda x: Named(x[:1], x), None),
        (lambda x: {"loss": None, "deep": [Output(x)]}, None),
        (lambda x: {"out": x, "aux": x}, "out"),
        (lambda x: (x[:1], x), 1),
        (lambda x: Output(x, x[:1]), "aux"),
        (lambda x: Named(x, x[:1]), "aux"),
        (lambda x: {3: x, 4: x}, 3),
    ],
)
def test_where_logits_are(wrap, at):
    loss = ribs.losses.KLDivergence(at=at)
    assert torch.equal(loss(wrap(A), wrap(B)), kl_divergence(A, B))
    assert find_tensor(wrap(A), at) is A


@pytest.mark.parametrize(
    ("output", "at", "message"),
    [
        ({"out": A, "aux": A[0]}, None, r"a dict of 'out': a \(5, 7\) tensor, 'aux': a \(7,\) tensor; .*at='logits'"),
        ({"out": A}, "logits", "at='logits' is no tensor .* 'out'"),
        (("text", A, A), None, r"it is a tuple of 0: str, 1: a \(5, 7\) tensor"),
        ((A, A), 2, "at=2 is no tensor"),
        (Output(A, "text"), "logits", "a Output of 'aux': .* 'logits': str"),
        (3, None, "it is a int"),
        (torch.randn(2, 3, 4), None, r"a \(2, 3, 4\) tensor.*Dense\(\) .*LanguageModel\(\)"),
        (torch.randn(2, 1), None, r"a \(2, 1\) tensor"),
    ],
    ids=["names", "no such name", "first", "no such place", "no tensor", "number", "3d", "one class"],
)
def test_outputs_without_logits(output, at, message):
    with pytest.raises(TypeError, match=message):
        ribs.losses.KLDivergence(at=at)(output, output)


@pytest.mark.parametrize("dim", [1, 2, -1])
def test_dense_is_the_mean_over_positions(dim):
    p, q = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(ribs.losses.Dense(dim=dim)(p, q), kl(p, q, dim).flatten(1).mean(1))
    torch.testing.assert_close(ribs.losses.Dense()(A, B), kl(A, B, 1))


@pytest.mark.parametrize(("shape", "dim"), [((2, 1, 4), 1), ((2, 3), 0), ((2, 3), 2), ((2, 3), -2), ((2,), 1)])
def test_dense_needs_classes(shape, dim):
    x = torch.randn(shape)
    with pytest.raises(TypeError, match=rf"no classes along dim={dim}"):
        ribs.losses.Dense(dim=dim)(x, x)


def test_embeddings_against_torch():
    p, q = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    cosine = 1 - F.cosine_similarity(p.double(), q.double(), dim=-1)
    torch.testing.assert_close(ribs.losses.Embedding()(p, q), cosine.mean(1))
    squared = torch.stack([F.mse_loss(b.double(), a.double()) for a, b in zip(p, q, strict=True)])
    torch.testing.assert_close(ribs.losses.Embedding(distance="mse")((p, 0), (q, 0)), squared)
    for distance in ("cosine", "mse"):
        assert not ribs.losses.Embedding(distance=distance)(p, p).any(), "float against itself is exactly 0"
    with pytest.raises(ValueError, match="distance='l1' is not supported"):
        ribs.losses.Embedding(distance="l1")


MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
LABELS = torch.where(MASK == 1, 9, -100)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (ribs.losses.LanguageModel(), Inputs((), {"ids": LABELS, "attention_mask": MASK})),
        (ribs.losses.LanguageModel(), Inputs((), {"attention_mask": MASK.bool()})),
        (ribs.losses.LanguageModel(mask="labels", ignore_index=-100), Inputs((), {"labels": LABELS})),
        (ribs.losses.LanguageModel(mask=1), Inputs((LABELS, MASK), {})),
    ],
    ids=["mask", "bool", "labels", "position"],
)
def test_only_tokens_that_count_count(loss, inputs):
    p, q = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    q[MASK == 0] = torch.nan  # what is computed at padding does not matter
    each = kl(p, q, 2)
    expected = torch.stack([each[0].mean(), each[1, 1:3].mean(), torch.zeros((), dtype=torch.float64)])
    torch.testing.assert_close(measure(loss, {"logits": p}, {"logits": q}, inputs), expected)


def test_all_tokens_count_without_a_mask():
    p, q = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    loss = measure(ribs.losses.LanguageModel(), p, q, Inputs((LABELS,), {}))
    torch.testing.assert_close(loss, kl(p, q, 2).mean(1))


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({"mask": "mask"}, {"ids": MASK}, r"mask 'mask' is not there.*\['ids'\]"),
        ({}, {"attention_mask": MASK[:, :2]}, r"'attention_mask' is a \(3, 2\) tensor, for \(3, 4\) tokens"),
        ({}, {"attention_mask": MASK.float().log()}, "'attention_mask' is one to be added"),
    ],
    ids=["missing", "other length", "additive"],
)
def test_masks_that_do_not_fit(options, inputs, message):
    x = torch.randn(3, 4, 6)
    with pytest.raises(TypeError, match=message):
        measure(ribs.losses.LanguageModel(**options), x, x, Inputs((), inputs))
    with pytest.raises(TypeError, match=r"a \(5, 7\) tensor, not \[samples, tokens, vocabulary\]"):
        measure(ribs.losses.LanguageModel(), A, A, NOTHING)


def test_a_function_is_given_the_inputs_where_it_asks_for_them():
    a, b = A[:, 0], B[:, 0]
    inputs = Inputs((2 * A,), {})
    assert torch.equal(measure(lambda p, q, x: x.args[0][:, 0] + p, a, b, inputs), 3 * a)
    assert torch.equal(measure(lambda p, q, power=2: q**power, a, b, inputs), b**2)
    assert torch.equal(measure(lambda *both: sum(both), a, b, inputs), a + b)
    assert torch.equal(measure(torch.sub, a, b, inputs), a - b)


@pytest.mark.parametrize("returned", [torch.ones(len(A) + 1), torch.ones(len(A), 1), 1.5], ids=["more", "2-d", "float"])
def test_a_loss_of_another_shape(returned):
    got = "float" if isinstance(returned, float) else rf"shape \({', '.join(map(str, returned.shape))},?\)"
    with pytest.raises(ValueError, match=rf"returned {got} for {len(A)} samples; it must be \[samples\]"):
        measure(lambda p, q: returned, A, B, Inputs((A,), {}))


@pytest.mark.parametrize(
    ("loss", "message"),
    [(ribs.losses.Dense, r"give Dense\(\)"), ("dense", "loss='dense' is not supported; give one of ribs.losses")],
    ids=["class", "name"],
)
def test_what_is_no_loss(loss, message):
    with pytest.raises(TypeError, match=message):
        check_loss(loss)
    with pytest.raises(TypeError, match=message):
        ribs.quantize(nn.Linear(7, 3).eval(), [A], 4, loss=loss, progress=False)


def test_every_loss_has_a_name():
    assert {type(loss) for loss in LOSSES.values()} == {
        getattr(ribs.losses, name) for name in ("KLDivergence", "Dense", "Embedding", "LanguageModel")
    }
