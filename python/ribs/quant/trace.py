"""One forward pass, watched: which layers run, in what order, at how many MACs, and what batch norm follows what.

Nothing is parsed and nothing is symbolically traced, so any Python control flow will do. The pass runs on the
meta device (shapes only, no arithmetic) unless the model computes with plain tensors that cannot move there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ribs.quant.copies import copy_model
from ribs.quant.flow import Flow, changes_first, memory_of
from ribs.quant.inputs import Inputs
from ribs.quant.products import (
    ADDED,
    LEFT,
    OPENED,
    RIGHT,
    Product,
    find_product,
    foreign_operator,
    fused_operator,
    fused_within,
    is_plain,
)
from ribs.quant.skip import Reasons, Skip, check_fit
from ribs.quant.tree import tensors

LAYER_TYPES = (_ConvNd, nn.Linear)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
SUMS: frozenset[Callable[..., Any]] = frozenset(
    {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
)
VALUES = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__")  # give numbers of a tensor


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
    norms: by layer norm, the linears that read its output, where nothing else does.
    shares: (matmul, number of its call, operand) of each operand that is the output of a softmax.
    sources: by layer, the parameters and buffers that its weights are or are computed from.
    otherwise: parameters and buffers that are not only read to multiply by, as weights of layers.
    in_float: the modules that are skipped.
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


def trace(model: nn.Module, inputs: Inputs, skip: Skip | None = None, unfit: Reasons | None = None) -> Trace:
    """Run the model once on the first sample of `inputs`; the model itself is not touched.

    skip: what stays in float.  unfit: what is known not to be quantizable; None where layers are only counted, whatever
        their types.
    Raises: ValueError if the model has nothing to quantize, for a `skip` that matches nothing, and one that names all
        that is unfit: layers that never ran, and modules that cannot be copied, run fused attention that cannot be
        opened, multiply otherwise in another call, or multiply what is not float32.
    """
    skip = skip or Skip(model)
    one, quantizing = inputs.head(1), unfit is not None
    shadow, uncopied = copy_model(model, data=False)
    reasons = {**{name: why for name, why in uncopied.items() if not skip.covers(name)}, **(unfit or {})}
    try:
        result, found = _watch(shadow, one.to("meta"), skip, quantizing)
    except Exception as error:
        # A kernel of another library fails on meta, but would run unseen on real data.
        fused = {name: why for name, why in fused_within(error, shadow).items() if not skip.covers(name)}
        if fused:
            check_fit({**reasons, **fused})
        # A forward that reads values (`.item()`), or mixes in plain CPU tensors, cannot run on meta. The real
        # pass gives the same answer more slowly, and a model that is truly broken raises its own error here.
        try:
            result, found = _watch(copy_model(model)[0], one, skip, quantizing)
        except Exception:
            check_fit(reasons)
            raise
    check_fit({**found, **reasons})
    skip.check(layer.name for layer in result.layers)
    if not result.layers:
        raise ValueError(
            "[ribs] the model has no Conv or Linear layer"
            + (" that is not skipped" if skip.patterns else "")
            + ", so there is nothing to quantize"
        )
    return result


def _watch(model: nn.Module, inputs: Inputs, skip: Skip, quantizing: bool) -> tuple[Trace, Reasons]:
    """What one pass shows, and what cannot be quantized."""
    flops = FlopCounterMode(display=False)
    watcher = _Watcher(model, flops.get_total_flops, skip)
    with torch.no_grad(), flops, watcher:
        for tensor in inputs.tensors:
            watcher.see(tensor)
            watcher.origins[id(tensor)] = None
        output = inputs.call(model)
    watcher.count_uses(output)
    watcher.read_otherwise(tensors(output))
    watcher.flow.returned(output)
    layers, skipped = watcher.layers(watcher.calls), watcher.layers(watcher.skipped)
    counted = sum(layer.macs for layer in (*layers, *skipped)) + sum(watcher.unquantized.values())
    unseen = flops.get_total_flops() // 2 - counted
    if unseen > 0:
        watcher.unquantized[""] += unseen
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = Trace(
        layers,
        skipped,
        tuple(watcher.batch_norms()),
        {name: tuple(sites) for name, sites in watcher.sites.items() if sites},
        dict(watcher.unquantized),
        parameters,
        watcher.others(),
        tuple(watcher.moments),
        tuple(watcher.reads()),
        tuple(watcher.sums),
        watcher.flow.absorbed(layer.name for layer in layers if layer.calls == 1),
        frozenset(share for share in watcher.flow.shares if watcher.calls[share[0]].kind == "matmul"),
        {name: tuple(sorted(sources)) for name, sources in watcher.sources.items()},
        tuple(sorted(watcher.otherwise)),
        skip.modules,
    )
    return found, watcher.unfit(quantizing)


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
    outputs: list[Tensor] = field(default_factory=list)


@dataclass
class _Frame:
    """One call of a module that is running.

    skipped: it stays in float.  matmuls: how many products of two activations it made.
    made: what its own weights gave, where it is a layer.  foldable: these are its weights and bias as they are.
    """

    name: str
    args: tuple[Any, ...]
    skipped: bool
    sites: list[Site] = field(default_factory=list)
    matmuls: int = 0
    made: Tensor | None = None
    foldable: bool = False


class _Watcher(TorchFunctionMode):
    """Follows tensors from module to module through hooks and torch function calls.

    origins: by tensor, the names of the parameters and buffers it is computed from; None if it depends on the inputs.
    """

    def __init__(self, model: nn.Module, flops: Callable[[], int], skip: Skip) -> None:
        super().__init__()
        self.calls: dict[str, _Layer] = {}
        self.skipped: dict[str, _Layer] = {}
        self.norm_inputs: dict[str, list[Tensor]] = {}
        self.sites: dict[str, list[Site]] = {}
        self.unquantized: Counter[str] = Counter()
        self.moments: list[str] = []
        self.sums: list[tuple[str, str]] = []
        self.sources: dict[str, frozenset[str]] = {}
        self.otherwise: set[str] = set()
        self.origins: dict[int, frozenset[str] | None] = {}
        self.flow = Flow()
        self._flops = flops
        self._skip = skip
        self._unfit: Reasons = {}
        self._stack = [_Frame("", (), skip.covers(""))]
        self._stored: set[str] = set()  # parameters that are weights or biases of layers
        self._read: dict[tuple[int, str], Tensor] = {}
        self._born: dict[int, int] = {}  # by memory
        self._last: dict[int, int] = {}
        self._source: dict[int, str] = {}  # by tensor: the one layer from whose output it comes
        self._alive: dict[int, Tensor] = {}  # no id is taken by a later tensor
        self._producers: dict[int, str] = {}
        self._uses: Counter[int] = Counter()
        self._named: dict[Any, str] = {}  # by what is multiplied by a parameter: the layer
        self._modules = dict(model.named_modules())
        self._plain = {name for name, module in self._modules.items() if is_plain(module)}
        self._weights: dict[int, str] = {}  # by weights of layers: the first layer that has them
        self._given = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        for tensor in [*model.parameters(), *model.buffers()]:
            self.see(tensor)
            self.origins[id(tensor)] = frozenset({self._given[id(tensor)]})
        for name, module in self._modules.items():
            if isinstance(module, LAYER_TYPES) and (weight := module._parameters.get("weight")) is not None:
                self._weights.setdefault(id(weight), name)
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave(name))

    def layers(self, seen: Mapping[str, _Layer]) -> tuple[Layer, ...]:
        folded = {layer for layer, _ in self.batch_norms()}
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

    def others(self) -> int:
        """How many numbers stay in float beside the weights and biases of layers, batch norm being folded."""
        gone = {norm for _, norm in self.batch_norms()}
        seen = [*self.calls, *self.skipped]
        mine = {name for name in seen if isinstance(self._modules.get(name), LAYER_TYPES)} | gone
        counted = {id(p) for name in mine for p in self._modules[name].parameters(recurse=False)}
        counted |= {tensor for tensor, names in self.origins.items() if names and names <= self._stored}
        # An embedding that shares its tensor with a layer is there in float beside the layer's weights.
        kept = self.otherwise & frozenset[str]().union(*self.sources.values())
        counted -= {tensor for tensor, name in self._given.items() if name in kept}
        left = {id(p): p for module in self._modules.values() for p in module.parameters(recurse=False)}
        statistics = [
            buffer
            for name, module in self._modules.items()
            if isinstance(module, _BatchNorm) and name not in gone
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
        return sum(t.numel() for t in [*(p for i, p in left.items() if i not in counted), *statistics])

    def reads(self) -> list[Read]:
        """What layers read, in the order of the first reading."""
        numbers: dict[int, int] = {}
        found = []
        for (tensor, layer), value in self._read.items():
            memory = id(memory_of(value))
            number = numbers.setdefault(tensor, len(numbers))
            found.append(Read(number, layer, value.numel(), self._born[memory], self._last[memory]))
        return found

    def _reads(self, name: str, operands: Iterable[Any]) -> None:
        """A layer runs now: the next moment."""
        for operand in operands:
            self.see(operand)
            self._read.setdefault((id(operand), name), operand)
            self._last[id(memory_of(operand))] = len(self.moments)
        self.moments.append(name)

    def see(self, tensor: Tensor) -> None:
        """What is met for the first time was made by the last layer that ran, or before any."""
        memory = memory_of(tensor)
        self._alive.update({id(tensor): tensor, id(memory): memory})
        self._born.setdefault(id(memory), len(self.moments) - 1)

    def read_otherwise(self, tensors: Iterable[Any]) -> None:
        """What these tensors were computed from is read, and not as weights of a layer."""
        for tensor in tensors:
            self.otherwise |= self._origin([tensor]) or set()

    def _origin(self, tensors: Iterable[Any]) -> frozenset[str] | None:
        """What a function of these tensors is computed from. A tensor that nothing is known of may be an input."""
        found: frozenset[str] = frozenset()
        for tensor in tensors:
            memory = id(memory_of(tensor))
            origins = (self.origins.get(id(tensor), self.origins.get(memory)), self.origins.get(memory, found))
            if None in origins:
                return None
            found = found.union(*origins)  # type: ignore[arg-type]
        return found

    def _follow(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, product: bool
    ) -> None:
        """When tensors are made and wanted, whose output they are and what they are computed from."""
        operands = tensors((args, kwargs))
        results = tensors(result)
        changed = [args[0]] if changes_first(func) and args and isinstance(args[0], Tensor) else []
        if not results and not changed:
            if getattr(func, "__name__", "") in VALUES:
                self.read_otherwise(operands)
            return  # a question for a shape or the like
        for tensor in [*operands, *results]:
            self.see(tensor)
        for tensor in operands:
            memory = id(memory_of(tensor))
            self._last[memory] = max(self._last.get(memory, -1), len(self.moments) - 1)
        origin = self._origin(operands)
        if origin is None and not product:
            self.read_otherwise(operands)
        for tensor in [*results, *changed, *map(memory_of, changed)]:
            self.origins[id(tensor)] = origin
        sources = [self._source[id(tensor)] for tensor in operands if id(tensor) in self._source]
        added = func in SUMS and len(operands) > 1
        if added and len(sources) == 2 and sources[0] != sources[1]:
            self.sums.append((sources[0], sources[1]))
        for tensor in results:
            self._source.pop(id(tensor), None)
            if len(sources) == 1 and not added:
                self._source[id(tensor)] = sources[0]

    def batch_norms(self) -> list[tuple[str, str]]:
        """Pairs in which the norm ran once, on the output of one layer call that nothing else reads."""
        pairs = []
        for norm, inputs in self.norm_inputs.items():
            layer = self._producers.get(id(inputs[0]))
            if layer is None or len(inputs) > 1 or len(self.calls[layer].outputs) > 1:
                continue
            if self._uses[id(inputs[0])] == 1:
                pairs.append((layer, norm))
        return pairs

    def count_uses(self, tree: Any) -> None:
        # Only layer outputs are counted: they are kept alive, so their ids cannot be taken by later tensors.
        self._uses.update(id(leaf) for leaf in tensors(tree) if id(leaf) in self._producers)

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
        before = self._flops()
        result = func(*args, **kwargs)
        if tensors(result):
            self.count_uses((args, kwargs))
        product = find_product(func, args, kwargs)
        skipped = False
        if product is not None:
            skipped = self._record(frame, product, result)
        elif self._flops() > before:
            self.unquantized[frame.name] += (self._flops() - before) // 2
        elif foreign := foreign_operator(func):
            self.unquantized[f"{frame.name} ({foreign}, which may multiply)"] += 0
        if frame.name not in self._plain:
            self._follow(func, args, kwargs, result, product is not None)
        if product is None:
            self.flow.follow(func, args, kwargs, result)
        if skipped:
            self._source.pop(id(result), None)
        elif product is not None and frame.sites[-1].weight is not None:
            self._source[id(result)] = str(frame.sites[-1].layer)
        return result

    def _record(self, frame: _Frame, product: Product, result: Tensor) -> bool:
        """A product runs now: find whose it is, and whether it is skipped."""
        macs, site = product.macs(result), self._site(frame, product)
        skipped = site.layer is not None and (frame.skipped or self._skip.covers(site.layer))
        frame.sites.append(Site(None) if skipped else site)
        quantized = None if skipped else site.layer
        self.flow.multiply(
            quantized,
            self.calls[quantized].calls if quantized in self.calls else 0,
            {place: product.values[place] for place in site.inputs},
            linear=product.kind == "linear" and frame.name in self._plain,
        )
        if site.layer is None:
            self.unquantized[frame.name] += macs
            return False
        left, right, added = product.values
        self.read_otherwise(
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
                self._reads(site.layer, (left, right))
            return skipped
        sources = self._origin([weight]) or frozenset()
        if not skipped:
            self.sources[site.layer] = self.sources.get(site.layer, frozenset()) | sources
        self._stored |= self._origin([weight, added]) or set() if biased else sources
        if site.layer == frame.name:
            module = self._modules[site.layer]
            frame.made = result
            as_they_are = weight is module._parameters.get("weight") and added is module._parameters.get("bias")
            frame.foldable = as_they_are and not skipped
        if not skipped:
            layer.outputs.append(result)
            # What torch's own layers pad is theirs.
            first = next(iter(frame.args), None) if frame.name in self._plain else None
            self._reads(site.layer, [first if isinstance(first, Tensor) else product.values[1 - (site.weight or 0)]])
        return skipped

    def _site(self, frame: _Frame, product: Product) -> Site:
        left, right, _ = product.values
        module = self._modules[frame.name]
        in_layer = isinstance(module, LAYER_TYPES) and frame.made is None  # whose weights are on the right
        origins = [frozenset() if each is None else self._origin([each]) for each in product.values]
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

    def _layer_of(self, frame: _Frame, product: Product, operand: int, parameter: str) -> str:
        """The name of the layer that multiplies by a parameter or by what is made of it alone."""
        tensor = product.values[operand]
        assert tensor is not None
        known = self._weights.get(id(tensor))
        if known is not None and operand == RIGHT and product.kind in _kinds(self._modules[known]):
            return known
        kind = "conv" if "conv" in product.kind else "linear"
        axis = product.output_axis(operand)
        if id(memory_of(tensor)) in self._given:
            key: Any = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), axis)
        else:
            key = (frame.name, len(frame.sites))
        earlier = sum(name == parameter and of == kind for name, of, _ in self._named)
        return self._named.setdefault((parameter, kind, key), f"{parameter}_{kind}{earlier}")

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._stack.append(_Frame(name, args, self._skip.covers(name)))
            if isinstance(module, _BatchNorm) and args:
                self.norm_inputs.setdefault(name, []).append(args[0])

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            frame = self._stack.pop()
            if not frame.skipped:
                self.flow.leave(name, module, output)
            if name not in self._plain and not frame.skipped:
                self._keep_sites(frame)
            if frame.made is not None and isinstance(output, Tensor):
                self.see(output)
                self._source.pop(id(output), None)
                if not frame.skipped:
                    self._source[id(output)] = name
                if frame.foldable and output is frame.made:
                    self._producers[id(output)] = name
                if name in self._plain:
                    self.origins[id(output)] = self._origin(
                        each for each in (*args, *module._parameters.values()) if isinstance(each, Tensor)
                    )

        return hook

    def _keep_sites(self, frame: _Frame) -> None:
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


def _kinds(module: nn.Module) -> tuple[str, ...]:
    """The products whose output channels are those of a layer's own."""
    return ("transposed conv",) if isinstance(module, _ConvTransposeNd) else ("conv", "linear")
