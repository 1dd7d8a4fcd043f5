"""Steps found anew in a network in training, at its bits or at others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ribs import ops
from ribs.qat.prepare import find_origin
from ribs.qat.quantizers import Learned, LearnedActivations, LearnedWeights
from ribs.quant.copies import unwrap
from ribs.quant.inputs import collect
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.network import Bits, QuantizedNetwork, observe
from ribs.quant.quantizer import PooledSteps
from ribs.select.result import Result


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    loader: Iterable[Any],
    bits: Mapping[str, Bits] | None = None,
    *,
    calibration_samples: int = 1024,
) -> None:
    """Give weights and activations the steps of least squared error for what they are now.

    network: what `ribs.qat.prepare` returned, trained so far; changed in place. Parameters stay the same objects, so
        that optimizers go on. Levels of softmax outputs stay as they are.
    loader: as for `ribs.search`; activations are seen on its first `calibration_samples` samples, in eval mode.
    bits: {unit: (weight bits, activation bits)} to train at from now on, such as more than in the end; quantizers that
        are in float stay so. By default those that the network was prepared for, which `ribs.qat.finish` needs.
    Raises: ValueError for a network of another kind, and for bits that do not fit.
    """
    network = unwrap(network)
    origin = find_origin("recalibrate", network)
    batches = collect(network, loader, calibration_samples)
    observers = []
    for name, layer, quantizer, width in _learned(network, origin, bits):
        if isinstance(quantizer, LearnedWeights):
            found = ops.search_steps(layer.weight, (width,), symmetric=True, axis=quantizer.axis)
            quantizer.set_steps((width,), found.step, found.zero_point)
        else:
            observers.append(PooledSteps(name, (width,), quantizer))
    training = {module: module.training for module in network.modules()}
    try:
        observe(QuantizedNetwork(network.eval(), origin.costs.trace, origin.costs.groups), observers, batches)
    finally:
        for module, mode in training.items():
            module.training = mode


def choose_bits(network: nn.Module, bits: Mapping[str, Bits]) -> None:
    """Train at other bits from now on with the steps that there are: those of a state that is loaded next."""
    for _, _, quantizer, width in _learned(network, find_origin("choose_bits", network), bits):
        quantizer.choose(width)


def _learned(
    network: nn.Module, origin: Result, bits: Mapping[str, Bits] | None
) -> Iterator[tuple[str, Any, Learned, int]]:
    """Each learned quantizer with the name of its layer, the layer, and the bits that it gets."""
    configuration = origin.costs.configuration(origin.bits if bits is None else bits)
    owner = origin.costs.owner
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, (QuantizedLayer, QuantizedMatmul)):
            continue
        weight_bits, activation_bits = configuration[owner[name]]
        if isinstance(layer, QuantizedLayer) and isinstance(layer.weight_quantizer, LearnedWeights):
            yield name, layer, layer.weight_quantizer, weight_bits
        for quantizer in layer.activation_quantizers:
            if isinstance(quantizer, LearnedActivations):
                yield name, layer, quantizer, activation_bits
