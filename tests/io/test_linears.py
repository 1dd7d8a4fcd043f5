"""Checkpoints for compressed-tensors and models of torchao: other readers find the codes, the steps and the outputs."""

import sys

import exported
import numpy as np
import pytest
import torch
from nets import NETS
from saved import made, outputs, quantized
from torch import nn

import ribs
from ribs.io.linears import compressed_tensors, torchao_model
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul

TRANSFORMER = exported.Transformer, exported.images()


class HeadFirst(nn.Module):
    """A head before the embedding that has its weights, and a linear whose weights something else reads."""

    def __init__(self):
        super().__init__()
        self.head, self.embed = nn.Linear(8, 11, bias=False), nn.Embedding(11, 8)
        self.embed.weight = self.head.weight
        self.read, self.fc = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, ids):
        x = self.fc(self.embed(ids)).relu()
        return self.head(self.read(x) * self.read.weight.abs().mean())


CASES = {  # net, recipe, the layers that are packed
    "transformer": (TRANSFORMER, "mse", {"qkv", "out", "fc1", "fc2", "head"}),
    "repq+": (TRANSFORMER, "repq+", {"qkv", "out", "fc1", "fc2", "head"}),
    "tied": (NETS["tied"], "mse", {"a", "b", "head"}),
    "head_first": ((HeadFirst, NETS["tied"][1]), "mse", {"head", "fc"}),
}


def case(name):
    """The model, the result with activations in float, the batch, and {linear: bits} of what is packed."""
    (make, batch), recipe, packed = CASES[name]
    model = made(make, 1)
    bits = {unit: (2 + number % 7, 8) for number, unit in enumerate(ribs.count(model, batch).units)}
    loss = {} if batch.is_floating_point() else {"loss": ribs.losses.LanguageModel()}
    result = ribs.quantize(model, [batch], bits, recipe=recipe, progress=False, **loss)
    for module in result.model.modules():
        if isinstance(module, QuantizedLayer):
            module.set_bits(module.weight_quantizer.bits, 32)
        elif isinstance(module, QuantizedMatmul):
            module.set_bits(32, 32)
    if "read" in result.bits:
        result.model.read.set_bits(32, 32)
    return model, result, batch, {layer: result.bits[layer][0] for layer in packed}


