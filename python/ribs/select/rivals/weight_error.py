"""Squared error of the weights, which needs no data: the usual measure of quantizers, summed over the network."""

from __future__ import annotations

from torch import Tensor

from ribs.quant.layers import QuantizedLayer
from ribs.select.rivals.setting import Setting, best_by_weights, weight_scores
from ribs.select.samples import Choice


def choose(setting: Setting) -> Choice:
    """The least sum of ||W - Q(W)||^2. Costs no pass."""
    return best_by_weights(setting, weight_scores(setting, squared_error))


def squared_error(name: str, layer: QuantizedLayer, quantized: Tensor) -> float:
    return float((layer.multiplied - quantized).double().square().sum())
