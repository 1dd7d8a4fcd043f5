"""Quantized networks to save, without the measuring of losses."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import ribs
from ribs.quant.inputs import as_inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.cost import CostTable
from ribs.select.plan import bit_widths
from ribs.select.result import SearchCost


def quantized(model: nn.Module, batch: Any, bits: Any = None, units: Any = "layer", recipe: Any = "mse") -> ribs.Result:
    """The model at these bits, by default random ones."""
    inputs = as_inputs(model, batch)
    network = prepare(model, inputs, units, recipe=recipe)
    table = CostTable.of(network.trace, network.units, recipe=network.recipe.name)
    configuration = table.configuration(mixed(table) if bits is None else bits)
    calibrate(network, [inputs], bit_widths(configuration.values()))
    network.configure(configuration)
    return ribs.Result(
        bits=configuration,
        model=network.model,
        loss=0.5,
        standard_error=0.25,
        loss_as_searched=0.5,
        bops=table.bops(configuration),
        size_mib=table.size_mib(configuration),
        limits={},
        spending=(),
        history=(),
        stopped=False,
        cost_of_search=SearchCost(1.0, 2.0),
        costs=table,
        recipe=network.recipe.name,
    )


def mixed(table: CostTable, seed: int = 0) -> dict[str, tuple[int, int]]:
    choose = random.Random(seed)
    return {unit: (choose.randint(2, 8), choose.randint(2, 8)) for unit in table.units}


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model with random weights and statistics."""
    torch.manual_seed(seed)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def outputs(model: nn.Module, batch: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model(**batch) if isinstance(batch, Mapping) else model(batch)
    return [each for each in torch.utils._pytree.tree_leaves(output) if isinstance(each, torch.Tensor)]
