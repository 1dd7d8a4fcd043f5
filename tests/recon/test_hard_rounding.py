"""What is learned becomes weights that their quantizer keeps, and on a small layer the best there are."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

import ribs
from ribs import ops
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.quant.quantizer import code_range
from ribs.recon.run import Reconstruction
from ribs.recon.soft import SoftRounding
from ribs.select.loss import kl_divergence, measure


def linear(inputs=9, outputs=1, bits=3, seed=0, scale=1.0):
    """A quantized linear layer and its calibration inputs, which are correlated."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, outputs)).eval()
    model[0].weight.data = torch.randn(outputs, inputs, generator=generator) * scale
    common = torch.randn(256, 1, generator=generator)
    x = Inputs((torch.randn(256, inputs, generator=generator) + 2 * common,), {})
    network = prepare(model, x)
    calibrate(network, [x], [bits])
    network.configure({"0": (bits, 32)})
    return network, x


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30], ids=str)
def test_rounded_weights_are_values_of_their_quantizer_at_every_bit_width(bits, scale):
    layer = linear(300, 20, bits, scale=scale)[0].model[0]
    weight, quantizer = layer.weight.clone(), layer.weight_quantizer
    rounding = SoftRounding(layer)
    rounding.alpha.data = torch.randn_like(rounding.alpha)
    rounding.finish()
    step, (qmin, qmax) = quantizer.present[0][:, None], code_range(bits, True)
    code = ((weight / step).floor() + (rounding.alpha >= 0)).clamp(qmin, qmax)
    assert torch.equal(layer.weight, code * step)
    assert torch.equal(quantizer(layer.weight), layer.weight)
    assert torch.equal(layer.quantized_weight(), layer.weight)
    assert torch.equal(quantizer.codes(layer.weight).float(), code)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_start_is_nearest_rounding(bits):
    layer = linear(300, 20, bits)[0].model[0]
    nearest = layer.weight_quantizer(layer.weight)
    SoftRounding(layer).finish()
    assert torch.equal(layer.weight, nearest)


def squared_error(network, x, weight, codes):
    layer = network.model[0]
    y = x.args[0].double() @ (weight - codes * layer.weight_quantizer.present[0][:, None]).double().T
    return float(y.square().mean())


@pytest.mark.parametrize("seed", [0, 1, 4])  # in which rounding to nearest is not the best
def test_adaround_finds_the_best_of_all_roundings_of_a_neuron(seed):
    network, x = linear(seed=seed)
    layer = network.model[0]
    weight, step = layer.weight.clone(), layer.weight_quantizer.present[0][:, None]
    low = (weight / step).floor()
    choices = [(low + torch.tensor([up])).clamp(-4, 3) for up in itertools.product((0.0, 1.0), repeat=9)]
    errors = sorted(squared_error(network, x, weight, codes) for codes in choices)
    nearest = squared_error(network, x, weight, layer.weight_quantizer.codes(weight))
    method = ribs.AdaRound(iterations=600, weight_lr=0.05, batch_size=256, penalty=0.1)
    Reconstruction(network.model, network.trace.layers, [x], method, loss=partial(measure, kl_divergence)).run()
    found = squared_error(network, x, weight, layer.weight_quantizer.codes(layer.weight))
    assert found == pytest.approx(errors[0], rel=1e-6)
    assert found < nearest


def test_codes_of_the_model_are_those_of_the_reconstruction():
    network, x = linear(12, 5, 4)
    weight = network.model[0].weight.clone()
    method = ribs.AdaRound(iterations=200, weight_lr=0.05)
    Reconstruction(network.model, network.trace.layers, [x], method, loss=partial(measure, kl_divergence)).run()
    layer = network.model[0]
    codes = layer.weight_quantizer.codes(layer.weight)
    step, zero_point = layer.weight_quantizer.present
    assert not torch.equal(codes, ops.quantize(weight, step, zero_point, -8, 7, 0))
    assert ((codes - weight / step[:, None]).abs() < 1 + 1e-5).all()  # each is a neighbour
