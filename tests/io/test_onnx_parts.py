"""Quantizers and weights as ONNX operators, each by itself, against the network's own."""

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper

import ribs
from ribs.io.export.activations import write_activations
from ribs.io.export.runtime import Session
from ribs.io.export.sites import Activations, Form, Weights
from ribs.io.export.weights import shift, write_weights
from ribs.io.export.writer import Writer
from ribs.quant.quantizer import FakeQuantizer, Quantizer, ShareQuantizer, code_range


def run(writer, output, feeds=None):
    feeds = feeds or {}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in feeds]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    graph = helper.make_graph(writer.nodes, "part", inputs, outputs, list(writer.constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return Session(model, optimise=False).run(feeds)[0]


def uniform(bits, step, zero_point, *, symmetric=False, axis=None):
    quantizer = FakeQuantizer(symmetric=symmetric, axis=axis)
    quantizer.set_steps((bits,), torch.tensor([step]), torch.tensor([zero_point], dtype=torch.int32))
    quantizer.set_bits(bits)
    return quantizer


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize(
    ("zero_point", "operator"),
    [(0, "QuantizeLinear"), (3, "QuantizeLinear"), (-40, "QuantizeLinear"), (200, "QuantizeLinear"), (-400, "Div")],
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_uniform_codes_within_and_beyond_their_range(bits, zero_point, operator, symmetric):
    quantizer = uniform(bits, 0.37, zero_point, symmetric=symmetric)
    low, high = code_range(bits, symmetric)
    near = torch.arange(2 * low - 6, 2 * high + 6) * 0.5 - zero_point  # codes and what is halfway between them
    x = torch.cat([near * 0.37, torch.randn(99) * 50, torch.tensor([1e9, -1e9, 0.0])]).reshape(1, -1)
    writer = Writer()
    cut = write_activations(writer, Activations("a", quantizer), "x", "y")
    assert torch.equal(run(writer, "y", {"x": x}), quantizer(x))
    if bits < 8 or not symmetric:
        far = max(high, zero_point) - min(low, zero_point) >= 256
        assert writer.nodes[0].op_type == ("Div" if far else "QuantizeLinear") == (operator if not far else "Div")
    assert (cut.offset is None) == (writer.nodes[0].op_type == "Div")


def test_steps_by_channel():
    quantizer = uniform(4, [0.5, 0.25, 2.0], [0, 7, 3], axis=-1)
    x, writer = torch.randn(2, 5, 3) * 4, Writer()
    write_activations(writer, Activations("a", quantizer), "x", "y")
    assert torch.equal(run(writer, "y", {"x": x}), quantizer(x))


@pytest.mark.parametrize("levels", ["nonuniform", "log_sqrt2"])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_levels_at_unequal_distances(levels, bits):
    quantizer = ShareQuantizer(levels)
    steps = torch.rand(2**bits - 1) / 2**bits + 1e-4 if levels == "nonuniform" else torch.tensor([0.9])
    quantizer.set_steps((bits,), [steps])
    quantizer.set_bits(bits)
    thresholds = quantizer.table[1]
    up, down = (thresholds.nextafter(torch.tensor(end)) for end in (np.inf, -np.inf))
    x = torch.cat([thresholds, up, down, torch.rand(99), torch.tensor([0.0, 1.0, 5.0, -1.0, np.inf])])
    writer = Writer()
    write_activations(writer, Activations("a", quantizer), "x", "y")
    assert torch.equal(run(writer, "y", {"x": x}), quantizer(x))


def test_quantizers_of_other_kinds_are_refused():
    class Other(Quantizer):
        def rounded(self, x):
            return x

    with pytest.raises(ribs.ExportError, match=r"^\[export_onnx\] 'a' has a quantizer of type Other; ONNX has none"):
        write_activations(Writer(), Activations("a", Other()), "x", "y")


@pytest.mark.parametrize("packing", ["packed", "native"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("shape", "axes"), [((3, 2, 3, 3), None), ((5, 7), [1, 0]), ((1, 1), None)])
def test_weights_are_codes_times_steps(packing, bits, shape, axes):
    low, high = code_range(bits, symmetric=True)
    codes = torch.randint(low, high + 1, shape, dtype=torch.int8)
    codes.view(-1)[0] = low
    step = torch.rand(shape[0]) + 0.1
    for integer in (True, False):
        writer = Writer()
        name = write_weights(writer, Weights("w", bits, codes, step, 0), "y", Form(packing), axes=axes, integer=integer)
        expected = codes.float() * step.reshape(-1, *[1] * (len(shape) - 1))
        assert torch.equal(run(writer, "y"), expected if axes is None else expected.permute(axes))
        whole = Writer()
        whole.nodes, whole.constants = writer.nodes, writer.constants
        whole.add("Cast", [name], "integers", to=TensorProto.FLOAT)
        assert torch.equal(run(whole, "integers"), codes.float() * 2 ** shift(bits))
        # Of 8 bits and more no two products of uint8 codes are known to fit into int16.
        assert float((codes.float() * 2 ** shift(bits)).abs().max()) <= (64 if bits < 8 else 128)
