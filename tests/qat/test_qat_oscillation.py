"""Dampening and freezing of weights, against the paper's definitions written as loops."""

import pytest
import torch
from torch import nn

from ribs.qat import Freezing, dampening, prepare
from small import loader, network


def normed(per_channel=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0]))
    return prepare(model, loader(), 3, per_channel=per_channel)


@pytest.mark.parametrize("per_channel", [False, True])
def test_dampening_is_the_squared_distance_to_the_rounded_value_within_the_range(per_channel):
    model = normed(per_channel)
    want = torch.zeros((), dtype=torch.float64)
    gradients = []
    for name, norm in (("0", model[1]), ("3", None)):
        layer = model.get_submodule(name)
        steps = layer.weight_quantizer.step.detach()[0].expand(len(layer.layer.weight)).tolist()
        rows = []
        for channel, (row, step) in enumerate(zip(layer.layer.weight.flatten(1).tolist(), steps, strict=True)):
            turned = norm is not None and norm.weight[channel] < 0
            low, high = (-3, 4) if turned else (-4, 3)
            for value in row:
                code = min(max(round(value / step), low), high)
                clipped = min(max(value, low * step), high * step)
                want += (code * step - clipped) ** 2
                rows.append(-2 * (code * step - clipped) if clipped == value else 0.0)
        gradients.append(torch.tensor(rows))
    loss = dampening(model)
    loss.backward()
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=0)
    for name, gradient in zip(("0", "3"), gradients, strict=True):
        found = model.get_submodule(name)
        torch.testing.assert_close(found.layer.weight.grad.flatten(), gradient, rtol=1e-4, atol=1e-5)
        assert found.weight_quantizer.step.grad is None


def test_what_oscillates_is_frozen_at_its_mean_and_nothing_else():
    model = prepare(network(), loader(), 4)
    weight, quantizer = model[5].layer.weight, model[5].weight_quantizer
    step = quantizer.present[0]
    with torch.no_grad():
        weight.copy_(step * torch.arange(360).remainder(5).sub(2).reshape(5, 72))
    rest = weight.detach().clone()
    freezing = Freezing(model, 0.1)
    frequency, direction, code = 0.0, 0, round(float(rest[0, 0] / step))
    mean, frozen_at = code, None
    for number in range(40):
        up = number % 3 == 0  # at code + 1 in a third of the steps
        with torch.no_grad():
            weight[0, 0] = rest[0, 0] + step * up
            weight[1, 1] = rest[1, 1] + step * min(number, 2)  # which goes one way only
        freezing.step()
        new = round(float(rest[0, 0] / step)) + up
        change = new - code
        frequency = 0.99 * frequency + 0.01 * (change * direction < 0)
        mean = 0.99 * mean + 0.01 * new
        direction, code = change or direction, new
        if frequency > 0.1 and frozen_at is None:
            frozen_at = number, round(mean)
            break
    assert frozen_at is not None and freezing.share == 1 / sum(
        each.numel() for each in (model[0].layer.weight, model[2].layer.weight, weight)
    )
    torch.testing.assert_close(weight[0, 0].detach(), frozen_at[1] * step)
    with torch.no_grad():
        quantizer.step.mul_(1.5)
        weight.add_(step)
    freezing.step()
    torch.testing.assert_close(weight[0, 0].detach(), frozen_at[1] * 1.5 * step, msg="it follows its step")
    torch.testing.assert_close(weight[2].detach(), rest[2] + step)


def test_freezing_goes_on_from_its_state_and_refuses_no_frequency():
    model = prepare(network(), loader(), 4)
    first = Freezing(model, 0.001)
    for _ in range(3):
        with torch.no_grad():
            model[5].layer.weight.mul_(-1)
        first.step()
    assert 0 < first.share < 1
    second = Freezing(model, 0.001)
    second.load_state_dict(first.state_dict())
    assert second.share == first.share
    with pytest.raises(ValueError, match="threshold=0 is not supported"):
        Freezing(model, 0)
