"""Rivals in training against the formulas of their papers."""

import functools
import math

import pytest
import torch
from torch import nn

import ribs
from ribs.qat import Training
from ribs.qat.objective import Objective
from ribs.qat.rivals.learned_bits import learn_bits, loss_between, trainable
from ribs.qat.rivals.nipq import Noise, noisy
from ribs.qat.rivals.pact import ClippedActivations
from ribs.quant.inputs import Inputs
from ribs.quant.quantizer import FakeQuantizer, code_range
from ribs.select.rivals.fracbits import between
from ribs.select.rivals.relaxed import relaxed
from small import loader, network

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """The state of accelerate is that of the process."""
    yield
    accelerate.state.AcceleratorState._reset_state(True)


def quantizer(step, zero_point, bits=3):
    made = FakeQuantizer(symmetric=False)
    made.set_steps((bits,), torch.tensor([step]).double(), torch.tensor([zero_point], dtype=torch.int32))
    made.set_bits(bits)
    return made


def test_pact_is_its_formula():
    """Equations 1 and 2 by autograd: y = (|x| - |x - alpha| + alpha) / 2, rounded straight through."""
    x = torch.randn(40, dtype=torch.float64).mul(3).requires_grad_()
    grad = torch.randn(40, dtype=torch.float64)
    learned = ClippedActivations(quantizer(0.5, 0)).double()
    y = learned(x)
    (y * grad).sum().backward()
    twin, alpha = x.detach().clone().requires_grad_(), torch.tensor(3.5, dtype=torch.float64, requires_grad=True)
    clipped = (twin.abs() - (twin - alpha).abs() + alpha) / 2
    want = clipped + ((clipped * 7 / alpha).round() * alpha / 7 - clipped).detach()
    (want * grad).sum().backward()
    torch.testing.assert_close(y, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-12, atol=0)
    torch.testing.assert_close(learned.step.grad, alpha.grad[None] / 7, rtol=1e-12, atol=0)
    with torch.no_grad():  # so that a step of gradient descent moves alpha as in the paper
        moved = 7 * (learned.step - 0.1 * learned.step.grad)
    torch.testing.assert_close(moved[0], alpha.detach() - 0.1 * alpha.grad, rtol=1e-12, atol=0)


def test_pact_clips_on_both_sides_where_values_are_below_zero():
    learned = ClippedActivations(quantizer(0.5, 3)).double()  # values -1.5..2
    x = torch.tensor([-5.0, -1.0, 0.7, 1.9, 2.0, 6.0], dtype=torch.float64)
    learned(x).sum().backward()
    want = (-3 + 4 + 4) / 49  # of -5, 2 and 6
    torch.testing.assert_close(learned.step.grad, torch.tensor([want], dtype=torch.float64))


def test_pact_trains_and_only_its_clipping_values_decay():
    model = network()
    made = ribs.qat.prepare(model, loader(), 4, method="pact")
    groups = ribs.qat.parameter_groups(made, lr=0.05, step_lr=0.01, weight_decay=0.1)
    of_alpha = {id(each.step) for each in made.modules() if isinstance(each, ClippedActivations)}
    assert {id(each) for each in groups[-1]["params"]} == of_alpha
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0, 0.1]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    x, labels = torch.cat(loader()), torch.arange(24) % 5
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(made(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    result, trained = ribs.qat.finish(made, model, loader()), made.eval()
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), trained(x), rtol=1e-4, atol=1e-4)


def labelled():
    return [(x, torch.arange(len(x)) % 5) for x in loader()]


def straight(x, bits, quantizer, axis_steps):
    """Rounded with the steps of a quantizer, straight through within the range, in double."""
    index = quantizer.choices.index(bits)
    step, zero = quantizer.step[index].double(), quantizer.zero_point[index].double()
    if axis_steps:
        step, zero = step[:, None], zero[:, None]
    low, high = code_range(bits, quantizer.symmetric)
    clipped = torch.clamp(x / step, low - zero, high - zero) * step
    return clipped + ((clipped / step).round() * step - clipped).detach()


