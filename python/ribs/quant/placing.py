"""Quantized layers and matmuls, put in the places of a network's products."""

from __future__ import annotations

import itertools

from torch import nn

from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.quantizer import FakeQuantizer, ShareQuantizer
from ribs.quant.recipe import Recipe
from ribs.quant.redirect import Repeats, redirect
from ribs.quant.sums import residual_sums
from ribs.quant.trace import Trace


def with_quantizers(network: nn.Module, seen: Trace, recipe: Recipe) -> tuple[nn.Module, Repeats]:
    """The network with its quantized layers and matmuls in place, and what numbers their calls."""
    sites = {site.layer: site for each in seen.sites.values() for site in each if site.layer is not None}
    modules = dict(network.named_modules())
    for layer in seen.layers:
        if layer.name not in modules:
            parent, _, child = layer.name.rpartition(".")
            made: nn.Module = QuantizedMatmul(layer.calls)
            if layer.kind != "matmul":
                made = QuantizedLayer(None, sites[layer.name], layer.calls, symmetric=recipe.symmetric)
            modules[parent].add_module(child, made)
    for layer in seen.layers:
        if layer.name in modules:
            made = QuantizedLayer(modules[layer.name], sites.get(layer.name), layer.calls, symmetric=recipe.symmetric)
            network = _replace(network, layer.name, made)
    if recipe.shares is not None:
        for name, call, operand in seen.shares:
            matmul = network.get_submodule(name)
            assert isinstance(matmul, QuantizedMatmul)
            matmul.set_quantizer(call, operand, ShareQuantizer(recipe.shares))
    if recipe.by_channel is not None:
        for name in itertools.chain(*seen.norms.values()):
            network.get_submodule(name).input_quantizer = FakeQuantizer(symmetric=False, axis=-1)
    redirect(network, seen.sites, residual_sums(seen) if recipe.residuals else {}, seen.in_float)
    repeats = Repeats()
    repeats.attach(network, {layer.name: layer.calls for layer in seen.layers})
    return network, repeats


def _replace(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of another, under every name it has; returns the root, new if it was the layer."""
    if not name:
        return module
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child, candidate in list(parent._modules.items()):  # named_children skips repeats
            if candidate is old and parent is not module:
                setattr(parent, child, module)
    return model
