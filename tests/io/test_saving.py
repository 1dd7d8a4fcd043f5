"""A saved result: the very network again, at exactly the size that is claimed."""

import json
import math
import struct
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import NETS, Convs
from saved import made, outputs, quantized
from torch import nn

import ribs
from ribs.quant.layers import QuantizedLayer
from small import loader, network, search

BITS = {"2": 2, "8": 8, "mixed": None, "weights float": (32, 4), "activations float": (3, 32), "float": 32}


def header(folder):
    """The tensors of the weights file by name, and where they begin, read by hand."""
    content = (folder / "weights.safetensors").read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    found = json.loads(content[8 : 8 + length])
    return {
        name: {**each, "bytes": content[8 + length :][slice(*each["data_offsets"])]} for name, each in found.items()
    }


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("net", NETS)
def test_loaded_network_is_the_saved_one(net, bits, tmp_path):
    make, batch = NETS[net]
    result = quantized(made(make, 1), batch, BITS[bits])
    result.save(tmp_path / "a")
    loaded = ribs.load(tmp_path / "a", made(make, 2))
    assert same(outputs(result.model, batch), outputs(loaded.model, batch))
    loaded.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("net", NETS)
def test_packed_weights_take_the_size_that_is_claimed(net, tmp_path):
    make, batch = NETS[net]
    result = quantized(made(make, 1), batch)
    result.save(tmp_path / "a")
    stored = header(tmp_path / "a")
    packed = {name.removesuffix("weight_packed").rstrip("."): each for name, each in stored.items() if "packed" in name}
    weights = {layer.name: layer.weights for layer in result.costs.layers if layer.weights}
    bits = {name: count * result.bits[result.costs.owner[name]][0] for name, count in weights.items()}
    assert {name: len(each["bytes"]) for name, each in packed.items()} == {
        name: 4 * math.ceil(count / 32) for name, count in bits.items()
    }
    assert sum(bits.values()) == result.size_mib * 8 * 2**20


@pytest.mark.parametrize("net", ["convs", "attention", "computed"])
def test_packed_codes_are_those_of_the_weights(net, tmp_path):
    """Unpacked by numpy, times their steps, they are the weights that the network multiplies by."""
    make, batch = NETS[net]
    result = quantized(made(make, 1), batch)
    result.save(tmp_path / "a")
    stored = header(tmp_path / "a")
    for name, layer in result.model.named_modules():
        if isinstance(layer, QuantizedLayer):
            bits, axis = layer.weight_quantizer.bits, layer.weight_quantizer.axis
            weight = layer.quantized_weight()
            stream = np.unpackbits(np.frombuffer(stored[f"{name}.weight_packed"]["bytes"], np.uint8), bitorder="little")
            digits = stream[: weight.numel() * bits].reshape(-1, bits).astype(np.float32)
            codes = (digits * 2.0 ** np.arange(bits)).sum(1) - 2 ** (bits - 1)
            step = np.frombuffer(stored[f"{name}.weight_scale"]["bytes"], np.float32)
            steps = step.reshape([-1 if dim == axis else 1 for dim in range(weight.dim())])
            np.testing.assert_array_equal(codes.astype(np.float32).reshape(weight.shape) * steps, weight.numpy())


