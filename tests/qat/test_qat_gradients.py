"""Gradients of the learned quantizers against the papers' formulas in double precision, and curves against torch."""

import copy
import math

import pytest
import torch
from torch import nn

import ribs
from ribs.qat.quantizers import LearnedActivations, LearnedShares, LearnedWeights
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FakeQuantizer, ShareQuantizer, code_range
from small import loader, network

BITS = 3


def quantizer(symmetric, step, zero_point, axis=None):
    made = FakeQuantizer(symmetric=symmetric, axis=axis)
    made.set_steps(
        (BITS,), step.double()[None], torch.as_tensor(zero_point, dtype=torch.int32).expand(step.shape)[None]
    )
    made.set_bits(BITS)
    return made


def formula(values, step, qmin, qmax, offset=0.0):
    """By value: output, its derivative by the value, by the step and by the offset; after equations 3 and 5 of LSQ+."""
    rows = []
    for value in values:
        u = (value - offset) / step
        if u <= qmin or u >= qmax:
            bound = qmin if u <= qmin else qmax
            rows.append((bound * step + offset, float(u in (qmin, qmax)), bound, float(u not in (qmin, qmax))))
        else:
            rows.append((round(u) * step + offset, 1.0, round(u) - u, 0.0))
    return torch.tensor(rows, dtype=torch.float64).T


def check(learned, x, grad, want, scale):
    y = learned(x)
    (y * grad).sum().backward()
    output, by_x, by_step, _ = want
    torch.testing.assert_close(y.flatten(), output, rtol=1e-12, atol=0)
    torch.testing.assert_close(x.grad.flatten(), by_x * grad.flatten(), rtol=1e-12, atol=0)
    torch.testing.assert_close(learned.step.grad.sum(), (by_step * grad.flatten()).sum() * scale, rtol=1e-9, atol=1e-12)


@pytest.fixture
def x():
    return (3 * torch.randn(6, 5, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def grad():
    return torch.randn(6, 5, dtype=torch.float64)


def test_weights_per_tensor(x, grad):
    step = torch.tensor(0.7, dtype=torch.float64)
    learned = LearnedWeights(quantizer(True, step, 0), None, step, None).double()
    check(learned, x, grad, formula(x.flatten().tolist(), 0.7, -4, 3), 1 / math.sqrt(30 * 3))


def test_weights_per_channel(x, grad):
    steps = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0, 3.0], dtype=torch.float64)
    learned = LearnedWeights(quantizer(True, steps, 0, 0), 0, steps, None).double()
    y = learned(x)
    (y * grad).sum().backward()
    for row, step in enumerate(steps.tolist()):
        output, by_x, by_step, _ = formula(x[row].tolist(), step, -4, 3)
        torch.testing.assert_close(y[row], output, rtol=1e-12, atol=0)
        torch.testing.assert_close(x.grad[row], by_x * grad[row], rtol=1e-12, atol=0)
        torch.testing.assert_close(learned.step.grad[0, row], (by_step * grad[row]).sum() / math.sqrt(5 * 3))


def test_weights_before_a_norm_that_turns_their_sign(x, grad):
    """Codes of channels of negative scale lie between -3 and 4."""
    norm = nn.BatchNorm1d(6).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1, -1, 2, -2, 0, -0.5]))
    step = torch.tensor(0.7, dtype=torch.float64)
    learned = LearnedWeights(quantizer(True, step, 0, 0), None, step, norm).double()
    rows = [
        formula(row.tolist(), 0.7, *((-3, 4) if weight < 0 else (-4, 3)))
        for row, weight in zip(x.detach(), norm.weight, strict=True)
    ]
    check(learned, x, grad, torch.cat(rows, 1), 1 / math.sqrt(30 * 3))


@pytest.mark.parametrize("zero_point", [0, 3])
def test_activations_by_lsq_are_scaled_by_the_features_of_a_sample(x, grad, zero_point):
    step = torch.tensor([0.7], dtype=torch.float64)
    learned = LearnedActivations(quantizer(False, step, zero_point), learn_offset=False).double()
    want = formula(x.flatten().tolist(), 0.7, -zero_point, 7 - zero_point)
    check(learned, x, grad, want, 1 / math.sqrt(5 * 7))


