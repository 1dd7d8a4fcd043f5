"""Whether what was read hangs together, and whether it is of the model that is given."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ribs.io.content import Content, SavedLayer, SavedWeight, describe
from ribs.io.errors import FormatError
from ribs.io.quantizers import check_bits
from ribs.ops.layout import memory_order
from ribs.quant.products import ADDED, LEFT, RIGHT
from ribs.quant.quantizer import FLOAT_BITS
from ribs.quant.recipe import RECIPES
from ribs.quant.sums import residual_sums
from ribs.quant.trace import LAYER_TYPES, Layer, Site, Trace

LARGEST_COUNT = 2**53  # of MACs or elements: more than any network has, and sums of products stay far from overflow
LARGEST_DIMENSIONS = 16


def check_content(content: Content) -> None:
    """Raises: FormatError for parts that contradict each other, or numbers that no network has."""
    seen = content.trace
    names = [layer.name for layer in seen.layers]
    _require(bool(names) and len(set(names)) == len(names), "the layers are not each there once")
    _require(set(content.layers) == set(names), "not every layer has its quantizers")
    _check_trace(seen, set(names))
    in_units = [name for unit in content.units for name in unit.layers]
    _require(sorted(in_units) == sorted(names), "not every layer is in one unit")
    _require([unit.name for unit in content.units] == list(content.bits), "the bits are not those of the units")
    for unit in content.units:
        _require(bool(unit.layers), f"unit {unit.name!r} is empty")
        for each in content.bits[unit.name]:
            check_bits(each, f"unit {unit.name!r}")
    if RECIPES[content.recipe].residuals:
        try:
            residual_sums(seen)
        except ValueError as error:
            raise FormatError(f"[load] the saved result contradicts itself: {error}") from None
    owner = content.costs.owner
    for layer in seen.layers:
        _check_layer(layer, content.layers[layer.name], content.bits[owner[layer.name]])
    for record in content.history:
        _require(record.bits.keys() == content.bits.keys(), "a step of the history has other units")
        _require(record.spent.keys() <= content.limits.keys(), "a step of the history has other limits")
    try:
        spent = content.costs.bops(content.bits), content.costs.size_mib(content.bits)
    except (OverflowError, ValueError) as error:
        raise FormatError(f"[load] the saved result contradicts itself: {error}") from None
    _require(spent == (content.bops, content.size_mib), "its costs are not those of its bits")


def check_fits(content: Content, model: nn.Module) -> None:
    """Raises: FormatError naming the first layer, norm or product that the model has no place for."""
    modules = dict(model.named_modules())
    sites = {site.layer for each in content.trace.sites.values() for site in each}
    for layer in content.trace.layers:
        _check_place(layer, content.layers[layer.name].packed, modules, layer.name in sites)
    folded = [name for pair in content.trace.batch_norms for name in pair]
    for name, norm in content.trace.batch_norms:
        if not _is_norm_of(modules.get(norm), modules.get(name)) or folded.count(name) + folded.count(norm) > 2:
            raise _other(f"{norm!r} is no batch norm of the outputs of {name!r}")
    for name in (*content.trace.sites, *content.trace.residuals, *content.trace.in_float):
        if name not in modules:
            raise _other(f"it has no module {name!r}")


def check_modules(content: Content, network: nn.Module) -> None:
    """Raises: FormatError naming the first module in which the quantized network differs from that saved."""
    found, saved = describe(network), content.modules
    for here, there in zip(found, saved, strict=False):
        if here != there:
            raise _other(f"it has {_module(here)} where there was {_module(there)}")
    if len(found) > len(saved):
        raise _other(f"it has {_module(found[len(saved)])} beside what was saved")
    if len(saved) > len(found):
        raise _other(f"it lacks {_module(saved[len(found)])}")


def _check_shape(name: str, here: torch.Tensor, dtype: object, shape: Iterable[int]) -> None:
    """Raises: FormatError naming a tensor of the model whose type or shape is not that saved."""
    if here.dtype != dtype or tuple(here.shape) != tuple(shape):
        raise _other(f"its {name!r} is {here.dtype} {tuple(here.shape)}, saved was {dtype} {tuple(shape)}")


def _check_trace(seen: Trace, names: set[str]) -> None:
    counts = [
        number
        for layer in (*seen.layers, *seen.skipped)
        for number in (layer.macs, layer.weights, layer.channels, layer.biases)
    ]
    counts += [*seen.unquantized.values(), seen.parameters, seen.others, *(read.elements for read in seen.reads)]
    _require(all(0 <= count < LARGEST_COUNT for count in counts), "it counts what no network has")
    mentioned = {*seen.moments, *seen.sources, *(read.layer for read in seen.reads)}
    mentioned |= {site.layer for each in seen.sites.values() for site in each if site.layer is not None}
    mentioned |= {name for pair in seen.sums for name in pair} | {name for name, _ in seen.batch_norms}
    _require(mentioned <= names, "it names layers that are not there")
    moments = len(seen.moments)
    _require(all(-1 <= read.born <= read.last < moments for read in seen.reads), "a tensor is read when nothing runs")
    matmuls = {layer.name for layer in seen.layers if layer.kind == "matmul"}
    _require(names - matmuls <= seen.sources.keys(), "a layer has weights from nowhere")
    _require(not matmuls & seen.sources.keys(), "a matmul has weights")
    for each in seen.sites.values():
        for site in each:
            _check_site(site, matmuls)
    added = {layer for calls in seen.residuals.values() for sums in calls for pair in sums for layer in pair}
    _require(added <= names - matmuls | {None}, "a sum reads what no layer with weights reads")


def _check_site(site: Site, matmuls: set[str]) -> None:
    _require(site.weight in (None, LEFT, RIGHT) and set(site.inputs) <= {LEFT, RIGHT, ADDED}, "a product is none")
    _require(site.layer is None or (site.weight is None) == (site.layer in matmuls), "a matmul is none")
    _require(site.axis is None or 0 <= site.axis < len(site.shape), "weights have no such dimension")


def _check_layer(layer: Layer, saved: SavedLayer, bits: tuple[int, int]) -> None:
    matmul = layer.kind == "matmul"
    _require((saved.weight is None) == matmul, f"{layer.name!r} has weights or none, against its kind")
    _require(layer.calls >= 1, f"{layer.name!r} never runs")
    _require(len(saved.inputs) == layer.calls * (2 if matmul else 1), f"{layer.name!r} has other calls than quantizers")
    found = {each.bits for each in saved.inputs}
    _require(found == {bits[1]}, f"the activations of {layer.name!r} do not have the bits of its unit")
    if saved.weight is not None:
        _require(saved.weight.bits == bits[0], f"the weights of {layer.name!r} do not have the bits of its unit")
        _check_weight(layer, saved.weight)


def _check_weight(layer: Layer, saved: SavedWeight) -> None:
    dims = len(saved.shape)
    _require(saved.axis is None or 0 <= saved.axis < LARGEST_DIMENSIONS, f"{layer.name!r} has steps along no dimension")
    if saved.bits == FLOAT_BITS and not saved.held:
        return
    small = all(1 <= each < LARGEST_COUNT for each in (*saved.shape, *saved.stride))
    _require(dims <= LARGEST_DIMENSIONS and len(saved.stride) == dims and small, f"{layer.name!r} has no such shape")
    _require(math.prod(saved.shape) == layer.weights, f"{layer.name!r} has another number of weights")
    _require(saved.axis is None or saved.axis < dims, f"{layer.name!r} has steps along no dimension")
    weights = torch.empty_strided(saved.shape, saved.stride, device="meta")
    _require(memory_order(weights) is not None, f"the weights of {layer.name!r} have gaps")


def _check_place(layer: Layer, packed: SavedWeight | None, modules: dict[str, nn.Module], product: bool) -> None:
    """Raises unless the model has the layer, or a place for the quantizers of a product."""
    module = modules.get(layer.name)
    if module is None:
        parent, _, child = layer.name.rpartition(".")
        if parent not in modules or not child or hasattr(modules[parent], child) or not product:
            raise _other(f"it has no layer {layer.name!r}")
        if packed is not None and not packed.held:
            raise FormatError(f"[load] the saved result contradicts itself: {layer.name!r} has no weights of its own")
        return
    if not isinstance(module, LAYER_TYPES) or layer.kind == "matmul":
        raise _other(f"its {layer.name!r} is a {type(module).__name__}")
    if packed is None or packed.held:
        return
    weight = module._parameters.get("weight")
    if weight is None:
        raise _other(f"its {layer.name!r} has no weights of its own")
    _check_shape(f"{layer.name}.weight", weight, torch.float32, packed.shape)


def _is_norm_of(norm: nn.Module | None, layer: nn.Module | None) -> bool:
    if not isinstance(norm, _BatchNorm) or not isinstance(layer, LAYER_TYPES):
        return False
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return norm.num_features == channels


def _module(description: tuple[str, str, str]) -> str:
    name, kind, said = description
    said = said if len(said) <= 80 else f"{said[:77]}..."
    return f"{name or 'itself'!r}: {kind}({said})"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise FormatError(f"[load] the saved result contradicts itself: {otherwise}")


def _other(difference: str) -> FormatError:
    return FormatError(f"[load] the model is not the one that was saved: {difference}; give a model of the same kind")
