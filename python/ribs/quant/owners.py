"""Whose a product is: the layer whose quantizers it takes, and the name of a layer that is no module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ribs.quant.flow import memory_of
from ribs.quant.lineage import Lineage
from ribs.quant.products import LEFT, RIGHT, Product
from ribs.quant.trace import LAYER_TYPES, Site


@dataclass
class Frame:
    """One call of a module that is running.

    skipped: it stays in float.  matmuls: how many products of two activations it made.
    sums: of each sum that it made, the layers that read its operands before.
    made: what its own weights gave, where it is a layer.  foldable: these are its weights and bias as they are.
    """

    name: str
    args: tuple[Any, ...]
    skipped: bool
    sites: list[Site] = field(default_factory=list)
    matmuls: int = 0
    sums: list[tuple[str | None, str | None]] = field(default_factory=list)
    made: Tensor | None = None
    foldable: bool = False


class Owners:
    """Names the layers of products, in the order in which they run."""

    def __init__(self, modules: Mapping[str, nn.Module], lineage: Lineage) -> None:
        self._modules = modules
        self._lineage = lineage
        self._named: dict[Any, str] = {}  # by what is multiplied by a parameter: the layer
        self._weights: dict[int, str] = {}  # by weights of layers: the first layer that has them
        for name, module in modules.items():
            if isinstance(module, LAYER_TYPES) and (weight := module._parameters.get("weight")) is not None:
                self._weights.setdefault(id(weight), name)

    def site(self, frame: Frame, product: Product) -> Site:
        """The next product of a call; a matmul is counted there."""
        left, right, _ = product.values
        module = self._modules[frame.name]
        in_layer = isinstance(module, LAYER_TYPES) and frame.made is None  # whose weights are on the right
        origins = [frozenset() if each is None else self._lineage.origin([each]) for each in product.values]
        inputs = tuple(index for index, origin in enumerate(origins) if origin is None)
        weight = RIGHT if LEFT in inputs or in_layer else LEFT
        tensor, names = (right if weight == RIGHT else left), origins[weight]
        if in_layer and names is not None and tensor.shape == module.weight.shape:
            layer = frame.name
            inputs = tuple({LEFT, *inputs})  # whatever it is
        elif not {LEFT, RIGHT} & set(inputs):
            return Site(None)
        elif names is None or len(names) != 1:
            frame.matmuls += 1
            return Site(f"{frame.name}.matmul{frame.matmuls - 1}".lstrip("."), inputs=inputs)
        else:
            layer = self._layer_of(frame, product, weight, *names)
        return Site(layer, weight, product.output_axis(weight), tuple(tensor.shape), inputs)

    def _layer_of(self, frame: Frame, product: Product, operand: int, parameter: str) -> str:
        """The name of the layer that multiplies by a parameter or by what is made of it alone."""
        tensor = product.values[operand]
        assert tensor is not None
        known = self._weights.get(id(tensor))
        if known is not None and operand == RIGHT and product.kind in _kinds(self._modules[known]):
            return known
        kind = "conv" if "conv" in product.kind else "linear"
        axis = product.output_axis(operand)
        if id(memory_of(tensor)) in self._lineage.given:
            key: Any = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), axis)
        else:
            key = (frame.name, len(frame.sites))
        earlier = sum(name == parameter and of == kind for name, of, _ in self._named)
        return self._named.setdefault((parameter, kind, key), f"{parameter}_{kind}{earlier}")


def _kinds(module: nn.Module) -> tuple[str, ...]:
    """The products whose output channels are those of a layer's own."""
    return ("transposed conv",) if isinstance(module, _ConvTransposeNd) else ("conv", "linear")
