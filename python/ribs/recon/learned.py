"""What was learned of a piece, taken out of a network, put back, undone, and kept elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.quantizer import FakeQuantizer


@dataclass(frozen=True)
class Learned:
    """weights: of the layers whose rounding was learned, by name.  steps: those of each activation quantizer."""

    weights: Mapping[str, Tensor]
    steps: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in (*self.weights.values(), *self.steps))


class Finished(Protocol):
    """Keeps what was learned of pieces, by their names, where a killed process does not lose it."""

    def get(self, piece: str) -> Learned | None: ...

    def add(self, piece: str, found: Learned) -> None: ...


def learned(model: nn.Module, layers: Sequence[str]) -> Learned:
    """What the layers of a piece have now."""
    weights = {name: layer.weight.detach().clone() for name, layer in _weighted(model, layers) if layer.rounded}
    # Steps are replaced when they change, and never changed themselves.
    return Learned(weights, [quantizer.step for quantizer in _stepped(model, layers)])


@torch.no_grad()
def put(model: nn.Module, layers: Sequence[str], found: Learned) -> None:
    """Give the layers of a piece, which are as in the float network, what was learned of them."""
    for name, layer in _weighted(model, layers):
        if name in found.weights:
            layer.weight.copy_(found.weights[name])
            layer.rounded = True
    for quantizer, step in zip(_stepped(model, layers), found.steps, strict=True):
        quantizer.set_steps(quantizer.choices, step.to(quantizer.step.device), quantizer.zero_point)


@torch.no_grad()
def restore(model: nn.Module, reference: nn.Module, layers: Sequence[str]) -> None:
    """Give the layers of a piece their float weights and calibrated steps again, which a copy of the network has."""
    for name, layer in _weighted(model, layers):
        if layer.rounded:
            original = reference.get_submodule(name)
            assert isinstance(original, QuantizedLayer)
            layer.weight.copy_(original.weight)
            layer.rounded = False
    for quantizer, original in zip(_stepped(model, layers), _stepped(reference, layers), strict=True):
        quantizer.set_steps(original.choices, original.step, original.zero_point)


def _weighted(model: nn.Module, layers: Sequence[str]) -> Iterator[tuple[str, QuantizedLayer]]:
    for name in layers:
        layer = model.get_submodule(name)
        if isinstance(layer, QuantizedLayer):
            yield name, layer


def _stepped(model: nn.Module, layers: Sequence[str]) -> Iterator[FakeQuantizer]:
    """The activation quantizers that have a step."""
    for name in layers:
        layer = model.get_submodule(name)
        assert isinstance(layer, (QuantizedLayer, QuantizedMatmul))
        yield from (each for each in layer.activation_quantizers if isinstance(each, FakeQuantizer))
