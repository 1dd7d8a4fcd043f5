import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ribs import ops
from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.network import calibrate, prepare


def by_hand(x, choices, bits, *, symmetric, axis=None):
    """The fake quantization of a tensor with its own optimal step, in float64 torch."""
    found = ops.search_steps(x, choices, symmetric=symmetric, axis=axis)
    index = choices.index(bits)
    step, zero = found.step[index].double(), found.zero_point[index].double()
    if axis is not None:
        shape = [-1 if dimension == axis else 1 for dimension in range(x.dim())]
        step, zero = step.reshape(shape), zero.reshape(shape)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    # The quotient is float32's: in double, a value within rounding of a tie could go the other way.
    codes = (torch.round(x / step.float()).double() + zero).clamp(low, high)
    return (codes - zero) * step


LAYERS = [
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 6), 0),
    (nn.Conv1d(3, 4, 3), (3, 9), 0),
    (nn.Conv2d(4, 4, 3, groups=4), (4, 6, 6), 0),
    (nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 5, 5), 1),
    (nn.Linear(6, 5), (2, 6), 0),
]


@pytest.mark.parametrize(("layer", "shape", "axis"), LAYERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("bits", [(2, 4), (8, 3), (32, 4), (3, 32)], ids=str)
def test_quantized_layer_against_hand_made_quantization(layer, shape, axis, bits):
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    network = prepare(nn.Sequential(copy.deepcopy(layer)).eval(), Inputs((x,), {}))
    choices = sorted(set(bits) - {32})
    calibrate(network, [Inputs((x,), {})], choices)
    network.configure({"0": bits})
    weight = layer.weight.detach()
    expected = copy.deepcopy(layer).double()
    if bits[0] != 32:
        expected.weight.data = by_hand(weight, choices, bits[0], symmetric=True, axis=axis)
    activation = x.double() if bits[1] == 32 else by_hand(x, choices, bits[1], symmetric=False)
    torch.testing.assert_close(network.model(x).double(), expected(activation), rtol=1e-4, atol=1e-5)


def test_attributes_of_the_float_layer_are_found():
    layer = QuantizedLayer(nn.Linear(6, 5))
    assert (layer.in_features, layer.weight.shape) == (6, (5, 6))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = layer.nothing


def test_weights_are_quantized_anew_when_they_or_the_bits_change():
    x = torch.randn(4, 6)
    network = prepare(nn.Sequential(nn.Linear(6, 5)).eval(), Inputs((x,), {}))
    calibrate(network, [Inputs((x,), {})], [2, 8])
    layer = network.model.get_submodule("0")
    with torch.no_grad():
        network.configure({"0": (8, 32)})
        first = layer.quantized_weight()
        assert layer.quantized_weight() is first
        network.configure({"0": (2, 32)})
        assert len(layer.quantized_weight()[0].unique()) <= 4
        network.configure({"0": (8, 32)})
        layer.layer.weight.mul_(0.5)
        assert not torch.equal(layer.quantized_weight(), first)


def test_bits_without_a_step_are_refused():
    network = prepare(nn.Sequential(nn.Linear(6, 5)).eval(), Inputs((torch.randn(4, 6),), {}))
    with pytest.raises(ValueError, match="bits=4 has no step"):
        network.configure({"0": (4, 4)})


class Heads(nn.Module):
    """Attention in each of its forms."""

    def __init__(self, call):
        super().__init__()
        self.qkv, self.call = nn.Linear(8, 24), call

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.call(q, k, v)


MASK = torch.randn(5, 5)
FORMS = {
    "plain": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
    "scaled": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.2),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "added mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=MASK.to(q.device)),
    "true-false mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=MASK.to(q.device) > -1),
    "by name": lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v),
    "grouped": lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
    "operators": lambda q, k, v: torch.matmul((q @ k.transpose(-2, -1)).softmax(-1), other=v),
    "bmm": lambda q, k, v: torch.bmm(torch.bmm(q[:, 0], k[:, 0].mT).softmax(-1), v[:, 0]),
}


