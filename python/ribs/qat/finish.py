"""`ribs.qat.finish`: from a trained network to a `Result`."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ribs.qat.prepare import ORIGIN, find_origin
from ribs.qat.quantizers import LearnedActivations, LearnedShares, LearnedWeights
from ribs.quant.copies import unwrap
from ribs.quant.fold import fold_batch_norms
from ribs.quant.inputs import collect
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.select.evaluate import losses_on
from ribs.select.loss import TaskLoss, check_loss, kl_divergence
from ribs.select.result import Result
from ribs.select.sampling import standard_error


@torch.no_grad()
def finish(
    network: nn.Module,
    model: nn.Module,
    loader: Iterable[Any],
    *,
    calibration_samples: int = 1024,
    loss: TaskLoss = kl_divergence,
) -> Result:
    """Fold the batch norms of a trained network and return what it became as a result, to be saved or exported.

    network: what `ribs.qat.prepare` returned, trained, or a copy of it, such as the average that timm's ModelEmaV3
        keeps; `torch.compile` and `DistributedDataParallel` may wrap it. It is not changed.
    model: the float model that it was made of.
    loader: as for `ribs.search`; by its samples the result's loss is measured, against the float model.
    loss: as for `ribs.search`.

    Returns: a `Result` whose model gives what the network gives in eval mode, but for the rounding of float sums: every
    weight keeps its code, also where folding turns the sign of a channel.

    Raises: ValueError for a network of another kind, at other bits than it was made for, or that holds NaN or Inf;
        TypeError for what is no loss.
    """
    check_loss(loss)
    network = unwrap(network)
    origin = find_origin("finish", network)
    _check_bits(network, origin)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"[finish] the network's {name} holds NaN or Inf; go back to a checkpoint before")
    model = unwrap(model)
    batches = collect(model, loader, calibration_samples)
    trained = copy.deepcopy(network).requires_grad_(False)
    delattr(trained, ORIGIN)
    _fold(trained, origin)
    _fix_activations(trained)
    trained.eval()
    losses = np.concatenate([*losses_on(model, trained, batches, loss)])
    mean = float(losses.mean())
    return replace(origin, model=trained, loss=mean, standard_error=standard_error(losses), loss_as_searched=mean)


def _check_bits(network: nn.Module, origin: Result) -> None:
    owner = origin.costs.owner
    for name, layer in network.named_modules():
        if not isinstance(layer, (QuantizedLayer, QuantizedMatmul)):
            continue
        weight_bits, activation_bits = origin.bits[owner[name]]
        found = {(activation_bits, each.bits) for each in layer.activation_quantizers}
        if isinstance(layer, QuantizedLayer):
            found.add((weight_bits, layer.weight_quantizer.bits))
        if any(want != bits for want, bits in found):
            raise ValueError(f"[finish] {name!r} has other bits than it was prepared for; go to them by recalibrate")


def _fold(network: nn.Module, origin: Result) -> None:
    """Give weights their steps, and fold the norms that were left; weights before those are rounded first."""
    for layer in network.modules():
        if not isinstance(layer, QuantizedLayer) or not isinstance(layer.weight_quantizer, LearnedWeights):
            continue
        quantizer = layer.weight_quantizer
        layer.weight_quantizer = quantizer.fixed_for(layer.weight)
        if quantizer.norm is not None:
            assert layer.layer is not None
            layer.layer.weight = nn.Parameter(quantizer(layer.weight), requires_grad=False)
            layer.rounded = True
    pairs = [(f"{name}.layer", norm) for name, norm in origin.costs.trace.batch_norms]
    fold_batch_norms(network, [pair for pair in pairs if isinstance(network.get_submodule(pair[1]), _BatchNorm)])


def _fix_activations(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, quantizer in list(parent.named_children()):
            if isinstance(quantizer, (LearnedActivations, LearnedShares)):
                parent.add_module(name, quantizer.fixed())
