import pytest
import timm
import torch
import torchvision
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.tracing import trace
from ribs.quant.units import find_units


def units_of(model: nn.Module, scheme="block", size=64):
    return find_units(model, trace(model.eval(), Inputs((torch.randn(1, 3, size, size),), {})).layers, scheme)


RESNET18 = [
    "conv1",
    "layer1.0",
    "layer1.1",
    "layer2.0",
    "layer2.1",
    "layer3.0",
    "layer3.1",
    "layer4.0",
    "layer4.1",
    "fc",
]
VIT = ["patch_embed.proj", *(f"blocks.{i}" for i in range(12)), "head"]


@pytest.mark.parametrize(
    ("model", "names"),
    [(timm.create_model("resnet18"), RESNET18), (torchvision.models.resnet18(), RESNET18)],
    ids=["timm", "torchvision"],
)
def test_resnet18_blocks(model, names):
    assert [unit.name for unit in units_of(model)] == names


@pytest.mark.parametrize(
    ("name", "count"),
    [("mobilenetv2_050", 20), ("efficientnet_b0", 19), ("resnet50", 18), ("convnext_atto", 17)],
)
def test_block_counts(name, count):
    units = units_of(timm.create_model(name))
    assert len(units) == count


def test_vit_blocks_hold_their_matmuls():
    units = units_of(timm.create_model("vit_tiny_patch16_224", img_size=64))
    assert [unit.name for unit in units] == VIT
    assert {"blocks.0.attn.matmul0", "blocks.0.attn.qkv", "blocks.0.mlp.fc2"} <= set(units[1].layers)


def test_swin_blocks_are_not_its_stages():
    names = [unit.name for unit in units_of(timm.create_model("swin_tiny_patch4_window7_224", img_size=56), size=56)]
    assert "layers.0.blocks.1" in names
    assert "layers.0" not in names


def test_model_without_blocks_falls_back_to_layers():
    units = units_of(timm.create_model("vgg11"))
    assert [unit.layers for unit in units] == [(unit.name,) for unit in units]


@pytest.mark.parametrize("scheme", ["block", "layer", {"ends": ["conv1", "fc"], "rest": ["layer?"]}], ids=str)
def test_every_layer_is_in_one_unit(scheme):
    model = timm.create_model("resnet18")
    units = units_of(model, scheme)
    layers = [layer for unit in units for layer in unit.layers]
    convs_and_linears = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sorted(layers) == sorted(convs_and_linears)


def test_own_groups():
    units = units_of(timm.create_model("resnet18"), {"early": ["conv1", "layer1"], "late": ["layer4.*.conv2"]})
    assert units[0].name == "early"
    assert units[0].layers == ("conv1", *(f"layer1.{i}.conv{j}" for i in (0, 1) for j in (1, 2)))
    assert next(unit for unit in units if unit.name == "late").layers == ("layer4.0.conv2", "layer4.1.conv2")


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("blocks", "units='blocks' is not supported"),
        ({"a": ["nothing*"]}, "pattern 'nothing\\*' matches no layer"),
        ({"a": ["fc"], "b": ["fc"]}, "layer 'fc' is in two units, 'a' and 'b'"),
    ],
)
def test_bad_schemes(scheme, message):
    with pytest.raises(ValueError, match=message):
        units_of(timm.create_model("resnet18"), scheme)
