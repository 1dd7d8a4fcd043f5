"""One step after layer norms: the float function stays, every activation keeps its code, only weights round anew."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.quant.recipe import RECIPES
from ribs.quant.reparameterize import reparameterize, scale_norms


class Net(nn.Module):
    """Channels of very different size after a layer norm, read by two linears."""

    def __init__(self, affine=True, bias=True):
        super().__init__()
        self.norm = nn.LayerNorm(8, elementwise_affine=affine, bias=bias)
        self.left, self.right = nn.Linear(8, 6, bias=bias), nn.Linear(8, 6)
        self.head = nn.Linear(6, 5)
        with torch.no_grad():
            if affine:
                self.norm.weight.copy_(torch.logspace(-1, 0.5, 8))
            if affine and bias:
                self.norm.bias.copy_(torch.linspace(-3, 3, 8))

    def forward(self, x):
        y = self.norm(x)
        return self.head(torch.tanh(self.left(y)) * self.right(y))


class Functional(nn.Module):
    """What reads a layer norm is no call of a layer."""

    def __init__(self, products):
        super().__init__()
        if "other" in products.__code__.co_names:
            self.other = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.table, self.bias, self.products = (
            nn.Parameter(torch.randn(16, 8) / 4),
            nn.Parameter(torch.randn(8)),
            products,
        )
        with torch.no_grad():
            self.norm.weight.copy_(torch.logspace(-1, 0.5, 8))
            self.norm.bias.copy_(torch.linspace(-3, 3, 8))

    def forward(self, x):
        return self.products(self, self.norm(x)) * 2


FUNCTIONAL = {
    "as BEiT": lambda m, y: F.linear(y, m.other.weight, torch.cat([m.bias[:3], m.table[0, 3:]])),
    "no bias": lambda m, y: F.linear(y, m.other.weight),
    "sliced": lambda m, y: F.linear(y, m.table[:8], m.bias) * F.linear(y, m.table[8:]),
    "transposed": lambda m, y: y @ m.table[8:].T,
    "as GPT-2": lambda m, y: torch.addmm(m.bias, y, m.table[:8]),
    "computed": lambda m, y: F.linear(y, m.table[:8] / m.table[:8].norm(dim=1, keepdim=True)),
    "read otherwise too": lambda m, y: m.other(y) * m.other.weight.abs().sum() + m.other.weight.sum(0),
}


def calibrated(model, recipe="repq+", choices=(2, 3, 4, 8)):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    batches = [Inputs((part,), {}) for part in x.split(32)]
    network = prepare(model.eval(), batches[0], "layer", recipe=recipe)
    calibrate(network, batches, choices)
    return network, batches, x


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, True)])
@torch.no_grad()
def test_the_float_function_and_the_codes_of_activations_stay(affine, bias):
    torch.manual_seed(1)
    network, batches, x = calibrated(Net(affine, bias))
    before = network.model(x)
    only_activations = {unit.name: (32, 4) for unit in network.units}
    network.configure(only_activations)
    quantized = network.model(x)
    assert not network.model.left.input_quantizer.is_per_tensor
    assert reparameterize(network, only_activations, batches)
    assert network.model.left.input_quantizer.is_per_tensor
    assert network.model.left.input_quantizer.step.shape == (1,)
    close(network.model(x), quantized)
    network.set_float()
    close(network.model(x), before)


@pytest.mark.parametrize("products", FUNCTIONAL)
@torch.no_grad()
def test_functionals_take_the_scale_and_the_shift_too(products):
    torch.manual_seed(7)
    model = Functional(FUNCTIONAL[products]).eval()
    network, batches, x = calibrated(model)
    close(network.model(x), model(x))
    [readers] = network.trace.norms.values()
    only_activations = {unit.name: (32, 4) for unit in network.units}
    network.configure(only_activations)
    quantized = network.model(x)
    assert (quantized - model(x)).abs().max() > 0.1
    scale_norms(network)
    close(network.model(x), quantized)
    reparameterize(network, only_activations, batches)
    assert all(network.model.get_submodule(name).input_quantizer.is_per_tensor for name in readers)
    close(network.model(x), quantized)
    network.set_float()
    close(network.model(x), model(x))
    assert not torch.equal(network.model.norm.weight, model.norm.weight)


@pytest.mark.parametrize("products", [*FUNCTIONAL, "layer"])
@torch.no_grad()
def test_where_no_column_rounds_anew_the_output_at_the_chosen_bits_stays_too(products):
    """The shift is taken back as the rounded weights multiply it; those of "repq" have their float product."""
    torch.manual_seed(8)
    model = Functional(FUNCTIONAL[products]) if products != "layer" else nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.bias.copy_(torch.linspace(-3, 3, 8))
    off = {}
    for recipe in ("repq", "repq+"):
        network, batches, x = calibrated(model, recipe)
        scale_norms(network)
        bits = {unit.name: (3, 3) for unit in network.units}
        network.configure(bits)
        before = network.model(x)
        reparameterize(network, bits, batches)
        off[recipe] = ((network.model(x) - before).norm() / before.norm()).item()
    assert off["repq+"] < 1e-5 < 0.01 < off["repq"]


@torch.no_grad()
def test_readers_of_other_bits_get_steps_of_their_own_for_the_scaled_input():
    torch.manual_seed(2)
    network, batches, x = calibrated(Net())
    before = network.model(x)
    bits = {"left": (32, 3), "right": (32, 8), "head": (32, 8)}
    reparameterize(network, bits, batches)
    left, right = network.model.left.input_quantizer, network.model.right.input_quantizer
    assert (left.bits, right.bits) == (3, 8)
    y = network.model.norm(x)
    fine = (right(y) - y).square().mean() / y.square().mean()
    assert fine < 1e-3 < (left(y) - y).square().mean() / y.square().mean()
    network.set_float()
    close(network.model(x), before)


@torch.no_grad()
def test_readers_in_float_alone_leave_everything_as_it_is():
    torch.manual_seed(3)
    network, batches, x = calibrated(Net())
    before = copy.deepcopy(network.model.state_dict())
    reparameterize(network, {"left": (4, 32), "right": (4, 32), "head": (4, 4)}, batches)
    after = network.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    bits = {"left": (32, 32), "right": (32, 4), "head": (32, 32)}
    reparameterize(network, bits, batches)
    network.set_float()
    torch.manual_seed(3)
    reference, _, _ = calibrated(Net())
    close(network.model(x), reference.model(x))


@torch.no_grad()
def test_dead_channels_have_no_part_in_the_mean_step():
    torch.manual_seed(4)
    model = Net()
    model.norm.weight[2] = model.norm.bias[2] = 0.0
    network, batches, x = calibrated(model)
    live = [channel for channel in range(8) if channel != 2]
    network.configure({unit.name: (32, 4) for unit in network.units})
    step = network.model.left.input_quantizer.present[0]
    before = network.model(x)
    assert step[2] == 1
    reparameterize(network, {unit.name: (32, 4) for unit in network.units}, batches)
    torch.testing.assert_close(network.model.left.input_quantizer.step, step[live].mean().reshape(1))
    close(network.model(x), before)


@torch.no_grad()
def test_one_step_by_channel_beats_one_for_all_at_4_bits():
    errors = {}
    for recipe, seed in itertools.product(RECIPES, range(4)):
        torch.manual_seed(seed)
        network, batches, x = calibrated(Net(), recipe)
        before = network.model(x)
        reparameterize(network, {unit.name: (8, 4) for unit in network.units}, batches)
        errors[recipe] = errors.get(recipe, 0) + (network.model(x) - before).square().mean().item()
    assert errors["repq+"] < errors["mse"] < errors["minmax"]
    assert errors["repq"] < errors["minmax"]


@torch.no_grad()
def test_scaled_before_the_network_is_what_it_is_in_the_end():
    off = {}
    for scaled in (False, True):
        torch.manual_seed(5)
        network, batches, x = calibrated(Net())
        before = network.model(x)
        only_activations, all_bits = ({unit.name: bits for unit in network.units} for bits in ((32, 4), (3, 4)))
        network.configure(only_activations)
        quantized = network.model(x)
        if scaled:
            scale_norms(network)
            close(network.model(x), quantized)
            network.set_float()
            close(network.model(x), before)
        network.configure(all_bits)
        weights = network.model.left.quantized_weight().double()
        reparameterize(network, all_bits, batches)
        now = network.model.left.quantized_weight().double()
        # A column may be another only by the scale of its channel, the same for all weights where there is none left.
        off[scaled] = (now / now.norm() - weights / weights.norm()).square().sum().item()
    assert off[True] < 0.1 * off[False]


def test_other_recipes_and_networks_without_layer_norms_need_no_change():
    network, batches, _ = calibrated(Net(), "mse")
    assert not reparameterize(network, {unit.name: (4, 4) for unit in network.units}, batches)
    network, batches, _ = calibrated(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4)), "repq+")
    assert not reparameterize(network, {unit.name: (4, 4) for unit in network.units}, batches)
