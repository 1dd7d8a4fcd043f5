"""The two quantized operations, a layer with weights and a matmul, and what brings a module's products to them."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from ribs.quant.integer import IntegerProduct
from ribs.quant.products import LEFT, OPENED, RIGHT, Product, find_product, is_plain
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer
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
    rounded: whether values of the weight quantizer have taken the place of the float weights.
    """

    held: nn.Parameter | None

    def __init__(self, layer: nn.Module | None, site: Site | None = None, calls: int = 1) -> None:
        super().__init__()
        self.register_module("layer", layer)
        # A transposed convolution stores (in, out / groups, ...).
        site = site or Site("", RIGHT, 1 if isinstance(layer, _ConvTransposeNd) else 0)
        assert site.weight is not None
        self.operand = site.weight
        self.plain = layer is not None and is_plain(layer)
        self.weight_quantizer = FakeQuantizer(symmetric=True, axis=site.axis)
        self.input_quantizer = FakeQuantizer(symmetric=False)
        self.later = nn.ModuleList(FakeQuantizer(symmetric=False) for _ in range(calls - 1))
        self.register_parameter("held", None)  # weights that take the place of all others
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
    def has_own_weight(self) -> bool:
        """Whether a parameter of the layer is multiplied as it is."""
        return self._made is None and self.held is None

    def hold(self, weight: Tensor) -> None:
        """Multiply by these weights from now on, whatever the network computes or shares with others."""
        self.held = nn.Parameter(weight, requires_grad=False)

    @property
    def rounds_what_it_gets(self) -> bool:
        """Whether one step rounds the tensor that it is called with: a forward of its own may change it first."""
        return (self.plain or self.layer is None) and not self.later and self.input_quantizer.is_per_tensor

    def quantized_weight(self, weight: Tensor | None = None) -> Tensor:
        """weight: in the place of the layer's own, but not of those that are held."""
        weight = self.multiplied if weight is None or self.held is not None else weight
        if torch.is_grad_enabled() or self.weight_quantizer.bits == FLOAT_BITS:
            return self.weight_quantizer(weight)  # type: ignore[no-any-return]
        # Without gradients the weights only change between searches: quantize them once for each choice of bits.
        quantizer = self.weight_quantizer
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
        with _Apart():
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
        return rest.run(*values)

    def multiply_own(self, activations: Sequence[Tensor], rest: Rest) -> Tensor:
        """The product in the forward of the layer, which this is running."""
        return self.multiply(activations, replace(rest, call=self._present.call))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # of the layer, `__deepcopy__` would make a copy of the layer alone
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


