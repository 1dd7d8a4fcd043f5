"""Rivals in training against the formulas of their papers."""

import torch
from torch import nn

import ribs
from ribs.qat.rivals.pact import ClippedActivations
from ribs.quant.quantizer import FakeQuantizer
from small import loader, network


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
