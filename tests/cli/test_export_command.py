"""`ribs export`."""

import json

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import ribs
from ribs.cli.main import main

MODEL = """
from torch import nn

def exported_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
"""
EXPORT = ["export", "run", "exported_net_module:exported_net", "--data", "data.pt", "--input-size", "3x8x8"]


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "exported_net_module.py").write_text(MODEL)
    from exported_net_module import exported_net

    images = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save(images, "data.pt")
    ribs.quantize(exported_net().eval(), [images], {"0": (3, 8), "3": (5, 4)}, progress=False).save("run")
    return images


def test_a_saved_result_becomes_a_file(images, tmp_path, capsys):
    assert main([*EXPORT, "a.onnx", "--packing", "native", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert found["weight_bytes"] == 108 / 2 + 432  # 3 bits in 4, and 5 in 8
    assert found["verified"]["samples"] == 16
    import onnxruntime
    from exported_net_module import exported_net

    session = onnxruntime.InferenceSession("a.onnx")
    expected = ribs.load("run", exported_net().eval()).model(images)
    [[x], [found]] = session.get_inputs(), session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert x.name == "input"
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=0.01)


def test_torch_export_and_other_names(images, tmp_path, capsys):
    assert main([*EXPORT, "a.pt2"]) == 0
    assert f"{(tmp_path / 'a.pt2').stat().st_size:,} bytes" in capsys.readouterr().out
    assert main([*EXPORT, "a.tflite"]) == 2
    assert "a.tflite tells no kind of file; give a name that ends in .onnx or .pt2" in capsys.readouterr().err
    assert main([*EXPORT, "no/a.onnx"]) == 2
    assert "no is no folder; make it first" in capsys.readouterr().err
