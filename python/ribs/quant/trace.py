"""What one forward pass of a network showed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ribs.quant.products import LEFT, RIGHT

LAYER_TYPES = (_ConvNd, nn.Linear)
Readers = tuple[tuple[str | None, str | None], ...]  # of each sum in order: the layers that read its operands before


@dataclass(frozen=True)
class Layer:
    """One operation that can be quantized.

    name: path of its module; for any other product, the path its quantizers will have: that of the parameter it
        multiplies by, with its kind and a number (`attn.in_proj_weight_linear0`), or, for a matmul of two activations,
        that of the module whose forward it is in (`attn.matmul0`).
    macs: multiply-accumulates for one sample, over all its calls.
    weights: number of weights, 0 for a matmul.
    channels: output channels, each with a step of its own for its weights; 0 for a matmul.
    biases: number of biases once batch norm is folded, 0 for a matmul.
    calls: how often it runs in one pass; each call's operands have quantizers of their own.
    """

    name: str
    kind: Literal["conv", "linear", "matmul"]
    macs: int
    weights: int
    channels: int
    biases: int
    calls: int = 1


@dataclass(frozen=True)
class Read:
    """A tensor that a layer reads, and when it is live. Moments are calls of layers, numbered from 0.

    tensor: a number for the tensor: reads of the same one share it.
    layer: who reads it.
    elements: of one sample.
    born: the moment that makes it; -1 for what is there before any layer runs.
    last: the last moment before anything for which it, or a view of the same memory, is still wanted.
    """

    tensor: int
    layer: str
    elements: int
    born: int
    last: int


@dataclass(frozen=True)
class Site:
    """One product in a module's forward, apart from those of torch's own layers.

    layer: whose quantizers it takes; None where no operand depends on the network's inputs: it stays in float.
    weight: which operand is the weights, None for a matmul.  axis: its dimension of output channels.
    shape: of the weights.
    inputs: which of left operand, right operand and what is added depend on the network's inputs.
    """

    layer: str | None
    weight: int | None = None
    axis: int | None = None
    shape: tuple[int, ...] = ()
    inputs: tuple[int, ...] = (LEFT, RIGHT)


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    layers: in the order of their first call.
    batch_norms: (layer, batch norm) pairs in which nothing else reads the layer's output.
    sites: for each module with products in its own forward, those of one call in their order.
    skipped: products that would be layers but stay in float as the user asked, in the order of their first call.
    unquantized: MACs for one sample of all other products, by module ("" for those seen only in total); of operators
        that are not torch's, which may multiply, 0.
    parameters: number of all parameters of the model.
    others: numbers that stay in float beside weights and biases: other parameters, statistics of unpaired norms.
    moments: the layer of each call, in order.
    reads: the tensors that layers read, each once for each layer that reads it.
    sums: the layers whose outputs were added, two sides a sum. What is computed from one output alone counts as it;
        a sum is no layer's output.
    norms: by layer norm, the linears that read its output, through functionals too, where nothing else does.
    shares: (matmul, number of its call, operand) of each operand that is the output of a softmax.
    sources: by layer, the parameters and buffers that its weights are or are computed from.
    otherwise: parameters and buffers that are not only read to multiply by, as weights of layers.
    in_float: the modules that are skipped.
    residuals: for each module that adds tensors in its own forward, of all calls that are not alike, in order: for each
        sum, the first layer with weights that read the left operand before, and of the right one; None for tensors that
        no layer read, or that changed since. Of modules that add no such tensors no calls; empty where none does.
    """

    layers: tuple[Layer, ...]
    skipped: tuple[Layer, ...]
    batch_norms: tuple[tuple[str, str], ...]
    sites: dict[str, tuple[Site, ...]]
    unquantized: dict[str, int]
    parameters: int
    others: int
    moments: tuple[str, ...]
    reads: tuple[Read, ...]
    sums: tuple[tuple[str, str], ...]
    norms: dict[str, tuple[str, ...]]
    shares: frozenset[tuple[str, int, int]]
    sources: dict[str, tuple[str, ...]]
    otherwise: tuple[str, ...]
    in_float: tuple[str, ...]
    residuals: dict[str, tuple[Readers, ...]] = field(default_factory=dict)


def name_float_products(seen: Trace) -> None:
    """Warn the caller of `prepare` of all MACs that are not quantized."""
    skipped = [layer.name for layer in seen.skipped]
    if not skipped and not seen.unquantized:
        return
    reasons = []
    if seen.unquantized:
        places = ", ".join(name or "outside of any module" for name in seen.unquantized)
        reasons.append(f"products that ribs has no quantizers for, in {places}")
    if skipped:
        reasons.append(f"skipped {', '.join(skipped)}")
    macs = sum(seen.unquantized.values()) + sum(layer.macs for layer in seen.skipped)
    warnings.warn(
        f"[ribs] {macs:,} MACs stay in float and are counted at 32 x 32 bits: {'; '.join(reasons)}", stacklevel=4
    )
