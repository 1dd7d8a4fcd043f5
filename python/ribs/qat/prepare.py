"""`ribs.qat.prepare`: a network at chosen bits that any trainer trains."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ribs.qat.quantizers import LearnedActivations, LearnedShares, LearnedWeights
from ribs.qat.rivals.pact import ClippedActivations
from ribs.quant.copies import unwrap
from ribs.quant.inputs import collect
from ribs.quant.layers import QuantizedLayer
from ribs.quant.network import QuantizedNetwork, calibrate
from ribs.quant.network import prepare as quantized_copy
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer, ShareQuantizer
from ribs.quant.ranges import RANGES
from ribs.quant.recipe import RECIPES, RecipeName, check_recipe
from ribs.quant.units import UnitScheme
from ribs.select.bit_table import read_bits
from ribs.select.cost import AnyBits, CostTable
from ribs.select.plan import bit_widths
from ribs.select.result import Result, SearchCost

Method = Literal["lsq", "lsq+", "pact"]
ORIGIN = "_qat_origin"  # the attribute of a network in training that holds what its result will be


def prepare(
    model: nn.Module,
    loader: Iterable[Any],
    bits: Result | AnyBits | str | os.PathLike[str],
    *,
    method: Method = "lsq",
    per_channel: bool = False,
    units: UnitScheme = "layer",
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    calibration_samples: int = 1024,
) -> nn.Module:
    """Make a network with learnable steps of a float model, at given bits, to be trained by any trainer.

    The network is a copy of the model, of its class, with quantized layers in the place of its layers. All that
    trained in the model trains in it, and the steps of weights and activations besides, by LSQ: gradients go straight
    through the rounding, and those of steps are scaled by 1 / sqrt(values x largest code). Batch norms are live, and
    weights are rounded before them; `ribs.qat.finish` folds them and returns a `Result`. A step that an optimizer takes
    to zero or below is used as 1/1024 of what it was at first, and its gradient can bring it back.

    model: float32, in eval mode; it is never changed.
    loader: as for `ribs.search`; its first `calibration_samples` samples show what steps to begin with: those of least
        squared error, or the recipe's. It is read once.
    bits: a `Result`, of which only the bits, the units and the recipe are used, or as for `ribs.quantize`.
    method: "lsq"; "lsq+", which learns the zero points of activations too; or, to compare with, "pact", where steps of
        activations learn of clipped values alone (`ribs.qat.rivals.pact`).
        All learn every step of softmax outputs whose levels the recipe makes uneven, as nuLSQ does.
    per_channel: give each output channel of weights a step of its own; by default there is one for a layer, as in LSQ.
    units, recipe, skip: as for `ribs.search`; those of a result are its own.

    Returns: the network, in training mode. It can be copied, compiled and wrapped; its state dict has all of it.

    Raises: ValueError or TypeError for bad input, among it bits that do not fit the model, before any long work.
    """
    if method not in get_args(Method):
        raise ValueError(f"[prepare] method={method!r} is not supported; give one of {get_args(Method)}")
    if isinstance(bits, (str, os.PathLike)):
        bits = read_bits(bits)
    if isinstance(bits, Result):
        if units != "layer" or recipe is not None or skip:
            raise ValueError("[prepare] units, recipe and skip are those of the result; leave them away")
        units = {unit.name: unit.layers for unit in bits.costs.groups}
        seen = bits.costs.trace
        recipe, skip = bits.recipe, (*seen.in_float, *(layer.name for layer in seen.skipped))
    check_recipe(recipe)
    if recipe is not None and not RECIPES[recipe].symmetric:
        raise ValueError(
            f"[prepare] recipe={recipe!r} is not supported, since weights with zero points are not trained; give "
            "another, and of a result its bits alone, bits=result.bits"
        )
    model = unwrap(model)
    batches = collect(model, loader, calibration_samples)
    network = quantized_copy(model, batches[0], units, recipe=recipe, skip=skip, training=True)
    origin = _origin(network, bits)
    calibrate(network, batches, bit_widths(origin.bits.values()))
    network.configure(origin.bits)
    _learn_weights(network, per_channel)
    _learn_activations(network.model, method)
    train_what_trained(network.model, model)
    setattr(network.model, ORIGIN, origin)
    return network.model.train()


def find_origin(caller: str, network: nn.Module) -> Result:
    """What the result of a network in training will be, but for its model and losses.

    Raises: ValueError for a network of another kind.
    """
    origin = getattr(network, ORIGIN, None)
    if not isinstance(origin, Result):
        raise ValueError(
            f"[{caller}] network={type(network).__name__} is not what ribs.qat.prepare returned; give that, trained"
        )
    return origin


def _origin(network: QuantizedNetwork, bits: Result | AnyBits) -> Result:
    """What the result will be, but for its model and losses. Raises: ValueError for bits that do not fit."""
    if isinstance(bits, Result):
        table = CostTable.of(network.trace, network.units, bits.costs.accounting, bits.recipe)
        return replace(bits, bits=table.configuration(bits.bits), model=nn.Identity(), costs=table)
    table = CostTable.of(network.trace, network.units, recipe=network.recipe.name)
    configuration = table.configuration(bits)
    return Result(
        bits=configuration,
        model=nn.Identity(),
        loss=math.nan,
        standard_error=math.nan,
        loss_as_searched=math.nan,
        bops=table.bops(configuration),
        size_mib=table.size_mib(configuration),
        limits={},
        spending=(),
        history=(),
        stopped=False,
        cost_of_search=SearchCost(0.0, 0.0),
        costs=table,
        recipe=network.recipe.name,
    )


def _learn_weights(network: QuantizedNetwork, per_channel: bool) -> None:
    norms = dict(network.trace.batch_norms)
    find = RANGES[network.recipe.weights]
    for name, layer in network.model.named_modules():
        if not isinstance(layer, QuantizedLayer) or layer.weight_quantizer.bits == FLOAT_BITS:
            continue
        norm = network.model.get_submodule(norms[name]) if name in norms else None
        live = norm if isinstance(norm, _BatchNorm) and norm.running_mean is not None else None
        quantizer = layer.weight_quantizer
        step: Tensor = quantizer.present[0]
        if not per_channel:
            step = find(layer.weight, (quantizer.bits,), symmetric=True, axis=None)[0][0]
        layer.weight_quantizer = LearnedWeights(quantizer, quantizer.axis if per_channel else None, step, live)


def _learn_activations(model: nn.Module, method: Method) -> None:
    for parent in list(model.modules()):
        for name, quantizer in list(parent.named_children()):
            if not isinstance(quantizer, Quantizer) or quantizer.bits == FLOAT_BITS:
                continue
            if type(quantizer) is FakeQuantizer:
                if method == "pact":
                    parent.add_module(name, ClippedActivations(quantizer))
                else:
                    parent.add_module(name, LearnedActivations(quantizer, learn_offset=method == "lsq+"))
            elif type(quantizer) is ShareQuantizer:
                parent.add_module(name, LearnedShares(quantizer))


def train_what_trained(network: nn.Module, model: nn.Module) -> None:
    """Have the parameters that the model brought require gradients where they did there."""
    steps = {id(each) for module in network.modules() if isinstance(module, Quantizer) for each in module.parameters()}
    brought = [each for each in network.parameters() if id(each) not in steps]
    for mine, theirs in zip(brought, model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
