"""The curvature of the loss in a layer's weights, times their squared error.

Source: Yao et al., HAWQ-V3: Dyadic Neural Network Quantization, ICML 2021. The score of a layer at b bits is
(trace of its Hessian / number of weights) ||W - Q_b(W)||^2, with the trace by Hutchinson's method, and an integer
program chooses.

The Hessian is that of the task loss between the float network and itself, at the float weights, where this loss is
least; for the KL divergence that is the Fisher matrix, and no labels are needed. Activations have no part in the
score, as in HAWQ-V3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ribs.quant.layers import QuantizedLayer
from ribs.select.loss import measure
from ribs.select.rivals.setting import BACKWARD, Setting, best_by_weights, weight_scores
from ribs.select.rivals.weight_error import squared_error
from ribs.select.samples import Choice

PROBES = 8  # random vectors for each batch


def choose(setting: Setting) -> Choice:
    """The least sum of mean trace times squared error. Costs 3 passes, and 4 for each of 8 random vectors."""
    trace = traces(setting)

    def score(name: str, layer: QuantizedLayer, quantized: Tensor) -> float:
        return trace[name] / layer.weight.numel() * squared_error(name, layer, quantized)

    return best_by_weights(setting, weight_scores(setting, score))


def traces(setting: Setting, probes: int = PROBES) -> dict[str, float]:
    """The trace of the Hessian of the mean task loss in the float weights of each layer, estimated.

    The mean of v^T H v over random signs v, drawn anew for each batch and probe.
    Raises: ValueError for weights that are no Conv's or Linear's parameter as it is.
    """
    setting.in_float()
    generator = setting.generator()
    for _, name, layer in setting.layers():
        if isinstance(layer, QuantizedLayer) and not layer.has_own_weight:
            raise ValueError(f"[hawq] the weights of {name!r} are no Conv's or Linear's own; choose another method")
    weights = {
        name: layer.weight.detach().clone().requires_grad_()
        for _, name, layer in setting.layers()
        if isinstance(layer, QuantizedLayer)
    }
    tensors = {f"{name}.layer.weight": weight for name, weight in weights.items()}
    sums = dict.fromkeys(weights, 0.0)
    for inputs in setting.batches():
        with torch.no_grad():
            target = inputs.call(setting.network.model)
        loss = measure(setting.loss, target, setting.call(inputs, tensors), inputs).sum() / setting.samples
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        for _ in range(probes):
            signs = [_signs(weight, generator) for weight in weights.values()]
            products = torch.autograd.grad(gradients, list(weights.values()), signs, retain_graph=True)
            for name, sign, product in zip(weights, signs, products, strict=True):
                sums[name] += float((sign.double() * product.double()).sum()) / probes
    setting.passes += 1 + BACKWARD + probes * 2 * BACKWARD
    return sums


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, weight.shape, generator=generator) * 2.0 - 1.0).to(weight)
