"""The recipes of docs/export.md for other programs, where these are there: they give the outputs of the network."""

import re
from pathlib import Path

import exported
import pytest
import torch
from saved import outputs

import ribs
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def run(word, **names):
    """The block of the page that has this word in it."""
    [block] = (code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if word in code)
    exec(block, names)
    return names


@pytest.mark.parametrize(
    ("net", "samples", "recipe"), [("residual", 1, "mse"), ("transformer", 6, "mse"), ("transformer", 6, "repq+")]
)
@pytest.mark.filterwarnings("default")  # those of other libraries are theirs
def test_executorch_runs_the_program(net, samples, recipe, tmp_path, monkeypatch):
    runtime = pytest.importorskip("executorch.runtime")
    monkeypatch.chdir(tmp_path)
    result = exported.quantized(net, "mixed", recipe)
    run("executorch", result=result, batch=exported.images(samples))
    method = runtime.Runtime.get().load_program(tmp_path / "model.pte").load_method("forward")
    for count in {1, samples}:
        x = exported.images(count)
        torch.testing.assert_close(method.execute([x]), outputs(result.model, x))


@pytest.mark.filterwarnings("default")
def test_transformers_loads_the_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=36, num_hidden_layers=2, num_attention_heads=2, intermediate_size=72, num_labels=5
    )
    model = transformers.BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(0, 50, (4, 8))}
    bits = {unit: (2 + number % 7, 8) for number, unit in enumerate(ribs.count(model, batch).units)}
    result = ribs.quantize(model, [batch], bits, progress=False)
    monkeypatch.chdir(tmp_path)
    run("compressed_tensors", result=result, model=model)
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "packed")
    for module in result.model.modules():
        if isinstance(module, QuantizedLayer):
            module.set_bits(module.weight_quantizer.bits, 32)
        elif isinstance(module, QuantizedMatmul):
            module.set_bits(32, 32)
    found, expected = (outputs(each, batch)[0] for each in (loaded, result.model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert (outputs(model, batch)[0] - expected).abs().max() > 1e-4