@pytest.mark.parametrize("form", FORMS)
def test_matmuls_come_under_quantizers_and_the_float_function_stays(form):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    model = Heads(FORMS[form]).eval()
    network = prepare(model, Inputs((x,), {}), "layer")
    assert [unit.name for unit in network.units] == ["qkv", "matmul0", "matmul1"]
    with torch.no_grad():
        torch.testing.assert_close(network.model(x), model(x))
        calibrate(network, [Inputs((x,), {})], [2, 8])
        network.configure({"qkv": (32, 32), "matmul0": (8, 8), "matmul1": (32, 32)})
        fine = (network.model(x) - model(x)).abs().max()
        network.configure({"qkv": (32, 32), "matmul0": (2, 2), "matmul1": (2, 2)})
        coarse = (network.model(x) - model(x)).abs().max()
    assert 0 < fine < 0.02 < coarse


def test_fused_and_open_attention_of_timm_give_the_same_quantized_network():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10).eval()
    outputs = []
    for fused in (True, False):
        for block in model.blocks:
            block.attn.fused_attn = fused
        network = prepare(model, Inputs((x,), {}))
        calibrate(network, [Inputs((x,), {})], [4])
        network.configure({unit.name: (4, 4) for unit in network.units})
        with torch.no_grad():
            outputs.append(network.model(x))
    # Scaling q before or after the product rounds differently, which now and then moves a code.
    assert (outputs[0] - outputs[1]).abs().mean() < 0.2 * outputs[0].std()


class Nested(nn.Module):
    """A module that multiplies, around another that does."""

    def __init__(self):
        super().__init__()
        self.inner = Heads(FORMS["operators"])

    def forward(self, x):
        y = self.inner(x).flatten(1)
        return y @ y.mT


def test_a_matmul_belongs_to_the_innermost_module():
    x = torch.randn(3, 5, 8)
    network = prepare(Nested().eval(), Inputs((x,), {}), "layer")
    assert [unit.name for unit in network.units] == ["inner.qkv", "inner.matmul0", "inner.matmul1", "matmul0"]
    calibrate(network, [Inputs((x,), {})], [8])


class Fails(Heads):
    """Multiplies otherwise, or fails, when told to."""

    def __init__(self):
        super().__init__(self.attend)
        self.then = lambda q, k, v: v

    def attend(self, q, k, v):
        return self.then(q @ k.transpose(-2, -1), k, v)


def test_an_exception_in_the_forward_leaves_nothing_behind():
    def boom(*_):
        raise KeyError("boom")

    x = torch.randn(4, 4)
    network = prepare(Fails().eval(), Inputs((torch.randn(1, 5, 8),), {})).model
    network.call.__self__.then = boom
    for _ in range(2):
        with pytest.raises(KeyError):
            network(torch.randn(1, 5, 8))
        assert torch.equal(x @ x, torch.mm(x, x))


def test_more_matmuls_than_traced_are_an_error():
    network = prepare(Fails().eval(), Inputs((torch.randn(1, 5, 8),), {})).model
    network.call.__self__.then = lambda weights, k, v: weights @ v
    with pytest.raises(RuntimeError, match="product 1 in the forward of the model is not there, or is another"):
        network(torch.randn(1, 5, 8))


def test_held_weights_take_the_place_of_all_others():
    """Those of the layer are still there for whoever reads them, and no product of integers is made of them."""
    torch.manual_seed(0)
    network = prepare(nn.Sequential(nn.Linear(4, 3)).eval(), Inputs((torch.randn(2, 4),), {}))
    calibrate(network, [Inputs((torch.randn(2, 4),), {})], [8])
    network.configure({"0": (8, 8)})
    layer, x = network.model[0], torch.randn(5, 4)
    assert network.integer_layers() == (("0",), ())
    before, held = layer.weight, torch.randn(3, 4)
    layer.hold(held)
    want = F.linear(layer.input_quantizer(x), layer.weight_quantizer(held), layer.bias)
    assert torch.equal(network.model(x), want)
    assert layer.weight is before and torch.equal(layer.multiplied, held)
    assert network.integer_layers() == ((), ("0",))
    assert not layer.has_own_weight
