"""Profiling as it is written down plainly, in torch: the baseline of benchmarks/profiling.py.

Eager operators, weights quantized in every pass, every pass whole, steps by trying many.
"""

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.network import QuantizedNetwork
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, code_range
from ribs.quant.running import Apart
from ribs.select.loss import kl_divergence

BITS = range(2, 9)
Choice = tuple[int, ...]


def rounded(quantizer: FakeQuantizer, x: Tensor) -> Tensor:
    if quantizer.bits == FLOAT_BITS:
        return x
    index = quantizer.choices.index(quantizer.bits)
    shape = [1] * x.dim()
    if quantizer.axis is not None:
        shape[quantizer.axis] = -1
    step, zero_point = quantizer.step[index].view(shape), quantizer.zero_point[index].view(shape)
    if quantizer.axis is None:
        step, zero_point = step.view(()), zero_point.view(())
    qmin, qmax = code_range(quantizer.bits, quantizer.symmetric)
    return (torch.clamp(torch.round(x / step) + zero_point, qmin, qmax) - zero_point) * step


def eager_layer(module: QuantizedLayer, x: Tensor) -> Tensor:
    layer = module.layer
    with Apart():
        x, weight = rounded(module.input_quantizer, x), rounded(module.weight_quantizer, layer.weight)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def eager_matmul(module: QuantizedMatmul, *activations: Any) -> Tensor:
    *others, rest = activations
    left, right, added = rest.operands(others)
    with Apart():
        return rest.run(rounded(module.left_quantizer, left), rounded(module.right_quantizer, right), added)


def plain(network: QuantizedNetwork) -> QuantizedNetwork:
    """A copy whose layers are plain torch."""
    model = copy.deepcopy(network.model)
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.forward = partial(eager_layer, module)
        elif isinstance(module, QuantizedMatmul):
            module.forward = partial(eager_matmul, module)
    return QuantizedNetwork(model, network.trace, network.units)


class WholePasses:
    """Measures configurations one after the other, each by passes of the whole network."""

    def __init__(self, network: QuantizedNetwork, batches: list[Tensor]) -> None:
        self.network, self.batches = network, batches
        network.configure({unit.name: (FLOAT_BITS, FLOAT_BITS) for unit in network.units})
        with torch.no_grad():
            self.targets = [network.model(x) for x in batches]

    @torch.no_grad()
    def measure(self, choices: list[Choice], shard: int) -> np.ndarray:
        losses = []
        for choice in choices:
            self.network.configure(
                {u.name: (BITS[k], BITS[k]) for u, k in zip(self.network.units, choice, strict=True)}
            )
            losses.append(kl_divergence(self.targets[shard], self.network.model(self.batches[shard])).cpu().numpy())
        return np.stack(losses)


def torch_steps(x: Tensor, symmetric: bool, axis: int | None, count: int = 80) -> tuple[Tensor, Tensor]:
    """[K], or [K, channels], steps and zero points: the best of `count` shrunken ranges by squared error."""
    rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    steps, zero_points = [], []
    for bits in BITS:
        qmin, qmax = code_range(bits, symmetric)
        best = torch.full_like(low, torch.inf)
        step, zero = torch.ones_like(low), torch.zeros_like(low)
        for shrink in torch.linspace(0.2, 1.0, count).tolist():
            if symmetric:
                s, z = shrink * torch.maximum(-low, high) / qmax if bits > 1 else shrink * high, torch.zeros_like(low)
            else:
                s = (shrink * (high - low).clamp(min=1e-8)) / (qmax - qmin)
                z = torch.round(-shrink * low / s).clamp(qmin, qmax)
            q = (torch.clamp(torch.round(rows / s[:, None]) + z[:, None], qmin, qmax) - z[:, None]) * s[:, None]
            error = (q - rows).square().sum(1)
            better = error < best
            best, step, zero = (
                torch.where(better, error, best),
                torch.where(better, s, step),
                torch.where(better, z, zero),
            )
        steps.append(step if axis is not None else step[0])
        zero_points.append(zero.int() if axis is not None else zero[0].int())
    return torch.stack(steps), torch.stack(zero_points)


@torch.no_grad()
def calibrate_plainly(network: QuantizedNetwork, batches: list[Tensor]) -> None:
    """The steps of every tensor by `torch_steps`; activations' are those of each batch, averaged."""
    found: dict[FakeQuantizer, list[tuple[Tensor, Tensor]]] = {}
    hooks = []
    for module in network.model.modules():
        if isinstance(module, QuantizedLayer):
            module.weight_quantizer.set_steps(BITS, *torch_steps(module.layer.weight, True, 0))
        for quantizer in getattr(module, "activation_quantizers", ()):
            steps = found.setdefault(quantizer, [])
            hooks.append(
                quantizer.register_forward_pre_hook(
                    lambda _, args, steps=steps: steps.append(torch_steps(args[0], False, None))
                )
            )
    for x in batches:
        network.model(x)
    for hook in hooks:
        hook.remove()
    for quantizer, each in found.items():
        step = torch.stack([step for step, _ in each]).mean(0)
        quantizer.set_steps(BITS, step, torch.stack([zero.float() for _, zero in each]).mean(0).round().int())
