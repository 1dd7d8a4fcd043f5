"""Networks of timm and transformers, saved, and loaded into others of random weights."""

import math

import pytest
import torch
from safetensors.torch import load_file
from saved import made, outputs, quantized
from torch import nn

import ribs

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")


class Gpt2(nn.Module):
    """Its convolutions are matrices of (in, out), and its head shares the embedding's."""

    def __init__(self):
        super().__init__()
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 32, "n_positions": 16}
        tokens = {"bos_token_id": 1, "eos_token_id": 2}
        self.model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **tokens, use_cache=False))

    def forward(self, input_ids):
        return self.model(input_ids).logits


def mobilenet():
    return timm.create_model("mobilenetv2_050", num_classes=10)


def vit():
    return timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MODELS = [(mobilenet, IMAGES), (vit, IMAGES), (Gpt2, {"input_ids": torch.arange(12).reshape(2, 6)})]


@pytest.mark.parametrize(("make", "batch"), MODELS, ids=lambda each: getattr(each, "__name__", ""))
def test_loaded_network_is_the_saved_one(make, batch, tmp_path):
    for bits in (2, 8, None):
        result = quantized(made(make, 1), batch, bits)
        result.save(tmp_path / "a")
        loaded = ribs.load(tmp_path / "a", made(make, 2))
        pairs = zip(outputs(result.model, batch), outputs(loaded.model, batch), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), bits
        assert not any(module.training for module in loaded.model.modules())
        stored = load_file(tmp_path / "a" / "weights.safetensors")
        weights = sum(each.nbytes for name, each in stored.items() if name.endswith("weight_packed"))
        layers = sum(layer.weights > 0 for layer in result.costs.layers)
        assert 0 <= weights - math.ceil(result.size_mib * 2**20) < 4 * layers


def without_bias():
    return timm.create_model("deit_tiny_patch16_224", img_size=32, depth=1, num_classes=10, qkv_bias=False)


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)


def beit():
    return timm.create_model("beit_base_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=3, num_classes=4)


TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [(3, 4), (32, 4), (3, 32)])
@pytest.mark.parametrize(
    ("make", "batch"), [(encoder, TOKENS), (beit, IMAGES), MODELS[-1]], ids=lambda each: getattr(each, "__name__", "")
)
def test_steps_moved_into_functionals_come_back(make, batch, bits, tmp_path):
    """Their weights are held and what they add is stored beside them, whether they are packed or not."""
    result = ribs.quantize(made(make, 1), [batch], bits, recipe="repq+", loss=ribs.losses.Embedding(), progress=False)
    result.save(tmp_path / "a")
    names = load_file(tmp_path / "a" / "weights.safetensors").keys()
    assert any(name.endswith(".added") for name in names) == (bits[1] != 32)
    assert any(name.endswith(".held") for name in names) == (bits[0] == 32 and make is not beit)
    loaded = ribs.load(tmp_path / "a", made(make, 2))
    assert torch.equal(*outputs(result.model, batch), *outputs(loaded.model, batch))
    loaded.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.filterwarnings("ignore:.*stay in float:UserWarning")
def test_steps_moved_into_biases_and_skipped_modules_come_back(tmp_path):
    """The recipe makes a bias where the model has none, and its softmax outputs have levels of their own."""
    result = ribs.quantize(made(without_bias, 1), [IMAGES], (3, 4), recipe="repq+", skip=["head"], progress=False)
    result.save(tmp_path / "a")
    loaded = ribs.load(tmp_path / "a", made(without_bias, 2))
    assert torch.equal(*outputs(result.model, IMAGES), *outputs(loaded.model, IMAGES))
    assert loaded.recipe == "repq+" and loaded.costs.trace == result.costs.trace
