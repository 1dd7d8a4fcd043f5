"""Batch norm folded into the convolution or linear layer before it, and which can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ribs.quant.tree import tensors


class Pairing:
    """Finds, while a network runs, the batch norms that alone read the output of a layer."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()  # of layers
        self._inputs: dict[str, list[Tensor]] = {}  # by batch norm
        self._outputs: dict[int, tuple[str, Tensor]] = {}  # with the layer; kept alive, so that no id is taken later
        self._uses: Counter[int] = Counter()

    def multiply(self, layer: str) -> None:
        """A layer runs."""
        self._calls[layer] += 1

    def leave(self, layer: str, output: Tensor) -> None:
        """A layer has given its output, a product by its weights and bias as they are."""
        self._outputs[id(output)] = layer, output

    def enter(self, norm: str, x: Tensor) -> None:
        """A batch norm is given its input."""
        self._inputs.setdefault(norm, []).append(x)

    def count_uses(self, tree: Any) -> None:
        """What is in the tree is read."""
        self._uses.update(id(leaf) for leaf in tensors(tree) if id(leaf) in self._outputs)

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(layer, batch norm), in which the norm ran once, on the output of the one call of a layer."""
        found = []
        for norm, (x, *others) in self._inputs.items():
            layer, _ = self._outputs.get(id(x), ("", x))
            if layer and not others and self._calls[layer] == 1 and self._uses[id(x)] == 1:
                found.append((layer, norm))
        return tuple(found)


def fold_batch_norms(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> int:
    """Fold each (layer, batch norm) pair in place and return how many were folded.

    y = gamma * (W x + c - mean) / sqrt(var + eps) + beta becomes one layer with scaled weights and a bias. The norm
    makes way for what it did besides normalising (timm's `BatchNormAct2d` carries `drop` and `act`), or for an
    identity. A norm without running statistics is left as it is.
    """
    folded = 0
    for layer_name, norm_name in pairs:
        norm = model.get_submodule(norm_name)
        assert isinstance(norm, _BatchNorm)
        if norm.running_mean is None or norm.running_var is None:
            continue
        _fold(model.get_submodule(layer_name), norm)
        parent, _, child = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), child, _remainder(norm))
        folded += 1
    return folded


def can_wait(model: nn.Module, layer_name: str, norm_name: str) -> bool:
    """Whether weights that were quantized before the norm is folded are so afterwards, with other steps by channel.

    Those of a transposed convolution in groups share steps between channels that are scaled differently.
    """
    layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
    has_statistics = isinstance(norm, _BatchNorm) and norm.running_mean is not None
    return has_statistics and not (isinstance(layer, _ConvTransposeNd) and layer.groups > 1)


@torch.no_grad()
def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    assert isinstance(layer, (_ConvNd, nn.Linear))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm_scale(norm)
    bias = -norm.running_mean.double() * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    if layer.bias is not None:
        bias = bias + layer.bias.double() * scale
    weight = _scale_output_channels(layer, layer.weight.double(), scale)
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), layer.weight.requires_grad)
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype), layer.weight.requires_grad)


def norm_scale(norm: _BatchNorm) -> Tensor:
    """[channels] float64: gamma / sqrt(var + eps), by which the weights before a norm with statistics are scaled."""
    assert norm.running_var is not None
    # In double: the quotient of two float32 roundings would otherwise show at 8 bits.
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    return scale if norm.weight is None else scale * norm.weight.double()


def _scale_output_channels(layer: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    if not isinstance(layer, _ConvTransposeNd):
        return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1))
    # (in, out / groups, ...): the input channels of a group meet that group's output channels only.
    grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
    per_group = scale.reshape(layer.groups, 1, -1, *(1,) * (weight.dim() - 2))
    return (grouped * per_group).reshape(weight.shape)


def _remainder(norm: _BatchNorm) -> nn.Module:
    rest = [module for name in ("drop", "act") if isinstance(module := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*rest) if rest else nn.Identity()
