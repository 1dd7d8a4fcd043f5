"""recipe="asymmetric": weights with zero points, through the whole way, and what does not take them."""

import safetensors.torch
import torch
import torch.nn.functional as F
from pytest import fixture, mark, raises
from torch import nn

import ribs
from ribs.io import encodings, tensors
from ribs.io.content import SavedWeight
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import code_range

LOADER = list(torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0)).split(16))
BITS = (2, 3)


def made(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(), nn.Linear(100, 5)
    ).eval()


@fixture(scope="module")
def model():
    return made(0)


@fixture(scope="module")
def result(model):
    method = ribs.QDrop(iterations=30, batch_size=16, weight_lr=0.05, activation_lr=1e-3)
    return ribs.reconstruct(model, LOADER, BITS, method=method, recipe="asymmetric", progress=False)


def layers(network):
    return {name: each for name, each in network.named_modules() if isinstance(each, QuantizedLayer)}


def steps_of(layer):
    """The step and the zero point of each weight's channel, in the shape of the weights."""
    quantizer = layer.weight_quantizer
    along = [-1 if dim == quantizer.axis else 1 for dim in range(layer.weight.dim())]
    step, zero_point = quantizer.present
    return step.reshape(along), zero_point.reshape(along)


@mark.parametrize("bits", [2, 3, 4])
def test_weights_have_the_least_power_of_the_error(model, bits):
    """Less than codes around zero, which are those with the zero point in their middle, and steps of least squares."""
    errors = dict.fromkeys(("around zero", "of least squares", "asymmetric"), 0.0)
    found = layers(ribs.quantize(model, LOADER, bits, recipe="asymmetric", progress=False).model)
    for layer in found.values():
        weight, axis = layer.weight.detach(), layer.weight_quantizer.axis
        values = {"asymmetric": layer.quantized_weight()}
        for name, symmetric in (("around zero", True), ("of least squares", False)):
            step, zero_point, *_ = ribs.ops.search_steps(
                weight, (bits,), symmetric=symmetric, axis=axis, p=2.4 if symmetric else 2.0
            )
            values[name] = ribs.ops.fake_quantize(weight, step[0], zero_point[0], *code_range(bits, symmetric), axis)
        for name in errors:
            errors[name] += float((values[name] - weight).abs().pow(2.4).sum())
    assert errors["asymmetric"] < errors["of least squares"]
    assert errors["asymmetric"] < errors["around zero"] * (0.9 if bits == 2 else 1)


@torch.no_grad()
def test_the_network_is_that_of_plain_torch(model):
    found = ribs.quantize(model, LOADER, BITS, recipe="asymmetric", progress=False)
    assert found.recipe == "asymmetric"
    x = LOADER[0]
    runs = {"0": F.conv2d, "2": F.conv_transpose2d, "4": F.linear}
    for name, module in model.named_children():
        if name not in runs:
            x = module(x)
            continue
        layer = found.model.get_submodule(name)
        step, zero_point = layer.input_quantizer.present
        x = (((x / step).round() + zero_point).clamp(0, 7) - zero_point) * step
        step, zero_point = steps_of(layer)
        codes = ((module.weight / step).round() + zero_point).clamp(0, 3)
        x = runs[name](x, (codes - zero_point) * step, module.bias)
    torch.testing.assert_close(found.model(LOADER[0]), x, rtol=1e-4, atol=1e-4)


def test_reconstruction_keeps_to_the_codes_around_each_weight(model, result):
    nearest = 0
    for name, layer in layers(result.model).items():
        step, zero_point = steps_of(layer)
        weight = model.get_submodule(name).weight
        codes = (layer.weight / step).round() + zero_point
        assert torch.equal((codes - zero_point) * step, layer.weight)
        assert torch.equal(layer.quantized_weight(), layer.weight)
        down = (weight / step).floor() + zero_point
        assert ((codes == down.clamp(0, 3)) | (codes == (down + 1).clamp(0, 3))).all()
        nearest += int((codes == ((weight / step).round() + zero_point).clamp(0, 3)).sum())
    total = sum(each.weight.numel() for each in layers(result.model).values())
    assert 0.5 * total < nearest < total


def test_it_is_saved_and_loaded(model, result, tmp_path):
    result.save(tmp_path / "a")
    loaded = ribs.load(tmp_path / "a", made(1))
    with torch.no_grad():
        assert torch.equal(loaded.model(LOADER[0]), result.model(LOADER[0]))
    stored = safetensors.torch.load_file(tmp_path / "a" / "weights.safetensors")
    encoded = {each["name"]: each for each in encodings.encodings(loaded)["param_encodings"]}
    for name, layer in layers(result.model).items():
        zero_point = layer.weight_quantizer.present[1].tolist()
        assert stored[f"{name}.weight_zero_point"].tolist() == zero_point
        found = encoded[f"{name}.weight"]
        assert found["offset"] == [-each for each in zero_point] and not found["is_sym"]
    loaded.save(tmp_path / "b")
    assert (tmp_path / "b" / "weights.safetensors").read_bytes() == (
        tmp_path / "a" / "weights.safetensors"
    ).read_bytes()
    in_part = ribs.quantize(model, LOADER, {"0": 32, "2": 2, "4": 2}, recipe="asymmetric", progress=False)
    in_part.save(tmp_path / "c")
    loaded = layers(ribs.load(tmp_path / "c", made(1)).model)
    assert not any(each.weight_quantizer.symmetric for each in loaded.values())
    saved, packed = SavedWeight(2, False, False, 0, (1, 4), (4, 1)), torch.zeros(1, 1, dtype=torch.int32)
    with raises(ribs.FormatError, match="the zero points of the weights of 'fc' are not among their codes"):
        tensors._values("fc", saved, packed, (torch.ones(1), torch.tensor([4])))


def test_what_does_not_take_zero_points_says_so(model, result, tmp_path):
    with raises(ribs.ExportError, match=r"'0.weight' has zero points .* only symmetric codes are exported"):
        result.export_onnx(tmp_path / "a.onnx", LOADER[0])
    with raises(
        ValueError, match="recipe='asymmetric' is not supported, since weights with zero points are not trained"
    ):
        ribs.qat.prepare(model, LOADER, result)
    with raises(ValueError, match=r"'int8' is not possible here: .* recipe='asymmetric' gives weights zero points"):
        ribs.search(
            model, LOADER, ribs.Budget(bops="4/4"), recipe="asymmetric", execution="int8", bits=(2, 4), progress=False
        )
