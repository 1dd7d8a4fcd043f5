from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import ribs
from ribs.quant.inputs import Gathered, Inputs, alike, as_inputs, collect

X = torch.randn(6, 3)


class TwoInputs(nn.Module):
    def forward(self, ids, mask):
        return ids + mask


class Pair(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [X, (X, torch.zeros(6)), [X], {"input": X, "labels": X}, ({"input": X}, X), Pair(X, X), ((X,), X)],
    ids=["tensor", "with labels", "list", "dict", "dict and labels", "named tuple", "nested"],
)
def test_one_input_in_any_form(batch):
    inputs = as_inputs(nn.Identity(), batch)
    assert inputs.samples == 6
    assert inputs.call(nn.Identity()) is X


def test_several_inputs_by_name_and_position():
    model = TwoInputs()
    assert torch.equal(as_inputs(model, {"mask": X, "ids": X, "labels": X}).call(model), X + X)
    assert torch.equal(as_inputs(model, ((X, X), X)).call(model), X + X)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ("text", "type str"),
        (["a"], "item of type str"),
        ({}, "no tensor"),
        ((), "type tuple"),
        (torch.tensor(1.0), "0-d"),
    ],
    ids=["text", "list of text", "empty dict", "empty tuple", "0-d"],
)
def test_unreadable_batches(batch, found):
    with pytest.raises(TypeError, match=found):
        as_inputs(nn.Identity(), batch)


@pytest.mark.parametrize(("samples", "sizes"), [(100, [6, 6]), (7, [6, 1]), (6, [6]), (2, [2])])
def test_exactly_the_first_samples(samples, sizes):
    batches = collect(nn.Identity(), [X, torch.empty(0, 3), X], samples)
    assert [batch.samples for batch in batches] == sizes


def test_only_as_many_batches_as_needed_are_drawn():
    def endless():
        while True:
            yield X

    assert sum(batch.samples for batch in collect(nn.Identity(), endless(), 20)) == 20


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_inputs(bad):
    with pytest.raises(ValueError, match="batch 1 of the loader holds NaN or Inf"):
        collect(nn.Identity(), [X, torch.tensor([[bad]])], 10)


def test_inputs_without_values():
    with pytest.raises(ValueError, match="batch 1 of the loader is on the meta device and holds no values"):
        collect(nn.Identity(), [X, X.to("meta")], 10)


@pytest.mark.parametrize(("loader", "samples", "message"), [([], 10, "no samples"), ([X], 0, "at least 1")])
def test_nothing_to_calibrate_on(loader, samples, message):
    with pytest.raises(ValueError, match=message):
        collect(nn.Identity(), loader, samples)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"ids": X, "mask": X[:1]}, r"\(6, 3\), \(1, 3\); the first dimension of each must be the samples"),
        ({"ids": X[:, :0], "mask": X}, r"batch 0 .* shape \(6, 0\), which is empty"),
    ],
    ids=["a mask for all", "no length"],
)
def test_batches_whose_samples_cannot_be_told(batch, message):
    with pytest.raises(ValueError, match=message):
        collect(TwoInputs(), [batch], 10)


def test_a_mask_may_hold_minus_infinity():
    mask = X.masked_fill(X > 0, -torch.inf)
    [inputs] = collect(TwoInputs(), [{"ids": X, "mask": mask}], 10)
    assert torch.equal(inputs.kwargs["mask"], mask)


class Pixels(nn.Module):
    """Takes integers and float64, which it casts itself, or not."""

    def __init__(self, cast):
        super().__init__()
        self.cast, self.fc = cast, nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x.float() if self.cast else x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64, torch.bfloat16])
def test_inputs_of_other_types(dtype):
    """What the forward casts works; what it does not is named."""
    data = (X * 50).abs().to(dtype)
    result = ribs.quantize(Pixels(True).eval(), [data], 8, progress=False)
    assert 0 < result.loss < 1
    if dtype.is_floating_point:
        with pytest.raises(ValueError, match=rf"fc: multiplies .*{dtype}.*: only torch.float32 can be quantized"):
            ribs.quantize(Pixels(False).eval(), [data], 8, progress=False)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_samples_of_several_batches_put_together_anew(size):
    """By position and by name, against the whole set at once."""
    parts = [torch.randn(n, 2, 3) for n in (3, 1, 5)]
    masks = [torch.randint(0, 9, (n,)) for n in (3, 1, 5)]
    batches = [Inputs((x,), {"mask": mask}) for x, mask in zip(parts, masks, strict=True)]
    order = np.random.default_rng(0).permutation(9)
    gathered = Gathered(batches, order, size)
    assert [batch.samples for batch in gathered] == [min(size, 9 - first) for first in range(0, 9, size)]
    assert torch.equal(torch.cat([batch.args[0] for batch in gathered]), torch.cat(parts)[order])
    assert torch.equal(torch.cat([batch.kwargs["mask"] for batch in gathered]), torch.cat(masks)[order])
    assert len(gathered[1:]) == len(gathered) - 1
    with pytest.raises(IndexError):
        gathered[len(gathered)]


def test_which_batches_can_be_mixed():
    def batch(*shape, dtype=torch.float32, **named):
        return Inputs((torch.zeros(shape, dtype=dtype),), named)

    first = batch(4, 3, 8)
    assert alike([first]) and alike([first, batch(1, 3, 8)])
    assert not alike([first, batch(4, 3, 9)])
    assert not alike([first, batch(4, 3, 8, dtype=torch.float64)])
    assert not alike([first, batch(4, 3, 8, mask=torch.zeros(4))])
    assert not alike([Inputs((), {"a": torch.zeros(2)}), Inputs((), {"b": torch.zeros(2)})])
    assert not alike([Inputs(((torch.zeros(2), torch.zeros(2)),), {}), Inputs((torch.zeros(2), torch.zeros(2)), {})])
