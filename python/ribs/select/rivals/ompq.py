"""Orthogonality of layers: bits go where a layer's outputs resemble those of the other layers least.

Source: Ma et al., OMPQ: Orthogonal Mixed Precision Quantization, AAAI 2023. With Y_i the outputs of layer i on the
calibration set, one row a sample, centred, ORM_ij = ||Y_i^T Y_j||_F^2 / (||Y_i^T Y_i||_F ||Y_j^T Y_j||_F);
gamma_i = sum over j != i of ORM_ij; theta_i = exp(-beta gamma_i); the importance of layer i is the mean of theta over
it and all later layers, and the sum of importance x bits is to be largest.

Simplified: OMPQ solves a linear program in the bits and repairs its roundings; here an integer program gives the best
integer bits. Its beta differs from network to network, from 1e-9 to 100; here it is 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ribs.quant.layers import QuantizedMatmul
from ribs.select.rivals.setting import Scores, Setting, best_by_weights
from ribs.select.samples import Choice

BETA = 1.0
SAMPLES = 64  # of the calibration set, the first


def choose(setting: Setting) -> Choice:
    """The most importance x bits. Costs a pass over at most 64 samples."""
    return best_by_weights(setting, scores_of(setting, importances(orthogonality(outputs(setting)))))


def outputs(setting: Setting) -> list[Tensor]:
    """[samples, values] float64 outputs of each layer in float, in execution order; of several calls side by side."""
    setting.in_float()
    order = {layer.name: number for number, layer in enumerate(setting.network.trace.layers)}
    layers = sorted((order[name], layer) for _, name, layer in setting.layers())
    seen: dict[nn.Module, list[Tensor]] = {}
    batches: list[list[Tensor]] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        seen.setdefault(module, []).append(output.detach().double().flatten(1))

    handles = [layer.register_forward_hook(keep) for _, layer in layers]
    left = SAMPLES
    try:
        for inputs in setting.batches():
            seen.clear()
            part = inputs.head(min(left, inputs.samples))
            with torch.no_grad():
                part.call(setting.network.model)
            batches.append([torch.cat(seen[layer], dim=1) for _, layer in layers])
            left -= part.samples
            if left == 0:
                break
    finally:
        for handle in handles:
            handle.remove()
    setting.passes += (SAMPLES - left) / setting.samples
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def orthogonality(features: list[Tensor]) -> NDArray[np.float64]:
    """ORM: [layers, layers], from 0 (orthogonal) to 1."""
    # ||A^T B||_F^2 is the sum of the products of the Gram matrices A A^T and B B^T, which are small.
    centred = [each - each.mean(0) for each in features]
    grams = torch.stack([(each @ each.T).flatten() for each in centred])
    products = (grams @ grams.T).cpu().numpy()
    norms = np.sqrt(np.diag(products))
    return np.asarray(products / np.maximum(np.outer(norms, norms), np.finfo(np.float64).tiny))


def importances(orm: NDArray[np.float64]) -> NDArray[np.float64]:
    """[layers]; the largest is 1."""
    gamma = orm.sum(axis=1) - np.diag(orm)
    theta = np.exp(-BETA * (gamma - gamma.min()))
    later = theta[::-1].cumsum()[::-1] / np.arange(len(theta), 0, -1)
    return np.asarray(later / later.max())


def scores_of(setting: Setting, importance: NDArray[np.float64]) -> Scores:
    """-importance x bits, summed over the layers of each unit: weight bits, or activation bits of a matmul."""
    order = {layer.name: number for number, layer in enumerate(setting.network.trace.layers)}
    scores = setting.no_scores()
    for unit, name, layer in setting.layers():
        for candidate, (weight, activation) in enumerate(setting.plan.candidates[unit]):
            bits = activation if isinstance(layer, QuantizedMatmul) else weight
            scores[unit, candidate] -= importance[order[name]] * bits
    return scores
