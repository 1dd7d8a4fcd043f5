"""What watches one forward pass: hooks of modules, and every call of torch's functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ribs.quant.flow import Flow
from ribs.quant.fold import Pairing
from ribs.quant.lineage import Lineage
from ribs.quant.owners import Frame, Owners
from ribs.quant.products import (
    ADDED,
    OPENED,
    RIGHT,
    Product,
    find_product,
    foreign_operator,
    fused_operator,
    is_plain,
)
from ribs.quant.skip import Reasons, Skip
from ribs.quant.sums import summands
from ribs.quant.trace import LAYER_TYPES, Layer, Readers, Site
from ribs.quant.tree import tensors

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class _Layer:
    """Everything seen of one layer over all its calls."""

    kind: Literal["conv", "linear", "matmul"]
    weights: int = 0
    channels: int = 0
    biased: bool = False
    macs: int = 0
    calls: int = 0
    dtypes: set[torch.dtype] = field(default_factory=set)  # of what is multiplied


class Watcher(TorchFunctionMode):
    """Tells which product of which module is which layer's, while a network runs.

    flops: how many floating-point operations torch has counted so far.  skip: what stays in float.
    calls, skipped: what was seen of layers, and of those that stay in float, in the order of their first call.
    sites, unquantized, sources: as in `Trace`.
    """

    def __init__(self, model: nn.Module, flops: Callable[[], int], skip: Skip) -> None:
        super().__init__()
        self.calls: dict[str, _Layer] = {}
        self.skipped: dict[str, _Layer] = {}
        self.sites: dict[str, list[Site]] = {}
        self.unquantized: Counter[str] = Counter()
        self.sources: dict[str, frozenset[str]] = {}
        self.flow = Flow()
        self.lineage = Lineage({**dict(model.named_parameters()), **dict(model.named_buffers())})
        self.pairing = Pairing()
        self._flops = flops
        self._skip = skip
        self._unfit: Reasons = {}
        self._stack = [Frame("", (), skip.covers(""))]
        self._sums: dict[str, dict[Readers, None]] = {}  # of the calls of modules, each that is another once
        self._stored: set[str] = set()  # parameters that are weights or biases of layers
        self._modules = dict(model.named_modules())
        self._owners = Owners(self._modules, self.lineage)
        self._plain = {name for name, module in self._modules.items() if is_plain(module)}
        for name, module in self._modules.items():
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave(name))

    def layers(self, seen: Mapping[str, _Layer]) -> tuple[Layer, ...]:
        folded = {layer for layer, _ in self.pairing.pairs()}
        return tuple(
            Layer(
                name,
                call.kind,
                call.macs,
                call.weights,
                call.channels,
                call.channels if call.biased or name in folded else 0,
                call.calls,
            )
            for name, call in seen.items()
        )

    def unfit(self, quantizing: bool) -> Reasons:
        """What cannot be quantized, by name."""
        reasons = dict(self._unfit)
        for name, module in self._modules.items():
            ran = name in self.calls or f"{name}.weight" in self._stored
            if isinstance(module, LAYER_TYPES) and not ran and not self._skip.covers(name):
                reasons[name] = "never ran in the model's forward: take it out, or give inputs that reach it"
        for name, call in self.calls.items() if quantizing else ():
            if call.dtypes != {torch.float32}:
                types = ", ".join(sorted(map(str, call.dtypes)))
                reasons.setdefault(name, f"multiplies {types}: only torch.float32 can be quantized, so cast it before")
            parent = name.rpartition(".")[0]
            if name not in self._modules and isinstance(self._modules[parent], CONTAINERS):
                kind = type(self._modules[parent]).__name__
                reasons[parent] = (
                    f"a {kind} that multiplies by itself, and has no place for quantizers among its items: put its "
                    "products into a module of their own"
                )
        return reasons

    def residuals(self) -> dict[str, tuple[Readers, ...]]:
        """The sums of modules, as in `Trace`."""
        read = {name for name, calls in self._sums.items() if any(any(pair) for sums in calls for pair in sums)}
        adding = {name: tuple(calls) for name, calls in self._sums.items() if any(calls)}
        return {name: calls if name in read else () for name, calls in adding.items()} if read else {}

    def others(self) -> int:
        """How many numbers stay in float beside the weights and biases of layers, batch norm being folded."""
        gone = {norm for _, norm in self.pairing.pairs()}
        seen = [*self.calls, *self.skipped]
        mine = {name for name in seen if isinstance(self._modules.get(name), LAYER_TYPES)} | gone
        counted = {id(p) for name in mine for p in self._modules[name].parameters(recurse=False)}
        counted |= {tensor for tensor, names in self.lineage.origins.items() if names and names <= self._stored}
        # An embedding that shares its tensor with a layer is there in float beside the layer's weights.
        kept = self.lineage.otherwise & frozenset[str]().union(*self.sources.values())
        counted -= {tensor for tensor, name in self.lineage.given.items() if name in kept}
        left = {id(p): p for module in self._modules.values() for p in module.parameters(recurse=False)}
        statistics = [
            buffer
            for name, module in self._modules.items()
            if isinstance(module, _BatchNorm) and name not in gone
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
        return sum(t.numel() for t in [*(p for i, p in left.items() if i not in counted), *statistics])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        frame = self._stack[-1]
        if not frame.skipped and (fused := fused_operator(func)):
            self._unfit[frame.name] = fused
        if func in OPENED:
            with self:
                return OPENED[func](*args, **kwargs)
        if operands := summands(func, args, kwargs):
            left, right = operands
            frame.sums.append((self.lineage.reader(left), self.lineage.reader(right)))
        before = self._flops()
        result = func(*args, **kwargs)
        if tensors(result):
            self.pairing.count_uses((args, kwargs))
        product = find_product(func, args, kwargs)
        skipped = False
        if product is not None:
            skipped = self._record(frame, product, result)
        elif self._flops() > before:
            self.unquantized[frame.name] += (self._flops() - before) // 2
        elif foreign := foreign_operator(func):
            self.unquantized[f"{frame.name} ({foreign}, which may multiply)"] += 0
        if frame.name not in self._plain:
            self.lineage.follow(func, args, kwargs, result, product is not None)
        if product is None:
            self.flow.follow(func, args, kwargs, result)
        if skipped:
            self.lineage.source.pop(id(result), None)
        elif product is not None and frame.sites[-1].weight is not None:
            self.lineage.source[id(result)] = str(frame.sites[-1].layer)
        return result

    def _record(self, frame: Frame, product: Product, result: Tensor) -> bool:
        """A product runs now: find whose it is, and whether it is skipped."""
        macs, site = product.macs(result), self._owners.site(frame, product)
        skipped = site.layer is not None and (frame.skipped or self._skip.covers(site.layer))
        frame.sites.append(Site(None) if skipped else site)
        quantized = None if skipped else site.layer
        self.flow.multiply(
            quantized,
            self.calls[quantized].calls if quantized in self.calls else 0,
            {place: product.values[place] for place in site.inputs},
            matmul=site.weight is None,
            linear=site.weight == RIGHT and product.is_linear,
        )
        if site.layer is None:
            self.unquantized[frame.name] += macs
            return False
        left, right, added = product.values
        self.lineage.read_otherwise(
            value
            for place, value in enumerate(product.values)
            if value is not None and (skipped or place != site.weight)
        )
        weight = None if site.weight is None else product.values[site.weight]
        biased = weight is not None and added is not None and ADDED not in site.inputs
        layers = self.skipped if skipped else self.calls
        layer = layers.setdefault(site.layer, _new_layer(product, site, biased))
        layer.macs += macs
        layer.calls += 1
        layer.dtypes |= {left.dtype, right.dtype}
        if weight is None:
            if not skipped:
                self.lineage.run(site.layer, (left, right))
            return skipped
        sources = self.lineage.origin([weight]) or frozenset()
        if not skipped:
            self.sources[site.layer] = self.sources.get(site.layer, frozenset()) | sources
        self._stored |= self.lineage.origin([weight, added]) or set() if biased else sources
        if site.layer == frame.name:
            module = self._modules[site.layer]
            frame.made = result
            as_they_are = weight is module._parameters.get("weight") and added is module._parameters.get("bias")
            frame.foldable = as_they_are and not skipped
        if not skipped:
            self.pairing.multiply(site.layer)
            # What torch's own layers pad is theirs.
            first = next(iter(frame.args), None) if frame.name in self._plain else None
            read = first if isinstance(first, Tensor) else (left, right)[1 - (site.weight or 0)]
            self.lineage.run(site.layer, [read])
            self.lineage.weigh(site.layer, read)
        return skipped

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._stack.append(Frame(name, args, self._skip.covers(name)))
            if isinstance(module, _BatchNorm) and args:
                self.pairing.enter(name, args[0])

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            frame = self._stack.pop()
            if not frame.skipped:
                self.flow.leave(name, module, output)
            if name not in self._plain and not frame.skipped:
                self._keep_sites(frame)
                self._sums.setdefault(name, {})[tuple(frame.sums)] = None
            if frame.made is not None and isinstance(output, Tensor):
                self.lineage.see(output)
                self.lineage.source.pop(id(output), None)
                if not frame.skipped:
                    self.lineage.source[id(output)] = name
                if frame.foldable and output is frame.made:
                    self.pairing.leave(name, output)
                if name in self._plain:
                    self.lineage.origins[id(output)] = self.lineage.origin(
                        each for each in (*args, *module._parameters.values()) if isinstance(each, Tensor)
                    )

        return hook

    def _keep_sites(self, frame: Frame) -> None:
        """A module that runs several times must multiply alike each time, up to where it stops."""
        known = self.sites.setdefault(frame.name, frame.sites)
        if any(a != b for a, b in zip(known, frame.sites, strict=False)):
            one, other = (", ".join(site.layer or "constants" for site in each) for each in (known, frame.sites))
            self._unfit[frame.name] = (
                f"multiplies other things in one of its calls ({one}) than in another ({other}): give each a module"
            )
        self.sites[frame.name] = max(known, frame.sites, key=len)


def _new_layer(product: Product, site: Site, biased: bool) -> _Layer:
    if site.weight is None:
        return _Layer("matmul")
    weight = product.values[site.weight]
    assert weight is not None
    channels = 1 if site.axis is None else weight.shape[site.axis]
    return _Layer("conv" if "conv" in product.kind else "linear", weight.numel(), channels, biased)
