"""Tensors of one forward pass: when each is made and last wanted, whose output it is, what it is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ribs.quant.flow import changes_first, memory_of
from ribs.quant.sums import SUMS
from ribs.quant.trace import Read
from ribs.quant.tree import tensors

VALUES = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__")  # give numbers of a tensor


class Lineage:
    """Follows every tensor.

    given: the names of parameters and buffers, by tensor.  moments: the layer of each call so far.
    sums, otherwise: as in `Trace`.
    origins: by tensor, the names of the parameters and buffers it is computed from; None if it depends on the inputs.
    source: by tensor, the one layer from whose output it comes.
    """

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self.given = {id(tensor): name for name, tensor in given.items()}
        self.moments: list[str] = []
        self.sums: list[tuple[str, str]] = []
        self.otherwise: set[str] = set()
        self.origins: dict[int, frozenset[str] | None] = {}
        self.source: dict[int, str] = {}
        self._read: dict[tuple[int, str], Tensor] = {}
        self._weighed: dict[tuple[int, int], str] = {}  # by tensor and its version: the first layer with weights
        self._born: dict[int, int] = {}  # by memory
        self._last: dict[int, int] = {}
        self._alive: dict[int, Tensor] = {}  # no id is taken by a later tensor
        for tensor in given.values():
            self.see(tensor)
            self.origins[id(tensor)] = frozenset({self.given[id(tensor)]})

    def take(self, inputs: Iterable[Tensor]) -> None:
        """The network is given its inputs."""
        for tensor in inputs:
            self.see(tensor)
            self.origins[id(tensor)] = None

    def see(self, tensor: Tensor) -> None:
        """What is met for the first time was made by the last layer that ran, or before any."""
        memory = memory_of(tensor)
        self._alive.update({id(tensor): tensor, id(memory): memory})
        self._born.setdefault(id(memory), len(self.moments) - 1)

    def run(self, name: str, operands: Iterable[Any]) -> None:
        """A layer runs now: the next moment."""
        for operand in operands:
            self.see(operand)
            self._read.setdefault((id(operand), name), operand)
            self._last[id(memory_of(operand))] = len(self.moments)
        self.moments.append(name)

    def weigh(self, name: str, tensor: Tensor) -> None:
        """A layer with weights reads a tensor."""
        self._weighed.setdefault(_version(tensor), name)

    def reader(self, tensor: Tensor) -> str | None:
        """The first layer with weights that read a tensor as it is now."""
        return self._weighed.get(_version(tensor))

    def follow(
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
        origin = self.origin(operands)
        if origin is None and not product:
            self.read_otherwise(operands)
        for tensor in [*results, *changed, *map(memory_of, changed)]:
            self.origins[id(tensor)] = origin
        sources = [self.source[id(tensor)] for tensor in operands if id(tensor) in self.source]
        added = func in SUMS and len(operands) > 1
        if added and len(sources) == 2 and sources[0] != sources[1]:
            self.sums.append((sources[0], sources[1]))
        for tensor in results:
            self.source.pop(id(tensor), None)
            if len(sources) == 1 and not added:
                self.source[id(tensor)] = sources[0]

    def read_otherwise(self, tensors: Iterable[Any]) -> None:
        """What these tensors were computed from is read, and not as weights of a layer."""
        for tensor in tensors:
            self.otherwise |= self.origin([tensor]) or set()

    def origin(self, tensors: Iterable[Any]) -> frozenset[str] | None:
        """What a function of these tensors is computed from. A tensor that nothing is known of may be an input."""
        found: frozenset[str] = frozenset()
        for tensor in tensors:
            memory = id(memory_of(tensor))
            origins = (self.origins.get(id(tensor), self.origins.get(memory)), self.origins.get(memory, found))
            if None in origins:
                return None
            found = found.union(*origins)  # type: ignore[arg-type]
        return found

    def reads(self) -> list[Read]:
        """What layers read, in the order of the first reading."""
        numbers: dict[int, int] = {}
        found = []
        for (tensor, layer), value in self._read.items():
            memory = id(memory_of(value))
            number = numbers.setdefault(tensor, len(numbers))
            found.append(Read(number, layer, value.numel(), self._born[memory], self._last[memory]))
        return found


def _version(tensor: Tensor) -> tuple[int, int]:
    """A tensor until it is changed in place."""
    with torch._C.DisableTorchFunction():  # the question is no use of the tensor
        return id(tensor), 0 if tensor.is_inference() else tensor._version
