"""One forward pass, watched: which layers run, in what order, at how many MACs, and what batch norm follows what.

Nothing is parsed and nothing is symbolically traced, so any Python control flow will do. The pass runs on the
meta device (shapes only, no arithmetic) unless the model computes with plain tensors that cannot move there.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ribs.quant.inputs import Inputs

LAYER_TYPES = (_ConvNd, nn.Linear)
MATMULS: frozenset[Callable[..., Any]] = frozenset(
    {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
)
SUMS: frozenset[Callable[..., Any]] = frozenset(
    {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
)


@dataclass(frozen=True)
class Layer:
    """One operation that can be quantized.

    name: path of its module; for a matmul of two activations, the path its quantizers will have.
    macs: multiply-accumulates for one sample, over all its calls.
    weights: number of weights, 0 for a matmul.
    channels: output channels, each with a step of its own for its weights; 0 for a matmul.
    biases: number of biases once batch norm is folded, 0 for a matmul.
    """

    name: str
    kind: Literal["conv", "linear", "matmul"]
    macs: int
    weights: int
    channels: int
    biases: int


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
class Trace:
    """What one forward pass showed.

    layers: in the order of their first call.
    batch_norms: (layer, batch norm) pairs in which nothing else reads the layer's output.
    matmuls: for each module that multiplies two activations, how many times it does so in one call.
    unquantized: MACs for one sample of products outside every layer, by module ("" for those seen only in total).
    silent: layers that never ran.
    parameters: number of all parameters of the model.
    others: numbers that stay in float beside weights and biases: other parameters, statistics of unpaired norms.
    moments: the layer of each call, in order.
    reads: the tensors that layers read, each once for each layer that reads it.
    sums: the layers whose outputs were added, two sides a sum. What is computed from one output alone counts as it;
        a sum is no layer's output.
    """

    layers: tuple[Layer, ...]
    batch_norms: tuple[tuple[str, str], ...]
    matmuls: dict[str, int]
    unquantized: dict[str, int]
    silent: tuple[str, ...]
    parameters: int
    others: int
    moments: tuple[str, ...]
    reads: tuple[Read, ...]
    sums: tuple[tuple[str, str], ...]


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Run the model once on the first sample of `inputs`; the model itself is not touched.

    Raises: ValueError if the model has nothing to quantize, or names the layers that never ran.
    """
    one = inputs.head(1)
    try:
        shadow = _copy_without_data(model)
        result = _watch(shadow, one.to("meta"))
    except Exception:
        # A forward that reads values (`.item()`), or mixes in plain CPU tensors, cannot run on meta. The real
        # pass gives the same answer more slowly, and a model that is truly broken raises its own error here.
        result = _watch(copy.deepcopy(model), one)
    if not result.layers and not result.silent:
        raise ValueError("[ribs] the model has no Conv or Linear layer, so there is nothing to quantize")
    if result.silent:
        raise ValueError(
            f"[ribs] these layers never ran in the model's forward: {', '.join(result.silent)}. Remove them from "
            "the model, or give inputs that reach them (a module that reads another's weights directly, such as "
            "nn.MultiheadAttention, also leaves its layers silent)"
        )
    return result