def read(config, tensors):
    """The state of the float model of a checkpoint, and {linear: bits}, by numpy alone."""
    state, bits = dict(tensors), {}
    for group in config["config_groups"].values():
        for name in group["targets"]:
            bits[name] = width = group["weights"]["num_bits"]
            packed, scale, shape = (state.pop(f"{name}.weight_{part}") for part in ("packed", "scale", "shape"))
            rows, columns = shape.tolist()
            assert packed.dtype == torch.int32 and packed.shape == (rows, -(-columns * width // 32))
            digits = np.unpackbits(packed.numpy().view(np.uint8), axis=1, bitorder="little")
            assert not digits[:, columns * width :].any()
            codes = digits[:, : columns * width].reshape(rows, columns, width) @ (1 << np.arange(width))
            signed = (codes - 2 ** (width - 1)).astype(np.float32)
            state[f"{name}.weight"] = torch.from_numpy(signed * scale.numpy())
    return state, bits


@pytest.mark.parametrize("name", CASES)
def test_numpy_reads_the_network(name):
    model, result, batch, bits = case(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    config, tensors = compressed_tensors(result, model)
    state, found = read(config, tensors)
    assert found == bits
    linears = {key for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert set(config["ignore"]) == linears - bits.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    model.load_state_dict(state, assign=True)  # each name has a tensor of its own
    for linear in bits:
        assert torch.equal(state[f"{linear}.weight"], result.model.get_submodule(linear).quantized_weight())
    # Attention in one operator rounds otherwise than the two products that quantizers see.
    torch.testing.assert_close(outputs(model, batch), outputs(result.model, batch))


@pytest.mark.parametrize("name", CASES)
def test_compressed_tensors_reads_the_network(name):
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    model, result, _, bits = case(name)
    config, tensors = compressed_tensors(result, model)
    scheme = QuantizationConfig.model_validate(config)
    for group in scheme.config_groups.values():
        for linear in group.targets:
            own = {part: tensors[f"{linear}.{part}"] for part in ("weight_packed", "weight_scale", "weight_shape")}
            values = compressors.PackedQuantizationCompressor.decompress(own, group)["weight"]
            assert torch.equal(values, result.model.get_submodule(linear).quantized_weight())
    apply_quantization_config(model, scheme)
    assert {key for key, module in model.named_modules() if hasattr(module, "quantization_scheme")} == bits.keys()
    for linear, width in bits.items():
        assert model.get_submodule(linear).quantization_scheme.weights.num_bits == width


@pytest.mark.parametrize("name", CASES)
def test_torchao_computes_what_the_network_does(name):
    integers = pytest.importorskip("torchao.quantization").IntxUnpackedToInt8Tensor
    model, result, batch, bits = case(name)
    found = torchao_model(result, model)
    assert {key for key, each in found.named_parameters() if isinstance(each, integers)} == {
        f"{n}.weight" for n in bits
    }
    for linear, width in bits.items():
        weight = found.get_submodule(linear).weight
        assert weight.target_dtype is getattr(torch, f"int{width}")
        assert torch.equal(weight.dequantize(), result.model.get_submodule(linear).quantized_weight())
    torch.testing.assert_close(outputs(found, batch), outputs(result.model, batch))
    assert not any(isinstance(each, integers) for each in model.parameters())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_are_read_or_made_elsewhere_stay_in_float():
    model = made(HeadFirst, 1)
    torch.nn.utils.weight_norm(model.fc)
    batch = NETS["tied"][1]
    config, tensors = compressed_tensors(quantized(model, batch), model)
    assert config["ignore"] == ["read", "fc"]
    state, bits = read(config, tensors)
    assert bits.keys() == {"head"} and state.keys() == model.state_dict().keys()
    for name in state.keys() - {"head.weight"}:
        assert torch.equal(state[name], model.state_dict()[name])


@pytest.mark.parametrize(("make", "batch"), [TRANSFORMER, NETS["tied"]], ids=["transformer", "tied"])
def test_a_loaded_result_gives_the_same(make, batch, tmp_path):
    model = made(make, 1)
    result = quantized(model, batch)
    result.save(tmp_path / "a")
    config, tensors = compressed_tensors(result, model)
    again, loaded = compressed_tensors(ribs.load(tmp_path / "a", made(make, 2)), model)
    assert again == config and loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_what_cannot_be_packed_is_refused(tmp_path, monkeypatch):
    make, batch = NETS["convs"]
    model = made(make, 1)
    with pytest.raises(ribs.ExportError, match=r"^\[compressed_tensors\] only the model has 'norm.bias'; give"):
        compressed_tensors(quantized(model, batch), model)
    make, batch = NETS["attention"]
    model = made(make, 1)
    result = quantized(model, batch)
    assert "twice.weight_packed" in compressed_tensors(result, model)[1]
    result.save(tmp_path / "a")
    with pytest.raises(ribs.ExportError, match=r"holds weights of 'attention.in_proj_weight_linear0' that"):
        compressed_tensors(ribs.load(tmp_path / "a", model), model)
    with pytest.raises(ribs.ExportError, match="the network has no linear layers whose weights are quantized"):
        compressed_tensors(quantized(model, batch, (32, 8)), model)
    model.twice = nn.Linear(8, 8, bias=False)
    with pytest.raises(ribs.ExportError, match=r"only the network has 'twice.bias'; give the model that was searched"):
        compressed_tensors(result, model)
    model.twice = nn.Linear(8, 4)
    with pytest.raises(ribs.ExportError, match=r"'twice.weight' is \[4, 8\] in the model and \[8, 8\] in the network"):
        compressed_tensors(result, model)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r'\[torchao_model\] needs torchao: pip install "ribs-quant\[torchao\]"'):
        torchao_model(result, model)