def test_fracbits_is_its_formula():
    """The loss between candidates, and its gradients by bits and weights, as a twin in plain torch has them."""
    torch.manual_seed(0)
    model, x, labels = nn.Sequential(nn.Linear(6, 5)).eval(), torch.randn(16, 6), torch.arange(16) % 5
    setting = trainable(model, [(x, labels)], ribs.Budget(bops="3/3"), (2, 4, 8), 16)
    setting.network.model.double()
    positions = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)  # 0.7 of 4 bits and 0.3 of 8
    objective = Objective(Training(), None)
    x = x.double()
    within = functools.partial(relaxed, setting)
    found = loss_between(setting, positions, within, objective, Inputs((x,), {}), labels)
    found.backward()
    layer = setting.network.model[0]
    weight, bias = (each.detach().clone().requires_grad_() for each in (layer.layer.weight, layer.layer.bias))
    share = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    of_four, of_eight = (
        straight(x, bits, layer.input_quantizer, False) @ straight(weight, bits, layer.weight_quantizer, True).T + bias
        for bits in (4, 8)
    )
    over = ((1 - share) * 16 + share * 64 - 9) / 9  # of the bit operations of W3A3
    want = nn.functional.cross_entropy((1 - share) * of_four + share * of_eight, labels) + 10 * over
    want.backward()
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=0)  # cross entropy is in float32
    torch.testing.assert_close(positions.grad, share.grad[None], rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.layer.weight.grad, weight.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["fracbits", "nipq"])
def test_bits_are_learned_within_the_budget_and_the_model_stays(method):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    facts = Training(epochs=20, lr=0.01)
    bits, again = (
        learn_bits(model, labelled(), ribs.Budget(bops="4/4"), method=method, training=facts) for _ in range(2)
    )
    assert bits == again
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    made, uniform = (ribs.quantize(model, loader(), each, progress=False) for each in (bits, 4))
    assert 0.8 * uniform.bops < made.bops <= uniform.bops
    ribs.qat.prepare(model, loader(), bits)


def test_noise_is_as_wide_as_a_step_and_has_its_gradients():
    """The derivatives of clip(x) + e (high - low) / (2^b - 1), by hand; e has the error of rounding."""
    x = torch.linspace(-2.01, 2.98, 101, dtype=torch.float64).requires_grad_()
    low, high, bits = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-1.0, 1.5, 2.6))
    torch.manual_seed(3)
    y = noisy(x, low, high, bits)
    y.sum().backward()
    torch.manual_seed(3)
    noise, levels = torch.rand(101, dtype=torch.float64) - 0.5, 2**2.6 - 1
    inside = ((x >= -1) & (x <= 1.5)).double()
    torch.testing.assert_close(y, x.clamp(-1, 1.5) + noise * 2.5 / levels)
    torch.testing.assert_close(x.grad, inside)
    torch.testing.assert_close(high.grad, (x > 1.5).double().sum() + noise.sum() / levels)
    torch.testing.assert_close(low.grad, (x < -1).double().sum() - noise.sum() / levels)
    torch.testing.assert_close(bits.grad, -(noise * 2.5 * math.log(2) * 2**2.6 / levels**2).sum())
    values = torch.rand(20000) * 1.5
    rounded = ribs.ops.fake_quantize(values, torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), 0, 15)
    found = noisy(values, torch.tensor(0.0), torch.tensor(1.5), torch.tensor(4.0)) - values
    assert found.square().mean().item() == pytest.approx((rounded - values).square().mean().item(), rel=0.05)


def test_noise_takes_the_mean_bits_of_its_unit_and_leaves_the_quantizers():
    setting = trainable(network(), labelled(), ribs.Budget(bops="4/4"), (2, 4, 8), 16)
    noise, layer = Noise(setting), setting.network.model[0]
    x = loader()[0]
    positions = torch.tensor([0.25, 2.0, 2.0], dtype=torch.float64, requires_grad=True)  # 2.5 bits and 8
    with noise.within(between(setting, positions)):
        torch.manual_seed(0)
        found = layer.input_quantizer(x)
    step, zero_point = layer.input_quantizer.step[2], layer.input_quantizer.zero_point[2]  # of 8 bits
    low, high = (0 - zero_point) * step, (255 - zero_point) * step
    torch.manual_seed(0)
    torch.testing.assert_close(found, noisy(x, low, high, torch.tensor(2.5)))
    found.square().mean().backward()
    assert positions.grad[0] < 0 and noise.parameters[1].grad is not None
    layer.input_quantizer.set_bits(4)
    assert len(layer.input_quantizer(x).unique()) <= 16


def test_learn_bits_refuses_a_loader_without_labels_and_rates_that_diverge():
    with pytest.raises(ValueError, match=r"method='lsq' is not supported; give one of \('fracbits', 'nipq'\)"):
        learn_bits(network(), labelled(), ribs.Budget(bops="4/4"), method="lsq")
    with pytest.raises(ValueError, match="yields no labels"):
        learn_bits(network(), loader(), ribs.Budget(bops="4/4"))
    with pytest.raises(ValueError, match=r"\[learn_bits\] the loss is (nan|inf) in epoch \d"):
        learn_bits(network(), labelled(), ribs.Budget(bops="4/4"), training=Training(epochs=9, lr=1e30))
