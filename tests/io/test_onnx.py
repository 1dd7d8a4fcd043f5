"""ONNX files: onnxruntime, and ONNX's own evaluator in numpy, give what the network gives."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import onnxruntime
from exported import BITS, NETS, images, quantized
from onnx.reference import ReferenceEvaluator
from saved import outputs

import ribs
from ribs.io.export import graph, onnx_content, verify, versions, weights
from ribs.quant.inputs import as_inputs
from ribs.quant.layers import QuantizedLayer


@pytest.fixture(scope="module")
def marked():
    """By network, the graph with marks, which is the same at all bits."""
    return {net: graph.mark(quantized(net, "8").model, as_inputs(None, images())) for net in NETS}


@pytest.fixture
def export(marked, monkeypatch):
    """(result, what is known of the file, its path), without the seconds that torch takes for the graph."""

    def run(net, bits, path, packing="packed", opset=21):
        monkeypatch.setattr(onnx_content, "mark", lambda network, inputs: marked[net])
        result = quantized(net, bits)
        return result, result.export_onnx(path, images(), packing, opset)

    return run


def run(path, x, level="ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize(("bits", "packing"), [*((bits, "packed") for bits in BITS), ("mixed", "native")])
@pytest.mark.parametrize("net", NETS)
def test_outputs_are_those_of_the_network(net, bits, packing, export, tmp_path):
    result, found, path = *export(net, bits, tmp_path / "a.onnx", packing), tmp_path / "a.onnx"
    x = torch.cat([images(), 30 * images(4)])  # the last leave all ranges behind
    [expected] = outputs(result.model, x)
    close = {"rtol": 0, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(run(path, x, "ORT_DISABLE_ALL"), expected, **close)
    [evaluated] = ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(evaluated), expected, **close)
    best = expected[:6].topk(2).values
    clear = best[:, 0] - best[:, 1] > 4 * found.verified.optimised_floor
    assert torch.equal(run(path, x)[:6].argmax(1)[clear], expected[:6].argmax(1)[clear])
    assert found.samples is None and found.bytes == path.stat().st_size
    kernels = found.verified.kernels
    assert kernels.get("QLinearConv", 0) >= int((net, bits) in {("residual", "2"), ("residual", "8")})
    assert net == "residual" or sum(kernels.values()) >= 5


@pytest.mark.parametrize("net", NETS)
def test_packed_weights_take_the_size_that_is_claimed(net, export, tmp_path):
    """Decoded by numpy from the bytes in the file, they are the weights that the network multiplies by."""
    result, found = export(net, "mixed", tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    layers = {name: each for name, each in result.model.named_modules() if isinstance(each, QuantizedLayer)}
    assert {name for name in stored if name.endswith("/planes")} == {f"{name}.weight/planes" for name in layers}
    for name, layer in layers.items():
        weight, bits = layer.quantized_weight().numpy(), result.bits[name][0]
        digits = np.unpackbits(stored[f"{name}.weight/planes"][..., 0], axis=1, bitorder="little")[:, : weight.size]
        codes = (digits * 2.0 ** np.arange(bits)[:, None]).sum(0).reshape(weight.shape) - 2.0 ** (bits - 1)
        step = stored[f"{name}.weight/step"] * 2.0 ** max(0, 7 - bits)
        np.testing.assert_array_equal(codes.astype(np.float32) * step.reshape(-1, *[1] * (weight.ndim - 1)), weight)
    claimed = result.size_mib * 2**20
    assert claimed <= found.weight_bytes <= claimed + 8 * len(layers)  # each plane ends with a whole byte
    assert found.weight_bytes == sum(stored[f"{name}.weight/planes"].nbytes for name in layers)
    assert found.bytes - sum(each.nbytes for each in stored.values()) <= 4096 * len(layers)


@pytest.mark.parametrize("opset", [21, 25])
def test_native_weights_have_the_types_of_onnx(opset, export, tmp_path):
    result, found = export("residual", "mixed", tmp_path / "a.onnx", "native", opset)
    model = onnx.load(tmp_path / "a.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    stored = {each.name: each for each in model.graph.initializer}
    assert {*(bits for bits, _ in result.bits.values())} >= {2, 3, 4, 5, 6}
    size = 0
    for name, (bits, _) in result.bits.items():
        kind = {1: "INT8", 2: f"INT{2 if opset == 25 else 4}", 3: "INT4", 4: "INT4"}.get(bits, "INT8")
        [tensor] = [each for key, each in stored.items() if re.fullmatch(rf"{name}\.weight/(int\d|codes)", key)]
        assert tensor.data_type == getattr(onnx.TensorProto, kind)
        weight, step = result.model.get_submodule(name).quantized_weight().numpy(), stored[f"{name}.weight/step"]
        codes = onnx.numpy_helper.to_array(tensor).astype(np.float32) * (1 if kind == "INT8" else 2.0 ** (7 - bits))
        steps = onnx.numpy_helper.to_array(step).reshape(-1, *[1] * (weight.ndim - 1))
        np.testing.assert_array_equal(codes * steps, weight)
        size += len(tensor.raw_data)
    assert found.weight_bytes == size


def test_nothing_tells_of_the_machine(export, tmp_path):
    export("transformer", "mixed", tmp_path / "a.onnx")
    content = (tmp_path / "a.onnx").read_bytes()
    assert b".py" not in content and b"torch" not in content
    model = onnx.load(tmp_path / "a.onnx")
    assert {(each.domain, each.version) for each in model.opset_import} == {("", 21)} and not model.functions
    assert Counter(node.op_type for node in model.graph.node)["Clip"] > 0


def with_flipped_bit(found):
    found.flat[0] ^= 1
    return found


def without_clips(model):
    for node in [each for each in model.graph.node if each.op_type == "Clip"]:
        node.op_type = "Identity"
        del node.input[1:]


def with_another_bias(model):
    [bias] = [each for each in model.graph.initializer if each.name.endswith("fc.layer.bias")]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))


DAMAGE = {without_clips: "'.*.input' rounds to other", with_another_bias: "the part of the file that computes 'output'"}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_file_that_computes_something_else_is_not_written(damage, export, tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("old")

    def damaged(*arguments):
        exported = graph.write(*arguments)
        damage(exported.model)
        return exported

    monkeypatch.setattr(onnx_content, "write", damaged)
    with pytest.raises(ribs.ExportError, match=rf"^\[export_onnx\] .*{DAMAGE[damage]}"):
        export("residual", "mixed", tmp_path / "a.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"] and (tmp_path / "a.onnx").read_text() == "old"


def test_transformers_by_their_own_recipe(tmp_path):
    """With shares of attention at unequal distances, and a graph of its own."""
    result = quantized("transformer", "mixed", "repq+")
    found = result.export_onnx(tmp_path / "a.onnx", images())
    [expected] = outputs(result.model, images(3))
    torch.testing.assert_close(run(tmp_path / "a.onnx", images(3), "ORT_DISABLE_ALL"), expected, rtol=0, atol=1e-5)
    assert found.verified.kernels["MatMulIntegerToFloat"] >= 5
    assert "Gather" in {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}


def test_every_integer_of_the_weights_is_compared(export, tmp_path, monkeypatch):
    planes = weights.planes
    monkeypatch.setattr(weights, "planes", lambda codes, bits: with_flipped_bit(planes(codes, bits)))
    with pytest.raises(ribs.ExportError, match=r"the integers of 'stem\.weight' in the file are not those"):
        export("residual", "2", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_whole_is_compared_with_the_noise(export, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_check_optimised", lambda *arguments: 0.0)
    monkeypatch.setattr(verify, "noise_floor", lambda *arguments, **options: -1.0)
    with pytest.raises(ribs.ExportError, match=r"differ from those of the network by .*, and noise .* no more than -1"):
        export("residual", "2", tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("form", "package", "found", "message"),
    [
        (("packed", 21), "onnxruntime", "1.19.2", r"onnxruntime 1.19.2 is too old; give 1.20 or newer"),
        (("native", 21), "onnxruntime", "1.22.1", r"onnxruntime 1.22.1 is too old; give 1.23 or newer"),
        (("native", 25), "onnxruntime", "1.23.2", r"onnxruntime 1.23.2 is too old; give 1.24 or newer"),
        (("packed", 21), "onnx", "1.9.0", r"onnx 1.9.0 is too old; give 1.17 or newer"),
        (("packed", 21), "torch", "2.7.1+cpu", r"torch 2.7.1\+cpu is too old; give 2.8 or newer"),
        (("packed", 21), "onnxscript", None, r'needs onnxscript 0.3 or newer: pip install "ribs-quant\[onnx\]"'),
    ],
)
def test_versions_that_would_do_are_named(form, package, found, message, tmp_path, monkeypatch):
    version = versions.version

    def other(name):
        if name == package and found is None:
            raise versions.PackageNotFoundError(name)
        return found if name == package else version(name)

    monkeypatch.setattr(versions, "version", other)
    with pytest.raises(ImportError, match=message):
        quantized("residual", "8").export_onnx(tmp_path / "a.onnx", images(), *form)


def test_places_where_nothing_can_be_written_are_refused_first(tmp_path):
    result = quantized("residual", "8")
    (tmp_path / "file").write_text("")
    for path, error in [
        (tmp_path, IsADirectoryError),
        (tmp_path / "no" / "a.onnx", FileNotFoundError),
        (tmp_path / "file" / "a.onnx", FileNotFoundError),
    ]:
        with pytest.raises(error, match=r"^\[export_onnx\]"):
            result.export_onnx(path, None)
    with pytest.raises(ValueError, match='packing=\'dense\' is not supported; give "packed" or "native"'):
        result.export_onnx(tmp_path / "a.onnx", None, "dense")
    with pytest.raises(ValueError, match=r"opset=20 is not supported; give 21 or 25"):
        result.export_onnx(tmp_path / "a.onnx", None, opset=20)


def test_layers_whose_bias_integers_would_round_coarsely_stay_in_float(marked, export, tmp_path):
    """Where the next quantizer has far finer steps than the products of integers that it reads."""
    result, found = export("residual", "2", tmp_path / "a.onnx")
    assert found.verified.kernels.get("QLinearConv") == 1
    after = result.model.conv2.input_quantizer
    after.set_steps(after.choices, after.step / 4096, after.zero_point)
    assert "QLinearConv" not in result.export_onnx(tmp_path / "a.onnx", images()).verified.kernels