def test_activations_by_lsq_plus_have_a_gradient_of_the_offset(x, grad):
    step = torch.tensor([0.5], dtype=torch.float64)
    learned = LearnedActivations(quantizer(False, step, 3), learn_offset=True).double()
    want = formula(x.flatten().tolist(), 0.5, 0, 7, offset=-1.5)
    check(learned, x, grad, want, scale := 1 / math.sqrt(5 * 7))
    torch.testing.assert_close(learned.offset.grad[0], (want[3] * grad.flatten()).sum() * scale)
    with torch.no_grad():
        learned.offset.add_(0.9)
    assert learned.fixed().zero_point.tolist() == [1]  # 0.6 / 0.5 steps, rounded


@pytest.mark.parametrize("levels", ["nonuniform", "log_sqrt2"])
def test_levels_of_shares_are_learned(levels):
    shares = ShareQuantizer(levels)
    shares.set_steps((2,), [torch.tensor([0.1, 0.3, 0.4]) if levels == "nonuniform" else torch.tensor([0.9])])
    shares.set_bits(2)
    learned, x = LearnedShares(shares), torch.rand(4, 10)
    learned(x).sum().backward()
    step = shares.step.clone().requires_grad_()
    (
        ribs.ops.fake_quantize_nonuniform(x, step)
        if levels == "nonuniform"
        else ribs.ops.fake_quantize_log_sqrt2(x, step, 2)
    ).sum().backward()
    torch.testing.assert_close(learned.step.grad, step.grad / math.sqrt(10 * 3))
    assert torch.equal(learned.fixed()(x), shares(x))


def test_half_precision_on_the_cpu_is_computed_in_float32():
    learned = LearnedActivations(quantizer(False, torch.tensor([0.5]), 0).float(), learn_offset=False)
    x = torch.rand(4, 4).bfloat16()
    y = learned(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and torch.equal(y.float(), learned(x.float()))


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_step_at_zero_or_below_is_used_at_its_floor_and_comes_back(value):
    learned = LearnedActivations(quantizer(False, torch.tensor([0.5]), 0).float(), learn_offset=False)
    x = torch.rand(4, 8)
    with torch.no_grad():
        learned.step.fill_(value)
    assert learned(x).max() == 7 * 0.5 / 1024
    optimizer = torch.optim.SGD(learned.parameters(), 1.0)
    for _ in range(20):
        optimizer.zero_grad()
        (learned(x) - x).square().sum().backward()
        optimizer.step()
    assert learned.step > 0.05


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def plain(quantizer):
    """LSQ as its re-implementations write it, in eager operators of torch."""
    qmin, qmax = code_range(quantizer.bits, quantizer.symmetric)
    zero_point = quantizer.zero_point.float()

    def forward(x):
        features = x.numel() if quantizer.symmetric else x[0].numel()
        scale = 1 / math.sqrt(features * qmax)
        step = (quantizer.step - quantizer.step * scale).detach() + quantizer.step * scale
        return (Rounded.apply(torch.clamp(x / step, qmin - zero_point, qmax - zero_point))) * step

    return forward


def test_curves_are_those_of_eager_torch():
    twin = ribs.qat.prepare(network(), loader(), 4)
    ours = copy.deepcopy(twin)
    for layer in twin.modules():
        if isinstance(layer, QuantizedLayer):
            layer.weight_quantizer.forward = plain(layer.weight_quantizer)
            layer.input_quantizer.forward = plain(layer.input_quantizer)
    curves = [train(each, 15) for each in (ours, twin)]
    torch.testing.assert_close(*curves, rtol=1e-4, atol=0)
    assert curves[0][-1] < 0.9 * curves[0][0]


def train(model, steps):
    optimizer = torch.optim.SGD(ribs.qat.parameter_groups(model, lr=0.05, step_lr=0.01), momentum=0.9)
    x, labels = torch.cat(loader()), torch.arange(24) % 5
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)
