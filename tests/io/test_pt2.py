"""Programs of torch.export: bit-equal, without ribs."""

import zipfile

import pytest
import torch
from exported import images, quantized
from saved import outputs
from torch import nn

import ribs
from ribs.io.export import pt2_file, versions
from ribs.io.export.sites import capture
from ribs.quant.inputs import Inputs
from ribs.quant.quantizer import ShareQuantizer


def test_loaded_program_gives_the_very_outputs(tmp_path):
    """Of a network with a convolution, linears, attention, and shares at unequal distances."""
    result = quantized("transformer", "mixed", "repq+")
    result.export_pt2(tmp_path / "a.pt2", images())
    program = torch.export.load(tmp_path / "a.pt2")
    for x in (images(), 30 * images(3)):  # other numbers of samples, and values out of all ranges
        assert torch.equal(program.module()(x), outputs(result.model, x)[0])
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.clamp.Tensor" in called and not any("ribs" in name for name in called)
    weights = sum(layer.weights for layer in result.costs.layers)
    floats = [each for each in program.state_dict.values() if each.dtype is torch.float32]
    assert sum(each.numel() for each in program.state_dict.values() if each.dtype is torch.int8) == weights
    assert sum(each.numel() for each in floats) < weights  # biases, norms and steps
    # Other runtimes have torch's core operators. The one more says of what type a tensor is.
    operators = {node.target for node in program.run_decompositions().graph.nodes if hasattr(node.target, "tags")}
    others = {str(each) for each in operators if torch.Tag.core not in each.tags}
    assert operators and others <= {"aten._assert_tensor_metadata.default"}
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        assert not any(b".py" in archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("levels", ["nonuniform", "log_sqrt2"])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_levels_at_unequal_distances_are_found_to_the_last_bit(levels, bits):
    quantizer = ShareQuantizer(levels)
    steps = torch.rand(2**bits - 1) / 2**bits + 1e-4 if levels == "nonuniform" else torch.tensor([0.9])
    quantizer.set_steps((bits,), [steps])
    quantizer.set_bits(bits)
    thresholds = quantizer.table[1]
    up, down = (thresholds.nextafter(torch.tensor(end)) for end in (torch.inf, -torch.inf))
    x = torch.cat([thresholds, up, down, torch.rand(99), torch.tensor([0.0, 1.0, -1.0, torch.inf, -torch.inf])])
    assert torch.equal(pt2_file._Levels(quantizer)(x), quantizer(x))
    assert pt2_file._Levels(quantizer)(torch.tensor([torch.nan])).isnan().all()


def test_a_program_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    other = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3, 5))
    monkeypatch.setattr(pt2_file, "capture", lambda network, inputs: torch.export.export(other, inputs.args))
    with pytest.raises(ribs.ExportError, match=r"^\[export_pt2\] the exported program does not give the outputs"):
        quantized("residual", "8").export_pt2(tmp_path / "a.pt2", images())
    assert not list(tmp_path.iterdir())


def test_what_torch_cannot_follow_is_said(tmp_path):
    result = quantized("residual", "8")
    forward = result.model.forward
    result.model.forward = lambda x: forward(x) if float(x.sum()) < 1e9 else None
    with pytest.raises(ribs.ExportError, match=r"^\[export\] torch.export cannot follow the forward of the network"):
        result.export_pt2(tmp_path / "a.pt2", images())


def test_one_sample_is_all_that_a_program_of_one_takes():
    network, x = nn.Linear(3, 2), torch.randn(4, 3)
    for samples, free in ((1, False), (4, True)):
        program = capture(network, Inputs((x[:samples],), {})).module()
        if free:
            assert torch.equal(program(x[:3]), network(x[:3]))
        else:
            with pytest.raises(AssertionError, match="Guard failed"):
                program(x[:3])


def test_torch_that_is_too_old_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "version", lambda package: "2.4.1")
    with pytest.raises(ImportError, match=r"\[export_pt2\] torch 2.4.1 is too old; give 2.8 or newer"):
        quantized("residual", "8").export_pt2(tmp_path / "a.pt2", images())
