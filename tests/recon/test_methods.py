"""One step of each method against its loop in plain torch and double precision, written from the papers."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ribs
from ribs.ops import soft_twin
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.recon.optimise import Optimisation
from ribs.recon.soft import SoftRounding, SoftStep

BITS = (3, 4)
STEPS = 12
PENALTY = 0.3  # large, so that it shows


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.second(F.relu(self.first(x))) + x


@pytest.fixture
def data():
    """The quantized block in double precision, inputs of the quantized and of the float network, and targets."""
    block = Block().eval()
    x = torch.randn(16, 2, 5, 5)
    network = prepare(block, Inputs((x,), {}))
    calibrate(network, [Inputs((x,), {})], [3, 4])
    for unit in network.units:
        network.set_bits(unit, BITS)
    x = x.double()
    return network.model.double(), x + 0.05 * torch.randn_like(x), x, block.double()(x).detach()


def stretched(alpha):
    return (1.2 * torch.sigmoid(alpha) - 0.1).clamp(0, 1)


class Plain:
    """The optimisation of the block, as it is written down."""

    def __init__(self, model, method, phase, seeds):
        self.method, self.phase, self.seeds = method, phase, seeds
        self.weights, self.quantizers = [], []
        for layer in (model.first, model.second):
            step = layer.weight_quantizer.step[0].view(-1, 1, 1, 1)  # of 3 bits, the first choice
            weight = layer.layer.weight.detach()
            fraction = weight / step - torch.floor(weight / step)
            alpha = -torch.log(1.2 / (fraction + 0.1) - 1)
            self.weights.append((weight, step, alpha.requires_grad_(phase.rounding), layer.layer.bias))
            place = layer.input_quantizer.choices.index(4)
            zero = int(layer.input_quantizer.zero_point[place])
            step = layer.input_quantizer.step[place].clone().requires_grad_(phase.steps)
            self.quantizers.append((step, zero))
        alphas = [alpha for _, _, alpha, _ in self.weights if alpha.requires_grad]
        steps = [step for step, _ in self.quantizers if step.requires_grad]
        self.alphas = torch.optim.Adam(alphas, method.weight_lr, foreach=False) if alphas else None
        self.steps = torch.optim.Adam(steps, method.step_lr, foreach=False) if steps else None

    def layer(self, number, x, padding):
        weight, step, alpha, bias = self.weights[number]
        if self.phase.activations:
            x = self.activation(number, x)
        if self.phase.rounding:
            weight = step * (torch.floor(weight / step) + stretched(alpha)).clamp(-4, 3)
        else:
            weight = step * (weight / step).round().clamp(-4, 3)
        return F.conv2d(x, weight, bias, padding=padding)

    def activation(self, number, x):
        step, zero = self.quantizers[number]
        scale = 1 / math.sqrt(x.numel() * 15)
        step = step * scale + (step - step * scale).detach()
        u = (x / step).clamp(-zero, 15 - zero)
        values = (u + (u.round() - u).detach()) * step
        if self.phase.keep == 1:
            return values
        self.seeds[number] += 1
        return torch.where(soft_twin.kept(x, self.phase.keep, self.seeds[number]), values, x)

    def step(self, iteration, x, target):
        output = self.layer(1, F.relu(self.layer(0, x, 1)), 0) + x
        error = ((output - target).abs() ** self.phase.power).sum(1).mean()
        loss, share = error, iteration / self.method.iterations
        if self.phase.rounding and share >= self.method.warm_up:
            beta = 20 - 18 * (share - self.method.warm_up) / (1 - self.method.warm_up)
            for _, _, alpha, _ in self.weights:
                loss = loss + self.method.penalty * (1 - (2 * stretched(alpha) - 1).abs() ** beta).sum()
        if self.steps:
            rate = self.method.step_lr * (1 + math.cos(math.pi * iteration / self.phase.iterations)) / 2
            self.steps.param_groups[0]["lr"] = rate
        for optimizer in filter(None, (self.alphas, self.steps)):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in filter(None, (self.alphas, self.steps)):
            optimizer.step()
        return error.detach()


METHODS = {
    "adaround": (ribs.AdaRound(iterations=STEPS, weight_lr=0.05, penalty=PENALTY), 0),
    "brecq": (ribs.BRECQ(iterations=STEPS, weight_lr=0.05, penalty=PENALTY), 0),
    "brecq_steps": (ribs.BRECQ(iterations=STEPS, activation_lr=0.01, activation_share=1), 1),
    "qdrop": (ribs.QDrop(iterations=STEPS, weight_lr=0.05, activation_lr=0.01, penalty=PENALTY), 0),
}


@pytest.mark.parametrize("name", METHODS)
def test_steps_are_those_of_plain_torch(name, data):
    model, quantized, original, target = data
    method, number = METHODS[name]
    phase = method.phases[number]
    original_model, layers = copy.deepcopy(model), (model.first, model.second)
    if not phase.activations:
        for layer in layers:
            layer.set_bits(3, 32)
    generator = torch.Generator().manual_seed(3)
    roundings = [SoftRounding(layer) for layer in layers if phase.rounding]
    steps = [SoftStep(layer.input_quantizer, phase.keep, generator) for layer in layers if phase.steps]
    plain = Plain(original_model, method, phase, [int(step.seed) for step in steps])
    found = Optimisation(method, phase, lambda args, kwargs: model(*args, **kwargs), roundings, steps)
    x = original if phase.float_inputs else quantized
    errors = []
    for iteration in range(STEPS):
        found.begin(iteration)
        found.step(((x,), {}), target)
        errors.append(float(found.error))
        assert errors[-1] == pytest.approx(float(plain.step(iteration, x, target)), rel=1e-9)
    for rounding, (_, _, alpha, _) in zip(roundings, plain.weights, strict=False):
        torch.testing.assert_close(rounding.alpha, alpha, rtol=1e-7, atol=1e-9)
    for step, (want, _) in zip(steps, plain.quantizers, strict=False):
        torch.testing.assert_close(step.step, want, rtol=1e-7, atol=1e-9)
    assert errors[-1] < errors[0] or phase.keep < 1


def test_phases_are_those_of_the_papers():
    adaround, brecq, qdrop = ribs.AdaRound(), ribs.BRECQ(), ribs.QDrop()
    assert [phase.iterations for each in (adaround, brecq, qdrop) for phase in each.phases] == [
        20000,
        20000,
        5000,
        20000,
    ]
    assert [phase.whole for each in (adaround, brecq, qdrop) for phase in each.phases] == ["layer", *["block"] * 3]
    assert [phase.activations for phase in brecq.phases] == [False, True] and not adaround.phases[0].activations
    assert qdrop.beta_at(3999) == 0 and qdrop.beta_at(4000) == 20 and qdrop.beta_at(12000) == 11


WRONG = {
    "iterations": (ribs.QDrop, {"iterations": 0}, "iterations=0 is not supported; give at least 1"),
    "keep": (ribs.QDrop, {"keep": 1.5}, "keep=1.5 is not supported; a probability"),
    "rate": (ribs.AdaRound, {"weight_lr": 0.0}, "weight_lr=0.0 is not supported; give a positive number"),
    "warm_up": (ribs.BRECQ, {"warm_up": 1.0}, "warm_up=1.0 is not supported"),
    "beta": (ribs.BRECQ, {"beta": (20, 0.5)}, "beta="),
    "power": (ribs.BRECQ, {"activation_power": 0.5}, "activation_power=0.5"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_refuses(case):
    method, facts, message = case
    with pytest.raises(ValueError, match=r"\[reconstruct\] " + message):
        method(**facts)
