"""The quantized places of a network, and copies of it in which something else stands there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ribs.io.errors import ExportError
from ribs.quant.copies import copy_model
from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer, ShareQuantizer
from ribs.quant.tree import map_leaves

Packing = Literal["packed", "native"]


class Form(NamedTuple):
    """How weights are written, and the version of ONNX's operators."""

    packing: Packing = "packed"
    opset: int = 21


@dataclass(frozen=True)
class Weights:
    """Weights that are multiplied, in integers: a code times the step of its channel.

    codes: int8, in the shape of the weights.  step: float32, a scalar, or [channels] along `axis`.
    """

    name: str
    bits: int
    codes: Tensor
    step: Tensor
    axis: int | None


@dataclass(frozen=True)
class Activations:
    """A tensor that is quantized as it comes. weights: the path of those it is multiplied by; None for a matmul."""

    name: str
    quantizer: Quantizer
    weights: str | None = None


Site = Weights | Activations


def find_sites(network: nn.Module) -> dict[str, Site]:
    """What is quantized at present, by the path of its quantizer.

    Raises: ExportError for weights with zero points, or that a quantizer of another kind rounds.
    """
    found: dict[str, Site] = {}
    for path, module in network.named_modules():
        if not isinstance(module, Quantizer) or module.bits == FLOAT_BITS:
            continue
        owner, _, place = path.rpartition(".")
        name = path.removesuffix("_quantizer")
        layer = network.get_submodule(owner)
        if isinstance(layer, QuantizedLayer) and place == "weight_quantizer":
            found[path] = _weights(name, layer)
        else:
            owner = owner.removesuffix(".later")
            layer = network.get_submodule(owner)
            weights = path[: len(owner)] + "." * bool(owner) + "weight_quantizer"
            found[path] = Activations(name, module, weights if isinstance(layer, QuantizedLayer) else None)
    return found


@torch.no_grad()
def _weights(name: str, layer: QuantizedLayer) -> Weights:
    quantizer = layer.weight_quantizer
    step, zero_point = quantizer.present
    if type(quantizer) is not FakeQuantizer or not quantizer.symmetric or bool(zero_point.any()):
        raise ExportError(f"[export] {name!r} has zero points or levels of its own; only symmetric codes are exported")
    codes = quantizer.codes(layer.multiplied.detach()).cpu().contiguous()
    return Weights(name, quantizer.bits, codes, step.detach().cpu(), quantizer.axis)


def bisected(quantizer: ShareQuantizer) -> tuple[Tensor, Tensor]:
    """The tables of a search for levels at unequal distances by bisection, which halves them in each round.

    Returns: the levels and the least value of each, both [2^rounds]. Those too many are never reached but by infinity,
    and are the last level.
    """
    levels, thresholds = (each.cpu() for each in quantizer.table)
    least = torch.full([1 << len(thresholds).bit_length()], torch.inf)
    least[1 : len(levels)] = thresholds
    return torch.cat([levels, levels[-1:].expand(len(least) - len(levels))]), least


def with_sites(network: nn.Module, stand_in: Callable[[str, Site], nn.Module]) -> nn.Module:
    """A copy of the network on the CPU with `stand_in(path, site)` in the place of each quantizer that rounds."""
    sites = find_sites(network)
    copy = copy_model(network)[0].cpu()
    for path, site in sites.items():
        owner, _, place = path.rpartition(".")
        setattr(copy.get_submodule(owner), place, stand_in(path, site))
    return copy.eval()


class _Whole(nn.Module):
    """A network under a forward of its own: torch.export reads the code of forwards, and ribs puts others there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)


def capture(network: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The graph of the network, of several samples for any number of them where its forward lets it be.

    Raises: ExportError for a forward that torch.export cannot follow.
    """
    shapes = {name: each for name, each in (("args", inputs.args), ("kwargs", dict(inputs.kwargs))) if each}
    shapes = map_leaves(lambda leaf: {0: Dim.AUTO} if isinstance(leaf, Tensor) else None, shapes)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Layers note the weights that come with a call, those of the copy too.
            warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
            return torch.export.export(
                _Whole(network),
                inputs.args,
                dict(inputs.kwargs),
                dynamic_shapes=shapes,
                strict=False,
            )
    except Exception as error:
        raise ExportError(f"[export] torch.export cannot follow the forward of the network: {error}") from error
