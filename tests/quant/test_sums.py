"""The recipe "residual": what a sum reads of a tensor that a layer has read, against forwards written by hand."""

from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.quant.quantizer import Observer
from ribs.quant.recipe import RECIPES

BITS = 3
FORMS = {
    "out += identity": lambda out, identity: out.__iadd__(identity),
    "identity += out": lambda out, identity: identity.__iadd__(out),
    "add_": lambda out, identity: identity.add_(out),
    "out + identity": lambda out, identity: out + identity,
    "by name": lambda out, identity: torch.add(other=out, input=identity),
}


class BasicBlock(nn.Module):
    """As torchvision has it, with one in-place relu."""

    def __init__(self, form, wider=0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4 + wider, 3, padding=1, bias=False), nn.BatchNorm2d(4 + wider)
        self.conv2, self.bn2 = nn.Conv2d(4 + wider, 4 + wider, 3, padding=1, bias=False), nn.BatchNorm2d(4 + wider)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4 + wider, 1), nn.BatchNorm2d(4 + wider)) if wider else None
        self.form = form

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(FORMS[self.form](out, identity))


class Residual(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem, self.block, self.after = nn.Conv2d(3, 4, 3), block, nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.after(self.block(self.stem(x).clamp(min=-0.5)))


def quantized(make, recipe="residual"):
    """The network at bits that are few enough to be seen, and a batch."""
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    inputs = Inputs((torch.randn(4, 3, 9, 9),), {})
    network = prepare(model, inputs, "layer", recipe=recipe)
    calibrate(network, [inputs], (BITS,))
    network.configure({unit.name: (BITS, BITS) for unit in network.units})
    return network, inputs.args[0]


def rounded(x, layer):
    """x as the input of a layer, by the definition of its codes."""
    quantizer = layer.input_quantizer
    codes = ((x / quantizer.step[0]).round() + quantizer.zero_point[0]).clamp(0, 2**BITS - 1)
    return (codes - quantizer.zero_point[0]) * quantizer.step[0]


def multiplied(x, layer):
    """What a layer gives for what it gets as it is."""
    weight = layer.quantized_weight()
    if isinstance(layer.layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_both_paths_of_a_block_read_what_one_quantizer_gives(form):
    network, x = quantized(lambda: Residual(BasicBlock(form)))
    model, block = network.model, network.model.block
    entered = rounded(multiplied(rounded(x, model.stem), model.stem).clamp(min=-0.5), block.conv1)
    out = multiplied(entered, block.conv1).relu()
    out = multiplied(rounded(out, block.conv2), block.conv2)
    expected = multiplied(rounded((out + entered).relu(), model.after), model.after)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(quantized(lambda: Residual(BasicBlock(form)), "mse")[0].model(x), expected, atol=1e-3)


@torch.no_grad()
def test_a_block_of_mobilenet():
    network, x = quantized(lambda: Residual(InvertedResidual(4, 4, exp_ratio=2.0)))
    model, block = network.model, network.model.block
    entered = rounded(multiplied(rounded(x, model.stem), model.stem).clamp(min=-0.5), block.conv_pw)
    out = multiplied(entered, block.conv_pw).relu()
    out = multiplied(rounded(out, block.conv_dw), block.conv_dw).relu()
    out = multiplied(rounded(out, block.conv_pwl), block.conv_pwl)
    expected = multiplied(rounded(out + entered, model.after), model.after)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_quantizers_and_their_steps_are_those_of_mse(pooled, monkeypatch):
    """A quantizer that rounds for a layer and a sum finds its steps from what it sees once."""
    states, seen = [], Counter()
    update = Observer.update
    monkeypatch.setattr(Observer, "update", lambda self, x: (seen.update([self.name]), update(self, x)))
    for recipe in ("mse", "residual"):
        network, _ = quantized(lambda: Residual(BasicBlock("out += identity")), recipe)
        data = [Inputs((torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(n)),), {}) for n in range(3)]
        seen.clear()
        calibrate(network, data, (2, 5), pooled=pooled)
        assert seen == dict.fromkeys(["stem", "block.conv1", "block.conv2", "after"], 3)
        states.append(network.model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


class Kept(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 3, 3, padding=1), form

    def forward(self, x):
        x = x * 1
        out = self.conv(x)
        return FORMS[self.form](out, x), out, x


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_what_is_held_elsewhere_is_changed_in_place_too(form):
    network, x = quantized(lambda: Kept(form))
    added, out, held = network.model(x)
    entered = rounded(x, network.model.conv)
    torch.testing.assert_close(added, multiplied(entered, network.model.conv) + entered)
    assert (added is out, added is held) == (form == "out += identity", form in ("identity += out", "add_"))


class Changing(nn.Module):
    """Sums of tensors that no layer has read as they are."""

    def __init__(self):
        super().__init__()
        self.conv, self.other, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = x * 2
        early = x + 1 + x * 0.5
        y = self.conv(x)
        x.relu_()  # read before it was changed
        y = y + x
        z = self.other(y)
        z += x  # neither has been read
        return self.last(z + early.sum())


def test_other_sums_stay_as_they_are():
    network, x = quantized(lambda: Changing())
    assert network.trace.residuals == {}
    assert torch.equal(network.model(x), quantized(lambda: Changing(), "mse")[0].model(x))
    assert "forward" not in network.model.__dict__


def test_blocks_of_vision_transformers_stay_as_they_are():
    """Their layers read a layer norm, and not what is added."""
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "num_classes": 5, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model, inputs = timm.models.VisionTransformer(**sizes).eval(), Inputs((torch.randn(2, 3, 8, 8),), {})
    states = []
    for recipe in ("mse", "residual"):
        network = prepare(model, inputs, recipe=recipe)
        assert network.trace.residuals == {}
        calibrate(network, [inputs], (BITS,))
        network.configure({unit.name: (BITS, BITS) for unit in network.units})
        states.append((network.units, inputs.call(network.model).tolist()))
    assert states[0] == states[1]


def test_layers_and_modules_in_float_are_left():
    model = Residual(BasicBlock("out + identity"))
    inputs = Inputs((torch.randn(1, 3, 9, 9),), {})
    assert prepare(model.eval(), inputs).trace.residuals == {"block": (((None, "block.conv1"),),)}
    for skipped in ("block", "block.conv1"):
        with pytest.warns(UserWarning, match="stay in float"):
            assert prepare(model, inputs, recipe="residual", skip=[skipped]).trace.residuals == {}


def test_a_module_within_a_block_has_sums_of_its_own():
    """Those of a module that no layer concerns are not taken for those of the one around it."""

    class Gate(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x + x.mean((2, 3), keepdim=True))

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(3, 3, 3, padding=1), Gate()

        def forward(self, x):
            return self.gate(self.conv(x)) + x

    network, x = quantized(lambda: Gated())
    entered = rounded(x, network.model.conv)
    out = multiplied(entered, network.model.conv)
    assert network.trace.residuals == {"gate": (), "": (((None, "conv"),),)}
    torch.testing.assert_close(network.model(x), network.model.gate(out) + entered)


class Added(nn.Module):
    def forward(self, x, y):
        return x + y


class Repeated(nn.Module):
    """One module for the sums of two layers, or of two calls of a layer."""

    def __init__(self, twice):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(1 if twice else 2))
        self.twice, self.added = twice, Added()

    def forward(self, x):
        for layer in [*self.layers] * (2 if self.twice else 1):
            x = self.added(layer(x), x)
        return x


@pytest.mark.parametrize(("twice", "named"), [(True, "'layers.0' runs 2 times"), (False, "'added' adds what")])
def test_refuses_what_has_several_quantizers(twice, named):
    model, inputs = Repeated(twice).eval(), Inputs((torch.randn(2, 4),), {})
    with pytest.raises(ValueError, match=rf"\[ribs\] {named}.*recipe=\"residual\" is not supported; .*recipe=\"mse\""):
        prepare(model, inputs, recipe="residual")
    prepare(model, inputs, recipe="mse")


def test_other_sums_than_when_traced_are_an_error():
    class Varying(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.times = nn.Linear(4, 4), 1

        def forward(self, x):
            y = self.linear(x)
            for _ in range(self.times):
                y = y + x
            return y

    network = prepare(Varying().eval(), Inputs((torch.randn(2, 4),), {}), recipe="residual")
    for network.model.times in (0, 2):
        message = rf"\[ribs\] the forward of the model added tensors {network.model.times} times, and 1 times when"
        with pytest.raises(RuntimeError, match=message):
            network.model(torch.randn(2, 4))


def test_only_one_recipe_asks_for_it():
    assert [name for name, recipe in RECIPES.items() if recipe.residuals] == ["residual"]