def _copy_without_data(model: nn.Module) -> nn.Module:
    """A deep copy on the meta device that never copies the weights."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)


def _watch(model: nn.Module, inputs: Inputs) -> Trace:
    watcher = _Watcher(model)
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), flops, watcher:
        for tensor in inputs.tensors:
            watcher.see(tensor)
        output = inputs.call(model)
    watcher.count_uses(output)
    layers = tuple(watcher.layers())
    counted = sum(layer.macs for layer in layers) + sum(watcher.unquantized.values())
    unseen = flops.get_total_flops() // 2 - counted
    if unseen > 0:
        watcher.unquantized[""] += unseen
    ran = {layer.name for layer in layers}
    silent = tuple(
        name for name, module in model.named_modules() if isinstance(module, LAYER_TYPES) and name not in ran
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Trace(
        layers,
        tuple(watcher.batch_norms()),
        watcher.matmuls,
        dict(watcher.unquantized),
        silent,
        parameters,
        watcher.others(),
        tuple(watcher.moments),
        tuple(watcher.reads()),
        tuple(watcher.sums),
    )


@dataclass
class _Call:
    """Everything seen of one layer over all its calls."""

    kind: Literal["conv", "linear", "matmul"]
    weights: int
    channels: int = 0
    biased: bool = False
    macs: int = 0
    outputs: list[Tensor] = field(default_factory=list)


class _Watcher(TorchFunctionMode):
    """Follows tensors from module to module through hooks and torch function calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.calls: dict[str, _Call] = {}
        self.norm_inputs: dict[str, list[Tensor]] = {}
        self.matmuls: dict[str, int] = {}
        self.unquantized: Counter[str] = Counter()
        self.moments: list[str] = []
        self.sums: list[tuple[str, str]] = []
        self._read: dict[tuple[int, str], Tensor] = {}
        self._born: dict[int, int] = {}  # by memory
        self._last: dict[int, int] = {}
        self._source: dict[int, str] = {}  # by tensor: the one layer from whose output it comes
        self._alive: dict[int, Tensor] = {}  # no id is taken by a later tensor
        self._producers: dict[int, str] = {}
        self._uses: Counter[int] = Counter()
        self._seen_in_call: list[int] = []
        self._modules = dict(model.named_modules())
        for name, module in self._modules.items():
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave(name), with_kwargs=True)

    def layers(self) -> list[Layer]:
        folded = {layer for layer, _ in self.batch_norms()}
        return [
            Layer(
                name,
                call.kind,
                call.macs,
                call.weights,
                call.channels,
                call.channels if call.biased or name in folded else 0,
            )
            for name, call in self.calls.items()
        ]

    def others(self) -> int:
        """How many numbers stay in float beside the weights and biases of layers, batch norm being folded."""
        gone = {norm for _, norm in self.batch_norms()}
        mine = {name for name, call in self.calls.items() if call.kind != "matmul"} | gone
        counted = {id(p) for name in mine for p in self._modules[name].parameters(recurse=False)}
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
            memory = id(_memory(value))
            number = numbers.setdefault(tensor, len(numbers))
            found.append(Read(number, layer, value.numel(), self._born[memory], self._last[memory]))
        return found

    def _reads(self, name: str, operands: Iterable[Any]) -> None:
        """A layer runs now: the next moment."""
        for operand in operands:
            self.see(operand)
            self._read.setdefault((id(operand), name), operand)
            self._last[id(_memory(operand))] = len(self.moments)
        self.moments.append(name)

    def see(self, tensor: Tensor) -> None:
        """What is met for the first time was made by the last layer that ran, or before any."""
        memory = _memory(tensor)
        self._alive.update({id(tensor): tensor, id(memory): memory})
        self._born.setdefault(id(memory), len(self.moments) - 1)

    def _follow(self, func: Callable[..., Any], arguments: Any, result: Any) -> None:
        """When tensors are made and wanted, and whose output they are."""
        operands = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not results:
            return  # a question for a shape or the like
        for tensor in [*operands, *results]:
            self.see(tensor)
        for tensor in operands:
            memory = id(_memory(tensor))
            self._last[memory] = max(self._last.get(memory, -1), len(self.moments) - 1)
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
        for norm, tensors in self.norm_inputs.items():
            layer = self._producers.get(id(tensors[0]))
            if layer is None or len(tensors) > 1 or len(self.calls[layer].outputs) > 1:
                continue
            if self._uses[id(tensors[0])] == 1:
                pairs.append((layer, norm))
        return pairs

    def count_uses(self, tree: Any) -> None:
        # Only layer outputs are counted: they are kept alive, so their ids cannot be taken by later tensors.
        leaves = (id(leaf) for leaf in tree_leaves(tree))
        self._uses.update(leaf for leaf in leaves if leaf in self._producers)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.count_uses((args, kwargs))
        if not self._inside_layer():
            self._record_product(func, args, kwargs, result)
            self._follow(func, (args, kwargs), result)
        return result

    def _inside_layer(self) -> bool:
        return bool(self.stack) and isinstance(self._modules[self.stack[-1]], LAYER_TYPES)

    def _record_product(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        owner = self.stack[-1] if self.stack else ""
        if func in MATMULS and not any(isinstance(arg, nn.Parameter) for arg in args[:2]):
            self._matmul(owner, result.numel() * args[0].shape[-1], args[:2])
        elif func is F.scaled_dot_product_attention:
            query, key, value = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
            scores = math.prod(query.shape[:-1]) * key.shape[-2]
            self._matmul(owner, scores * query.shape[-1], (query, key))
            # Fused attention never shows what its second matmul reads: the probabilities, as many as scores.
            self._matmul(owner, scores * value.shape[-1], (torch.empty(scores, device="meta"), value))
        elif func in MATMULS or func is F.linear:
            self.unquantized[owner] += result.numel() * args[0].shape[-1]

    def _matmul(self, owner: str, macs: int, operands: Sequence[Any]) -> None:
        # A module that runs several times per forward does the same products each time: count within one call.
        index = self._seen_in_call[-1] if self._seen_in_call else 0
        if self._seen_in_call:
            self._seen_in_call[-1] += 1
        self.matmuls[owner] = max(self.matmuls.get(owner, 0), index + 1)
        name = f"{owner}.matmul{index}" if owner else f"matmul{index}"
        self.calls.setdefault(name, _Call("matmul", 0)).macs += macs
        self._reads(name, operands)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.stack.append(name)
            self._seen_in_call.append(0)
            if isinstance(module, _BatchNorm) and args:
                self.norm_inputs.setdefault(name, []).append(args[0])

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.stack.pop()
            self._seen_in_call.pop()
            if isinstance(module, LAYER_TYPES):
                kind: Literal["conv", "linear"] = "conv" if isinstance(module, _ConvNd) else "linear"
                x = next(iter((*args, *kwargs.values())))
                channels = module.out_channels if isinstance(module, _ConvNd) else module.out_features
                call = _Call(kind, module.weight.numel(), channels, module.bias is not None)
                call = self.calls.setdefault(name, call)
                call.macs += _layer_macs(module, x, output)
                call.outputs.append(output)
                self._reads(name, [x])
                self.see(output)
                self._source[id(output)] = name
                self._producers[id(output)] = name

        return hook


def _memory(tensor: Tensor) -> Tensor:
    """The tensor that this one is a view of, or itself."""
    with torch._C.DisableTorchFunction():  # the question is no use of the tensor
        return tensor if tensor._base is None else tensor._base


def _layer_macs(module: nn.Module, x: Tensor, output: Tensor) -> int:
    """MACs of one call of a Conv or Linear on one sample."""
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    assert isinstance(module, _ConvNd)
    kernel = math.prod(module.kernel_size)
    if isinstance(module, _ConvTransposeNd):
        return x.numel() * (module.out_channels // module.groups) * kernel
    return output.numel() * (module.in_channels // module.groups) * kernel
