"""What brings the products in the forwards of modules to the quantized layers that they belong to."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ribs.quant.layers import OWN, QuantizedLayer, Rest
from ribs.quant.products import OPENED, Product, find_product
from ribs.quant.running import Apart, Running, running
from ribs.quant.sums import add, summands
from ribs.quant.trace import Readers, Site


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


def redirect(
    network: nn.Module,
    sites: Mapping[str, Sequence[Site]],
    sums: Mapping[str, Readers],
    skipped: Iterable[str] = (),
) -> None:
    """Send the products in the forwards of modules to the quantized layers and matmuls that they belong to.

    sites: for each module, the products of one call, in order.
    sums: for each module that adds tensors, the layers as whose inputs the operands of each sum are quantized.
    skipped: the modules whose products and sums stay where they are.
    """
    owners = dict.fromkeys([*sites, *sums])
    for name in skipped if owners else ():
        module = network.get_submodule(name)
        module.forward = _InFloat(module.forward)
    # The network's own forward is always among them: where this sees all that runs, no fast path of torch's hides any.
    for name in {**owners, "": None} if owners else ():
        owner = network.get_submodule(name)
        owner = owner.layer if isinstance(owner, QuantizedLayer) else owner
        assert owner is not None
        targets = [None if site.layer is None else network.get_submodule(site.layer) for site in sites.get(name, ())]
        readers = [
            [None if layer is None else network.get_submodule(layer) for layer in pair] for pair in sums.get(name, ())
        ]
        owner.forward = _Redirected(owner.forward, name, tuple(sites.get(name, ())), targets, readers)


def call_alone(network: nn.Module, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a part of a network gives by itself, its products going where they go when the whole network runs."""
    if not isinstance(network.forward, _Redirected):
        return part(*args, **kwargs)
    # As in the network's own forward, a mode keeps torch from fast paths that hide products.
    with Apart(), _RedirectMode():
        return part(*args, **kwargs)


class _InFloat:
    """The forward of a module whose products stay where they are."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        functools.update_wrapper(self, forward)
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Apart():
            return self.forward(*args, **kwargs)


class _Redirected:
    """The forward of a module whose products go elsewhere, one after the other.

    readers: for each of its sums, the layers as whose inputs the operands are quantized; none where no sum has any.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        name: str,
        sites: Sequence[Site],
        targets: Sequence[nn.Module | None],
        readers: Sequence[Sequence[Any]],
    ) -> None:
        functools.update_wrapper(self, forward)
        self.forward = forward
        self.name = name
        self.sites = sites
        self.targets = targets
        self.readers = readers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        stack = running()
        call = Running(self)
        stack.append(call)
        try:
            if len(stack) > 1:
                output = self.forward(*args, **kwargs)
            else:
                with _RedirectMode():
                    output = self.forward(*args, **kwargs)
        finally:
            stack.pop()
        if self.readers and call.added != len(self.readers):
            raise self._other_sums(call.added)
        return output

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

    def add(self, number: int, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """Sum `number` of one call."""
        if number >= len(self.readers):
            raise self._other_sums(number + 1)
        return add(func, args, kwargs, [None if layer is None else layer.again for layer in self.readers[number]])

    def _other_sums(self, count: int) -> RuntimeError:
        return RuntimeError(
            f"[ribs] the forward of {self.name or 'the model'} added tensors {count} times, and {len(self.readers)} "
            "times when it was traced, so that it is not known which of them read quantized values; give inputs of the "
            f"same shape and mode to the search, take away hooks that add, or leave it in float: skip=[{self.name!r}]"
        )


class _RedirectMode(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        innermost = running()[-1]
        if innermost.redirected is None:
            return func(*args, **kwargs)
        if func in OPENED:
            with self:
                return OPENED[func](*args, **kwargs)
        product = find_product(func, args, kwargs)
        if product is None and innermost.redirected.readers and summands(func, args, kwargs):
            innermost.added += 1
            return innermost.redirected.add(innermost.added - 1, func, args, kwargs)
        if product is None:
            return func(*args, **kwargs)
        innermost.seen += 1
        return innermost.redirected.run(innermost.seen - 1, product)
