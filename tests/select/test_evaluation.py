"""The task loss on inputs of one's own."""

import math

import pytest
import torch
from torch import nn

import ribs
from small import loader, network, search


def test_the_loss_of_a_result_on_its_own_calibration_set():
    """It is what the search measured last, however the samples come in batches."""
    model, data = network(), loader()
    result = search(model, data)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for batches in (data, [torch.cat(data)], torch.cat(data).split(5)):
        found = ribs.evaluate(model, result, batches, progress=False)
        assert found.loss == pytest.approx(result.loss, rel=1e-6)
        assert found.standard_error == pytest.approx(result.standard_error, rel=1e-6)
        assert found.samples == 24
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_against_sums_in_double_precision():
    model, other, data = network(0), network(1), loader(2, 7)
    labelled = [(x, torch.zeros(len(x))) for x in data]
    found = ribs.evaluate(model, other, labelled, samples=10, progress=False)
    x = torch.cat(data)[:10]
    p, q = (net(x).detach().double().softmax(1) for net in (model, other))
    each = (p * (p / q).log()).sum(1)
    assert found.loss == pytest.approx(each.mean().item(), rel=1e-6)
    assert found.standard_error == pytest.approx(each.std().item() / math.sqrt(10), rel=1e-6)
    assert str(found) == f"task loss {found.loss:.6g} +- {found.standard_error:.2g} of 10 samples"


def test_another_loss_and_a_single_sample():
    found = ribs.evaluate(
        network(0), network(1), loader(1), loss=ribs.losses.Embedding(distance="mse"), samples=1, progress=False
    )
    x = loader(1)[0][:1]
    assert found.loss == pytest.approx((network(0)(x) - network(1)(x)).double().square().mean().item(), rel=1e-6)
    assert math.isnan(found.standard_error) and found.samples == 1


def test_a_loss_that_is_not_finite_is_said():
    broken = network()
    broken[0].bias.data.fill_(math.nan)
    assert not math.isfinite(ribs.evaluate(network(), broken, loader(1), progress=False).loss)


def test_a_network_of_no_parameters():
    class Rounded(nn.Module):
        """The float network's outputs, without their fractions."""

        def forward(self, x):
            return network()(x).round()

    found = ribs.evaluate(network(), Rounded().eval(), loader(1), progress=False)
    x = loader(1)[0]
    expected = ribs.losses.KLDivergence()(network()(x), network()(x).round())
    assert found.loss == pytest.approx(expected.mean().item(), rel=1e-6)


class Endless:
    """Fails when it is asked for more than it was said to need."""

    def __iter__(self):
        yield from loader(2)
        raise AssertionError("a third batch was read")


def test_no_more_is_read_than_asked_for():
    assert ribs.evaluate(network(), network(), Endless(), samples=16, progress=False) == ribs.Evaluation(0.0, 0.0, 16)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loader": []}, ValueError, "yielded no samples"),
        ({"loader": ["text"]}, TypeError, "got a batch"),
        ({"loader": [torch.full((2, 1, 8, 8), math.nan)]}, ValueError, "batch 0 of the loader holds NaN or Inf"),
        ({"samples": 0}, ValueError, "samples=0 is not allowed; give at least 1, or None for all"),
        ({"model": network().train()}, ValueError, "is in training mode"),
        ({"quantized": network().train()}, ValueError, "is in training mode"),
        ({"quantized": network().to("meta")}, ValueError, r"on cpu and the quantized one on meta; move one with .to\("),
        ({"loss": "kl"}, TypeError, "loss='kl' is not supported"),
        ({"loss": lambda p, q: p}, ValueError, r"returned shape \(8, 5\) for 8 samples"),
        (
            {"model": nn.Sequential(network(), nn.Threshold(9, math.nan)).eval()},
            ValueError,
            "output for batch 0 holds NaN or Inf",
        ),
    ],
    ids=["empty", "text", "nan", "none", "training", "training-too", "device", "loss", "shape", "float-nan"],
)
def test_bad_input(options, error, message):
    arguments = {"model": network(), "quantized": network(), "loader": loader(1)} | options
    with pytest.raises(error, match=message):
        ribs.evaluate(**arguments, progress=False)
