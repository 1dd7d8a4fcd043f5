"""Results of the recipe "residual", saved, loaded and exported."""

import json

import pytest
import torch
import torch.nn.functional as F
from damage import Damage
from exported import images
from saved import made, outputs
from torch import nn

import ribs
from ribs.io import folder as files


class Residual(nn.Module):
    """A block whose input a convolution and a sum read, and one whose sum a linear reads."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.conv2(F.relu(self.conv1(x)))
        y += x
        x = F.relu(y).mean((2, 3))
        return self.fc2(x + F.gelu(self.fc1(x)))


@pytest.fixture(scope="module")
def result():
    units = ("stem", "conv1", "conv2", "fc1", "fc2")
    bits = {unit: (3 + number, 6 - number) for number, unit in enumerate(units)}
    return ribs.quantize(made(Residual, 1), [images()], bits, recipe="residual", progress=False)


def test_a_loaded_result_has_the_same_sums(result, tmp_path):
    result.save(tmp_path / "a")
    loaded = ribs.load(tmp_path / "a", made(Residual, 2))
    assert loaded.recipe == "residual" and loaded.costs == result.costs
    [expected], [found] = outputs(result.model, images()), outputs(loaded.model, images())
    assert torch.equal(found, expected)
    other = ribs.quantize(made(Residual, 1), [images()], result.bits, recipe="mse", progress=False)
    assert not torch.allclose(outputs(other.model, images())[0], expected, atol=1e-3)


WRONG = {
    "reader": (lambda trace: trace["residuals"][""][0][0].__setitem__(0, "other"), "no layer with weights"),
    "module": (lambda trace: trace["residuals"].update(other=[]), "no module 'other'"),
    "calls": (lambda trace: trace["residuals"][""].append([]), "contradicts itself: .* in one of its calls"),
    "type": (lambda trace: trace["residuals"].update(stem=None), "residuals"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_damage_is_found(case, result, tmp_path):
    change, message = case
    result.save(tmp_path / "a")
    damage = Damage.__new__(Damage)
    damage.folder = tmp_path / "a"
    content = json.loads((tmp_path / "a" / files.RESULT).read_text())["content"]
    change(content["trace"])
    damage._write_content(content)
    with pytest.raises(ribs.FormatError, match=message):
        ribs.load(tmp_path / "a", made(Residual, 1))


def test_programs_of_torch_export_give_the_very_outputs(result, tmp_path):
    result.export_pt2(tmp_path / "a.pt2", images())
    program = torch.export.load(tmp_path / "a.pt2").module()
    for x in (images(), 30 * images(3)):
        assert torch.equal(program(x), outputs(result.model, x)[0])


def test_onnx_files_quantize_once_what_both_read(result, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result.export_onnx(tmp_path / "a.onnx", images())
    [expected] = outputs(result.model, images())
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(tmp_path / "a.onnx", options, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    nodes = onnx.load(tmp_path / "a.onnx").graph.node
    rounding = [node for node in nodes if node.op_type in ("QuantizeLinear", "Round")]
    assert len(rounding) == len(result.bits)