class Repeats:
    """Numbers the calls of the layers that run several times in one pass of the network.

    numbers: by layer, how often it has run in this pass. What leaves calls out, or makes them again, sets it.
    """

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()

    def attach(self, network: nn.Module, calls: Mapping[str, int]) -> None:
        """calls: by layer, how often it runs in a pass."""
        repeated = {name: count for name, count in calls.items() if count > 1}
        if repeated:
            network.register_forward_pre_hook(self._begin)
        for name, count in repeated.items():
            network.get_submodule(name).register_forward_pre_hook(
                functools.partial(self._number, name, count), with_kwargs=True
            )

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.numbers = Counter()

    def _number(self, name: str, calls: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.numbers[name] == calls:
            raise RuntimeError(
                f"[ribs] {name!r} runs more than the {calls} times that it ran when it was traced; give inputs of the "
                "same shape and mode to the search, and run the whole network"
            )
        if args and isinstance(args[-1], Rest):
            args, rest = args[:-1], args[-1]
        else:
            args, rest = (*args, *([kwargs.pop("input")] if not args else [])), OWN
        rest = replace(rest, call=self.numbers[name])
        self.numbers[name] += 1
        return (*args, rest), kwargs


def redirect(network: nn.Module, sites: Mapping[str, Sequence[Site]], skipped: Iterable[str] = ()) -> None:
    """Send the products in the forwards of modules to the quantized layers and matmuls that they belong to.

    sites: for each module, the products of one call, in order.
    skipped: the modules whose products stay where they are.
    """
    for name in skipped if sites else ():
        module = network.get_submodule(name)
        module.forward = _InFloat(module.forward)
    # The network's own forward is always among them: where this sees all that runs, no fast path of torch's hides any.
    for name in {**sites, "": ()} if sites else ():
        owner = network.get_submodule(name)
        owner = owner.layer if isinstance(owner, QuantizedLayer) else owner
        assert owner is not None
        targets = [None if site.layer is None else network.get_submodule(site.layer) for site in sites.get(name, ())]
        owner.forward = _Redirected(owner.forward, name, tuple(sites.get(name, ())), targets)


class _InFloat:
    """The forward of a module whose products stay where they are."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        functools.update_wrapper(self, forward)
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Apart():
            return self.forward(*args, **kwargs)


def call_alone(network: nn.Module, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a part of a network gives by itself, its products going where they go when the whole network runs."""
    if not isinstance(network.forward, _Redirected):
        return part(*args, **kwargs)
    # As in the network's own forward, a mode keeps torch from fast paths that hide products.
    with _Apart(), _RedirectMode():
        return part(*args, **kwargs)


class _Redirected:
    """The forward of a module whose products go elsewhere, one after the other."""

    def __init__(
        self, forward: Callable[..., Any], name: str, sites: Sequence[Site], targets: Sequence[nn.Module | None]
    ) -> None:
        functools.update_wrapper(self, forward)
        self.forward = forward
        self.name = name
        self.sites = sites
        self.targets = targets

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        running = _running()
        running.append(_Running(self))
        try:
            if len(running) > 1:
                return self.forward(*args, **kwargs)
            with _RedirectMode():
                return self.forward(*args, **kwargs)
        finally:
            running.pop()

    def run(self, number: int, product: Product) -> Tensor:
        """Product `number` of one call."""
        site = self.sites[number] if number < len(self.sites) else None
        weight = () if site is None or site.weight is None else product.values[site.weight].shape  # type: ignore[union-attr]
        if site is None or weight != site.shape:
            raise RuntimeError(
                f"[ribs] product {number} in the forward of {self.name or 'the model'} is not there, or is another, "
                f"when it was traced: it multiplied {len(self.sites)} times; give inputs of the same shape and mode to "
                f"the search, or leave it in float: skip=[{self.name!r}]"
            )
        target = self.targets[number]
        if target is None:
            return product.run(*product.values)
        activations = [product.values[place] for place in site.inputs]
        fixed = {place: value for place, value in enumerate(product.values) if place not in site.inputs}
        rest = Rest(product.run, fixed)
        if isinstance(target, QuantizedLayer) and site.layer == self.name:
            return target.multiply_own(activations, rest)  # type: ignore[arg-type]
        return target(*activations, rest)  # type: ignore[no-any-return]


@dataclass
class _Running:
    """A call of a redirected forward, or, with None, of a layer whose product is its own. seen: products so far."""

    redirected: _Redirected | None
    seen: int = 0


_thread = threading.local()


def _running() -> list[_Running]:
    """What runs in this thread: a product belongs to the last, the innermost, alone."""
    if not hasattr(_thread, "running"):
        _thread.running = []
    return _thread.running  # type: ignore[no-any-return]


class _Apart:
    """Within, products stay where they are."""

    def __enter__(self) -> None:
        _running().append(_Running(None))

    def __exit__(self, *error: object) -> None:
        _running().pop()


class _RedirectMode(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        innermost = _running()[-1]
        if innermost.redirected is None:
            return func(*args, **kwargs)
        if func in OPENED:
            with self:
                return OPENED[func](*args, **kwargs)
        product = find_product(func, args, kwargs)
        if product is None:
            return func(*args, **kwargs)
        innermost.seen += 1
        return innermost.redirected.run(innermost.seen - 1, product)
