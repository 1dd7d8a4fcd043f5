"""`Result.save` and `ribs.load`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ribs.io import folder as files
from ribs.io import schema
from ribs.io.check import check_content, check_fits, check_modules
from ribs.io.content import Content, SavedLayer
from ribs.io.quantizers import load_quantizer
from ribs.io.tensors import empty_places, other_tensors, packed_shapes, quantized_layers, save_layers, unpack
from ribs.quant.copies import unwrap
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.network import assemble
from ribs.quant.recipe import RECIPES
from ribs.quant.skip import Skip, check_model
from ribs.select.bit_table import as_csv, as_json
from ribs.select.result import Result


@torch.no_grad()
def save(result: Result, path: str | os.PathLike[str]) -> None:
    """`Result.save`."""
    files.check_free(Path(path))
    costs = result.costs
    layers = quantized_layers(result.model, costs.trace)
    for unit in costs.groups:
        if not all(_has_bits(layers[name], *result.bits[unit.name]) for name in unit.layers):
            raise ValueError(f"[save] the layers of {unit.name!r} no longer have the bits of the result")
    saved, packed = save_layers(layers, costs.trace)
    tensors = {**packed, **other_tensors(result.model, saved, costs.trace)}
    unknown = [name for name, tensor in tensors.items() if tensor.dtype not in files.DTYPES.values()]
    if unknown:
        raise TypeError(f"[save] {unknown[0]!r} is {tensors[unknown[0]].dtype}, which cannot be saved")
    weights, described = files.weights_file(tensors)
    content = schema.encode(Content, Content.of(result, saved, described))
    files.write(
        Path(path),
        {
            files.WEIGHTS: weights,
            files.RESULT: files.result_file(content),
            "bits.json": as_json(result.bits).encode(),
            "bits.csv": as_csv(result.bits).encode(),
        },
    )


def read(folder: Path) -> Content:
    """What is saved of a result, but its weights. Raises: FormatError and OSError as `load`."""
    content = schema.decode(Content, files.read_result(folder), "the saved result")
    check_content(content)
    return content


@torch.no_grad()
def load(path: str | os.PathLike[str], model: nn.Module) -> Result:
    """Build the quantized network of a saved result again.

    path: the folder that `Result.save` wrote.
    model: a float model of the same class and options, in eval mode; its weights do not matter, and it is not changed.
    Returns: the result, with all that it had. Its model is on the device of `model` and gives the outputs of the one
        saved, to the last bit on the same machine.
    Raises: FormatError where the folder is damaged, not one of ribs', of a newer version, or of another model, naming
        the first difference; OSError where it cannot be read; ValueError or TypeError for a model that
        `ribs.search` would refuse.
    """
    folder = Path(path)
    model = unwrap(model)
    check_model(model, Skip(model))
    content = read(folder)
    check_fits(content, model)
    # Whatever the recipe, the quantizers are replaced.
    recipe = replace(RECIPES["mse"], residuals=RECIPES[content.recipe].residuals)
    network = assemble(model, content.trace, content.units, recipe).model
    check_modules(content, network)
    layers = quantized_layers(network, content.trace)
    others = other_tensors(network, content.layers, content.trace)
    expected = {name: (each.dtype, tuple(each.shape)) for name, each in others.items()}
    device = next(model.parameters()).device
    shapes = {**packed_shapes(content.layers), **expected}
    places = empty_places(network)
    tensors = files.read_weights(folder, content.weights, shapes, optional=places.keys())
    for name, each in others.items():
        each.copy_(tensors[name])
    for name in tensors.keys() - shapes.keys():
        module, parameter = places[name]
        setattr(module, parameter, nn.Parameter(tensors[name].to(device), requires_grad=False))
    unpack(layers, content.layers, tensors, device)
    for name, layer in layers.items():
        _put_quantizers(name, layer, content.layers[name], device)
    return content.result(network.eval())


def _has_bits(layer: QuantizedLayer | QuantizedMatmul, weight_bits: int, activation_bits: int) -> bool:
    if isinstance(layer, QuantizedLayer) and layer.weight_quantizer.bits != weight_bits:
        return False
    return all(each.bits == activation_bits for each in layer.activation_quantizers)


def _put_quantizers(
    name: str, layer: QuantizedLayer | QuantizedMatmul, saved: SavedLayer, device: torch.device
) -> None:
    made: list[Any] = [
        load_quantizer(each, f"quantizer {number} of {name!r}", device) for number, each in enumerate(saved.inputs)
    ]
    if isinstance(layer, QuantizedLayer):
        layer.input_quantizer, *later = made
    else:
        layer.left_quantizer, layer.right_quantizer, *later = made
    layer.later = nn.ModuleList(later)
