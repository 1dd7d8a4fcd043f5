"""Layers in integers against the float64 product of their fake-quantized operands."""

import copy

import pytest
import torch
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.quant.quantizer import code_range
from vnni import NEEDS_VNNI

CHOICES = list(range(1, 9))
LAYERS = {
    "conv": (nn.Conv2d(16, 24, 3, padding=1), (16, 9, 8)),
    "no_bias": (nn.Conv2d(16, 24, 3, padding=(0, 2), bias=False), (16, 9, 8)),
    "strides": (nn.Conv2d(3, 10, (7, 5), stride=(2, 3), padding=(3, 1)), (3, 21, 20)),
    "pointwise": (nn.Conv2d(33, 7, 1, stride=2), (33, 6, 6)),
    "dilation": (nn.Conv2d(8, 8, 3, padding=2, dilation=(2, 3)), (8, 12, 11)),
    "groups": (nn.Conv2d(12, 18, 3, padding=1, groups=3), (12, 7, 7)),
    "depthwise": (nn.Conv2d(32, 32, 3, padding=1, groups=32), (32, 8, 8)),
    "depthwise_more": (nn.Conv2d(5, 10, 5, padding=2, stride=2, groups=5), (5, 9, 9)),
    "same": (nn.Conv2d(4, 6, 5, padding="same", dilation=(1, 2)), (4, 9, 9)),
    "valid": (nn.Conv2d(4, 6, 2, padding="valid"), (4, 5, 5)),
    "one_pixel": (nn.Conv2d(20, 9, 1), (20, 1, 1)),
    "one_channel": (nn.Conv2d(1, 9, 3, padding=1), (1, 5, 5)),
    "long": (nn.Conv2d(512, 3, 3, padding=1), (512, 3, 3)),
    "linear": (nn.Linear(50, 33), (50,)),
    "linear_3d": (nn.Linear(48, 7, bias=False), (5, 48)),
    "linear_4d": (nn.Linear(6, 70), (3, 2, 6)),
    "linear_long": (nn.Linear(5000, 3), (5000,)),
}


def quantized(layer, x):
    network = prepare(nn.Sequential(copy.deepcopy(layer)).eval(), Inputs((x,), {}))
    calibrate(network, [Inputs((x,), {})], CHOICES)
    return network


def exact(layer, quantizers, x):
    """The layer in float64 on what quantization makes of x and of the weights."""
    weight_quantizer, input_quantizer = quantizers
    wide = copy.deepcopy(layer).double()
    wide.weight.data = by_codes(layer.weight, weight_quantizer, 0)
    return wide(by_codes(x, input_quantizer, None))


def by_codes(x, quantizer, axis):
    step, zero_point = quantizer.present
    if axis is not None:
        step, zero_point = (each.reshape(-1, *[1] * (x.dim() - 1)) for each in (step, zero_point))
    codes = ((x / step).round().double() + zero_point).clamp(*code_range(quantizer.bits, quantizer.symmetric))
    return (codes - zero_point) * step.double()


def check(network, layer, x, bits):
    network.configure({"0": bits})
    assert network.integer_layers() == (("0",), ())
    own = network.model.get_submodule("0")
    with torch.no_grad():
        want = exact(layer, (own.weight_quantizer, own.input_quantizer), x)
        plain = network.model(x)
        with network.integer_execution():
            found = network.model(x)
        assert found.shape == plain.shape and found.dtype == torch.float32
        assert (found - want).abs().max() <= 1e-6 * want.abs().max()
        assert torch.equal(network.model(x), plain)


@NEEDS_VNNI
@pytest.mark.parametrize("case", LAYERS)
def test_products_are_those_of_float64(case):
    layer, shape = LAYERS[case]
    for low in (0.0, -0.3, -1.0):  # of inputs: zero points from none to the middle
        x = torch.rand(3, *shape) * (1 - low) + low
        network = quantized(layer, x)
        for bits in [(b, b) for b in CHOICES] + [(8, 1), (1, 8), (4, 7), (2, 5)]:
            check(network, layer, x, bits)


@NEEDS_VNNI
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("zero_point", [0, 1, 128, 255])
def test_extreme_codes_and_zero_points(case, zero_point):
    layer, shape = copy.deepcopy(LAYERS[case][0]), LAYERS[case][1]
    x = torch.where(torch.rand(2, *shape) < 0.5, -1e3, 1e3)
    network = quantized(layer, torch.rand(2, *shape))
    own = network.model.get_submodule("0")
    layer.weight.data = torch.where(torch.rand(layer.weight.shape) < 0.5, -1e3, 1e3)
    own.layer.weight.data = layer.weight.data.clone()
    own.weight_quantizer.step.fill_(1.0)
    own.input_quantizer.step.fill_(0.37)
    own.input_quantizer.zero_point.fill_(zero_point)
    check(network, layer, x, (8, 8))


@NEEDS_VNNI
@pytest.mark.parametrize("zero_point", [-1, 256, 1000])
def test_zero_points_that_are_no_codes_stay_in_float(zero_point):
    x = torch.rand(2, 6)
    network = quantized(nn.Linear(6, 5), x)
    network.configure({"0": (8, 8)})
    network.model.get_submodule("0").input_quantizer.zero_point.fill_(zero_point)
    assert network.integer_layers() == ((), ("0",))
    with torch.no_grad():
        plain = network.model(x)
        with network.integer_execution():
            assert torch.equal(network.model(x), plain)


@NEEDS_VNNI
@pytest.mark.parametrize("form", ["channels_last", "transposed", "strided", "unbatched", "empty"])
def test_layouts_of_inputs(form):
    conv, x = nn.Conv2d(6, 8, 3, padding=1), torch.rand(4, 6, 5, 7)
    network = quantized(conv, x)
    network.configure({"0": (5, 6)})
    forms = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3),
        "strided": x[..., ::2],
        "unbatched": x[0],
        "empty": x[:0],
    }
    own = network.model.get_submodule("0")
    with torch.no_grad(), network.integer_execution():
        found = network.model(forms[form])
        want = exact(conv, (own.weight_quantizer, own.input_quantizer), forms[form])
        torch.testing.assert_close(found.double(), want, rtol=1e-6, atol=1e-6)
        assert found.dim() == 3 or len(found) == 0 or found.is_contiguous(memory_format=torch.channels_last)


class Shifted(nn.Conv2d):
    """More than a convolution."""

    def forward(self, x):
        return super().forward(x) + 1


FLOAT = {
    "reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 6)),
    "uneven": (nn.Conv2d(3, 4, 2, padding="same"), (3, 6, 6)),
    "conv1d": (nn.Conv1d(3, 4, 3), (3, 9)),
    "transposed": (nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 5, 5)),
    "subclass": (Shifted(3, 4, 3), (3, 6, 6)),
    "overflow": (nn.Linear(70_000, 2), (70_000,)),
}


@NEEDS_VNNI
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", FLOAT)
def test_what_has_no_operator_stays_in_float(case):
    layer, shape = FLOAT[case]
    x = torch.rand(2, *shape)
    network = quantized(layer, x)
    network.configure({"0": (8, 8)})
    assert network.integer_layers() == ((), ("0",))
    with torch.no_grad():
        plain = network.model(x)
        with network.integer_execution():
            assert torch.equal(network.model(x), plain)