def test_only_what_is_read_in_float_is_stored_in_float(tmp_path):
    for net in NETS:
        make, batch = NETS[net]
        quantized(made(make, 1), batch).save(tmp_path / net)
    kept = {net: {name for name in header(tmp_path / net) if "weight_" not in name} for net in NETS}
    assert kept["attention"] == {"attention.in_proj_bias", "attention.out_proj.bias", "twice.bias"}
    assert kept["tied"] == {"embed.weight", "a.bias", "b.bias", "scale"}
    assert kept["computed"] == {"normed.bias", "read.bias", "read.weight"}
    norm = {f"last.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert kept["convs"] == {"stem.bias", "depthwise.bias", "up.bias", "fc.bias", *norm}


@pytest.mark.parametrize("net", NETS)
def test_files_hold_what_the_deployment_accounting_counts(net, tmp_path):
    """Weights at their bits, their steps, and what stays in float; buffers are not counted but for statistics."""
    make, batch = NETS[net]
    result = quantized(made(make, 1), batch)
    result.save(tmp_path / "a")
    stored = header(tmp_path / "a")
    floats = [name for name, each in stored.items() if each["dtype"] == "F32" and name != "scale"]
    weights = sum(layer.weights * result.bits[result.costs.owner[layer.name]][0] for layer in result.costs.layers)
    activations = json.loads((tmp_path / "a" / "result.json").read_text())["content"]["layers"].values()
    steps = sum(len(each["step"]) for layer in activations for each in layer["inputs"])
    deployed = replace(result.costs, accounting="deployment")
    assert (
        deployed.weight_bits(result.bits)
        == weights + 8 * sum(len(stored[name]["bytes"]) for name in floats) + steps * 40
    )


def test_result_of_a_search_comes_back_whole(tmp_path):
    costs = {"latency": (lambda unit, bits: Fraction(sum(bits), 3), 1000)}
    result = search(budget=ribs.Budget(bops="4/4", size=(None, "5/5"), costs=costs), algorithm="paper", update_size=2)
    odd = {**result.history[0].delta_loss}
    odd["0"] = dict(zip(odd["0"], (math.inf, -math.inf, -0.0), strict=False))
    result = replace(result, history=(replace(result.history[0], delta_loss=odd), *result.history[1:]))
    result.save(tmp_path / "a")
    loaded = ribs.load(tmp_path / "a", network(seed=1))
    for field in fields(ribs.Result):
        if field.name != "model":
            assert repr(getattr(loaded, field.name)) == repr(getattr(result, field.name)), field.name
    assert loaded.summary() == result.summary()
    assert same(outputs(loaded.model, loader()[0]), outputs(result.model, loader()[0]))


def test_tied_units_come_back(tmp_path):
    result = search(ties=[["0", "2"]])
    result.save(tmp_path / "a")
    assert ribs.load(tmp_path / "a", network(seed=1)).costs.units == ("0 + 2", "5")


def test_loading_does_not_change_the_model(tmp_path):
    quantized(network(), loader()[0]).save(tmp_path / "a")
    model = network(seed=1)
    before = {name: (id(each), each.clone()) for name, each in model.state_dict(keep_vars=True).items()}
    ribs.load(tmp_path / "a", model)
    after = model.state_dict(keep_vars=True)
    assert before.keys() == after.keys() and not any(isinstance(each, QuantizedLayer) for each in model.modules())
    assert all(id(after[name]) == i and torch.equal(after[name], each) for name, (i, each) in before.items())


def test_what_was_trained_further_is_saved(tmp_path):
    result = quantized(network(), loader()[0], 4)
    with torch.no_grad():
        result.model[0].layer.weight.mul_(0.5)
        result.model[5].layer.bias.add_(1)
    result.save(tmp_path / "a")
    loaded = ribs.load(tmp_path / "a", network(seed=1))
    assert same(outputs(loaded.model, loader()[0]), outputs(result.model, loader()[0]))


def test_loaded_network_can_be_trained(tmp_path):
    """Held weights, those of in_proj too, have gradients once they are asked for."""
    make, batch = NETS["attention"]
    quantized(made(make, 1), batch, 8).save(tmp_path / "a")
    model = ribs.load(tmp_path / "a", made(make, 2)).model
    held = model.get_submodule("attention.in_proj_weight_linear0").held.requires_grad_()
    model(batch).square().sum().backward()
    assert held.grad.abs().sum() > 0


def wider():
    return Convs(width=4)


def other_stride():
    model = Convs()
    model.up.stride = (1, 1)
    return model


def without_norm():
    model = Convs()
    model.norm = nn.Identity()
    return model


def longer():
    model = Convs()
    model.extra = nn.Linear(2, 2)
    return model


DIFFERENT = {
    wider: r"its 'stem.weight' is torch.float32 \(4, 1, 3, 3\), saved was torch.float32 \(3, 1, 3, 3\)",
    other_stride: r"'up.layer': ConvTranspose2d\(.*stride=\(1, 1\).* where there was .*stride=\(2, 2\)",
    without_norm: "'norm' is no batch norm of the outputs of 'depthwise'",
    longer: r"it has 'extra': Linear\(.* beside what was saved",
    NETS["tied"][0]: "it has no layer 'stem'",
}


@pytest.mark.parametrize("make", DIFFERENT, ids=lambda make: make.__name__)
def test_another_model_is_refused_by_its_first_difference(make, tmp_path):
    quantized(made(Convs, 1), NETS["convs"][1]).save(tmp_path / "a")
    with pytest.raises(
        ribs.FormatError, match=rf"^\[load\] the model is not the one that was saved: .*{DIFFERENT[make]}"
    ):
        ribs.load(tmp_path / "a", made(make, 2))


def test_model_that_cannot_be_quantized_is_refused(tmp_path):
    quantized(network(), loader()[0]).save(tmp_path / "a")
    with pytest.raises(ValueError, match="training mode"):
        ribs.load(tmp_path / "a", network().train())


def test_bits_that_were_changed_are_not_saved(tmp_path):
    result = quantized(network(), loader()[0], 4)
    result.model[0].input_quantizer.set_bits(32)
    with pytest.raises(ValueError, match="the layers of '0' no longer have the bits of the result"):
        result.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_quantizers_of_other_kinds_are_not_saved(tmp_path):
    class Other(ribs.quant.quantizer.FakeQuantizer):
        pass

    result = quantized(network(), loader()[0], 32)
    result.model[0].input_quantizer = Other(symmetric=False)
    with pytest.raises(TypeError, match="type Other cannot be saved; there are the kinds uniform, "):
        result.save(tmp_path / "a")
