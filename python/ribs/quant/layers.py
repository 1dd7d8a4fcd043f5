"""The two quantized operations: a layer with weights and a matmul."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ribs.quant.integer import IntegerProduct
from ribs.quant.products import LEFT, RIGHT, is_plain
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer
from ribs.quant.running import Apart
from ribs.quant.trace import Site
from ribs.quant.tree import Leaf
from ribs.quant.weights import KeptWeights


@dataclass(frozen=True)
class Rest(Leaf):
    """A product without those of its operands that depend on the network's inputs.

    A leaf, so that what takes the tensors of a call for samples leaves it alone.
    run: f(left, right, added), computes it; None for the layer's own.
    fixed: the operands that it holds, by their place.
    call: number of the layer's call in this pass.
    """

    run: Callable[..., Tensor] | None = None
    fixed: Mapping[int, Tensor | None] = field(default_factory=dict)
    call: int = 0

    def operands(self, others: Sequence[Tensor]) -> list[Tensor | None]:
        """All in their places, with `others` in those that are free."""
        left = iter(others)
        return [self.fixed[place] if place in self.fixed else next(left, None) for place in range(3)]


OWN = Rest()


class QuantizedLayer(nn.Module):
    """A product by weights; these (per output channel) and the input (per tensor) are fake-quantized.

    layer: the float Conv or Linear; attributes that are not found here are looked up there (`in_features`, `stride`,
        ...). None for weights that are no layer's, which come with every call.
    site: one of its products as it was seen; by default that of the layer's own forward.
    calls: how often it runs in one pass of the network; each call's input has a quantizer of its own.
    own_forward: whether the layer's forward makes its product, with its own bias.
    symmetric: whether codes of the weights lie around zero.
    rounded: whether values of the weight quantizer have taken the place of the float weights.
    """

    held: nn.Parameter | None
    added: nn.Parameter | None

    def __init__(
        self, layer: nn.Module | None, site: Site | None = None, calls: int = 1, *, symmetric: bool = True
    ) -> None:
        super().__init__()
        self.register_module("layer", layer)
        self.own_forward = site is None
        # A transposed convolution stores (in, out / groups, ...).
        site = site or Site("", RIGHT, 1 if isinstance(layer, _ConvTransposeNd) else 0)
        assert site.weight is not None
        self.operand = site.weight
        self.plain = layer is not None and is_plain(layer)
        self.weight_quantizer = FakeQuantizer(symmetric=symmetric, axis=site.axis)
        self.input_quantizer = FakeQuantizer(symmetric=False)
        self.later = nn.ModuleList(FakeQuantizer(symmetric=False) for _ in range(calls - 1))
        self.register_parameter("held", None)  # weights that take the place of all others
        self.register_parameter("added", None)  # to the output, [channels], beside what the network adds
        self._made: Tensor | None = None  # the weights of the last product, where they are not the layer's as they are
        self._present = OWN
        self.rounded = False
        self.kept = KeptWeights()
        self.integer: IntegerProduct | None = None  # what takes the place of the float product, where it can

    @property
    def activation_quantizers(self) -> tuple[FakeQuantizer, ...]:
        return (self.input_quantizer, *self.later)

    def set_bits(self, weight_bits: int, activation_bits: int) -> None:
        self.weight_quantizer.set_bits(weight_bits)
        for quantizer in self.activation_quantizers:
            quantizer.set_bits(activation_bits)

    @property
    def weight(self) -> Tensor:
        """The float weights, as the network has them; those that come with a call are the last call's."""
        if self._made is not None:
            return self._made
        assert self.layer is not None, "it has not run"
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def multiplied(self) -> Tensor:
        """The float weights, as they are multiplied: `weight`, or those that are held."""
        return self.weight if self.held is None else self.held

    @property
    def is_linear(self) -> bool:
        """Whether it is torch's own linear, or a convolution that is one for each of its windows, which lie apart."""
        layer = self.layer
        if not self.plain or not isinstance(layer, nn.Conv2d):
            return self.plain and isinstance(layer, nn.Linear)
        apart = layer.kernel_size == layer.stride and layer.dilation == (1, 1)
        return apart and layer.groups == 1 and layer.padding in ((0, 0), "valid")

    @property
    def matrix(self) -> Tensor:
        """The float weights of a linear, [out, in]."""
        return (self.multiplied if self.weight_quantizer.axis == 0 else self.multiplied.T).flatten(1)

    def vectors(self, x: Tensor) -> Tensor:
        """What a linear multiplies of its input, [..., in]."""
        if isinstance(self.layer, nn.Conv2d):
            return F.unfold(x, self.layer.kernel_size, stride=self.layer.stride).transpose(1, 2)
        return x

    @property
    def has_own_weight(self) -> bool:
        """Whether a parameter of the layer is multiplied as it is."""
        return self._made is None and self.held is None

    def hold(self, weight: Tensor) -> None:
        """Multiply by these weights from now on, whatever the network computes or shares with others."""
        self.held = nn.Parameter(weight, requires_grad=False)

    def add(self, bias: Tensor) -> None:
        """Add this to the output from now on, with what was added before."""
        self.added = nn.Parameter(bias if self.added is None else self.added + bias, requires_grad=False)

    @property
    def rounds_what_it_gets(self) -> bool:
        """Whether one step rounds the tensor that it is called with: a forward of its own may change it first."""
        return (self.plain or self.layer is None) and not self.later and self.input_quantizer.is_per_tensor

    def quantized_weight(self, weight: Tensor | None = None) -> Tensor:
        """weight: in the place of the layer's own, but not of those that are held."""
        weight = self.multiplied if weight is None or self.held is not None else weight
        quantizer = self.weight_quantizer
        if torch.is_grad_enabled() or quantizer.learns or quantizer.bits == FLOAT_BITS:
            return quantizer(weight)  # type: ignore[no-any-return]
        # Without gradients the weights only change between searches: quantize them once for each choice of bits.
        made: Tensor = self.kept.get(quantizer.bits, "values", (weight, quantizer.step), lambda: quantizer(weight))
        return made

    def forward(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        """The layer's own forward, or, with a `Rest` for the last argument, what that is the rest of."""
        rest = others[-1] if others and isinstance(others[-1], Rest) else OWN
        if rest.run is not None:
            return self.multiply((input, *others[:-1]), rest)
        if not self.plain:
            assert self.layer is not None
            self._present = rest
            result: Tensor = self.layer(input, *(others if rest is OWN else others[:-1]), **named)
            return result
        integer = self.integer
        if integer is not None and not torch.is_grad_enabled() and integer.ready and input.numel() > 0:
            try:
                return integer(input)
            except ValueError:
                # Codes cannot hold NaN; the float product carries it on to whoever looks at the output.
                if not bool(input.isnan().any()):
                    raise
        with Apart():
            return _run(self.layer, self.activation_quantizers[rest.call](input), self.quantized_weight())

    def multiply(self, activations: Sequence[Tensor], rest: Rest) -> Tensor:
        """The product of the quantized input and the quantized weights that `rest` holds."""
        assert rest.run is not None
        values = rest.operands(activations)
        x, weight = values[1 - self.operand], values[self.operand]
        assert x is not None and weight is not None
        if self.layer is None or weight is not self.layer._parameters.get("weight"):
            self._made = weight.detach()
        values[1 - self.operand] = self.activation_quantizers[rest.call](x)
        values[self.operand] = self.quantized_weight(weight)
        result = rest.run(*values)
        return result if self.added is None else result + self.added

    def again(self, input: Tensor) -> Tensor:
        """What the product of the layer's one call has of its input, for a sum that reads it too."""
        quantizer = self.input_quantizer
        if isinstance(quantizer, Quantizer) and quantizer.observer is not None:
            return quantizer.unobserved(input)
        values: Tensor = quantizer(input)
        return values

    def multiply_own(self, activations: Sequence[Tensor], rest: Rest) -> Tensor:
        """The product in the forward of the layer, which this is running."""
        return self.multiply(activations, replace(rest, call=self._present.call))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # such as __deepcopy__, which would give a copy of the layer alone
                raise
            return getattr(super().__getattr__("layer"), name)


def _run(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """A plain layer's own forward with other weights."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    return layer._conv_forward(x, weight, layer.bias)  # type: ignore[no-any-return]


class QuantizedMatmul(nn.Module):
    """A product of two activations, such as q k^T, with both operands fake-quantized.

    calls: how often it runs in one pass of the network; each call's operands have quantizers of their own.
    """

    def __init__(self, calls: int = 1) -> None:
        super().__init__()
        self.left_quantizer: Quantizer = FakeQuantizer(symmetric=False)
        self.right_quantizer: Quantizer = FakeQuantizer(symmetric=False)
        self.later = nn.ModuleList(FakeQuantizer(symmetric=False) for _ in range(2 * (calls - 1)))

    @property
    def activation_quantizers(self) -> tuple[Quantizer, ...]:
        return (self.left_quantizer, self.right_quantizer, *self.later)

    def set_quantizer(self, call: int, operand: int, quantizer: Quantizer) -> None:
        """Put a quantizer in the place of that of the left or right operand of one call."""
        if call == 0:
            setattr(self, ("left_quantizer", "right_quantizer")[operand], quantizer)
        else:
            self.later[2 * (call - 1) + operand] = quantizer

    def set_bits(self, weight_bits: int, activation_bits: int) -> None:
        """Both operands are activations, so the weight bits do not matter here."""
        for quantizer in self.activation_quantizers:
            quantizer.set_bits(activation_bits)

    def forward(self, *activations: Any) -> Tensor:
        """The last argument is the `Rest` of the product."""
        *others, rest = activations
        left, right, added = rest.operands(others)
        quantizers = self.activation_quantizers[2 * rest.call :]
        return rest.run(quantizers[LEFT](left), quantizers[RIGHT](right), added)  # type: ignore[no-any-return]
