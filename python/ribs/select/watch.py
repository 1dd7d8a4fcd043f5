"""One watched pass: which modules are called, in what order and inside of which, and what reads what they return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ribs.quant.quantizer import FakeQuantizer
from ribs.quant.tree import leaves, map_leaves, tensors

NETWORK = -1  # in the place of a call: the network's own forward


@dataclass
class Call:
    """One call of a watched module. Calls are numbered in the order in which they begin.

    name: path of the module.  inside: number of the call around it, or NETWORK.  end: number of the first call that
        begins after it has ended.
    readers: the calls in which its output is read, each the innermost.  until: all of them end before this number.
    changed: the output is changed in place after it was returned, so that a copy must be stored.
    size: bytes of the output for one sample, as it is stored.
    unread: the output with something in the place of its tensors that cannot be read.
    numbers: how often each layer that runs several times has run when it has ended.
    quantizer: all that reads the output, which is one tensor, at bits that no candidate changes: its codes are stored.
    """

    name: str
    inside: int
    end: int = 0
    readers: frozenset[int] = frozenset()
    until: int = 0
    changed: bool = False
    size: float = 0.0
    unread: Any = None
    numbers: Counter[str] = field(default_factory=Counter)
    quantizer: FakeQuantizer | None = None


@dataclass(frozen=True)
class Plan:
    """What one pass showed.

    first: for each unit, the number of its first call.
    starts: for each unit, the number of the call from which its candidates run: at most its first.
    kept: the calls whose outputs are stored.
    size: bytes stored for one sample.
    """

    calls: tuple[Call, ...]
    first: tuple[int, ...]
    starts: tuple[int, ...]
    kept: frozenset[int]
    size: float

    def read_from(self, start: int) -> set[int]:
        """The calls whose outputs a run from `start` on reads."""
        return read_from(self.calls, start)

    def within(self, size: float, weights: Sequence[float]) -> Plan:
        """A plan that stores at most `size` bytes for one sample, and runs the other units from an earlier start.

        weights: the work of each unit, by which starts are chosen: the most work saved for a byte first.
        """
        numbers = sorted(set(self.starts) - {0})
        behind = {start: sum(w for f, w in zip(self.first, weights, strict=True) if f < start) for start in numbers}
        kept: set[int] = set()
        chosen = [0]
        while numbers:
            gains = {}
            for start in numbers:
                added = sum(self.calls[call].size for call in self.read_from(start) - kept)
                if added + sum(self.calls[call].size for call in kept) <= size:
                    before = max(other for other in chosen if other < start)
                    users = sum(
                        start <= wanted and before == max(c for c in chosen if c <= wanted) for wanted in self.starts
                    )
                    gains[start] = users * (behind[start] - behind.get(before, 0.0)) / max(added, 1.0)
            if not gains:
                break
            best = max(gains, key=lambda start: (gains[start], start))
            chosen.append(best)
            kept |= self.read_from(best)
            numbers.remove(best)
        starts = tuple(max(start for start in chosen if start <= wanted) for wanted in self.starts)
        return Plan(self.calls, self.first, starts, frozenset(kept), sum(self.calls[call].size for call in kept))


class OutputReadError(RuntimeError):
    """An output was read that nothing read when the network was watched."""


class _Unread:
    """In the place of a tensor that nothing reads: every use of it raises."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise OutputReadError(f"[Replay] {getattr(func, '__name__', func)} read an output that is not stored")

    def __getattr__(self, name: str) -> Any:
        raise OutputReadError(f"[Replay] {name} of an output was read that is not stored")

    def _refuse(self, *others: Any) -> Any:
        raise OutputReadError("[Replay] an output was read that is not stored")

    __bool__ = __len__ = __iter__ = __getitem__ = __setitem__ = __neg__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __matmul__ = __pow__ = _refuse
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse


UNREAD = _Unread()


class Watch(TorchFunctionMode):
    """Sees the calls of watched modules and what reads their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._running: list[int] = []
        self._outputs: list[Any] = []  # kept, so that no later tensor takes the id of one of them
        self._versions: dict[int, list[int]] = {}
        self._source: dict[int, int] = {}  # id of a tensor -> the last call that returned it
        self._readers: dict[int, set[int]] = {}

    def call(self, name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = len(self.calls)
        self.calls.append(Call(name, self._running[-1] if self._running else NETWORK))
        self._outputs.append(None)
        self._running.append(number)
        output = forward(*args, **kwargs)
        self._running.pop()
        self.calls[number].end = len(self.calls)
        self.returned(number, output)
        self._outputs[number] = output
        with torch._C.DisableTorchFunction():  # reading a version is not reading the output
            self._versions[number] = _versions(output)
        self._source.update((id(leaf), number) for leaf in tensors(output))
        return output

    def returned(self, number: int, output: Any) -> None:
        """What a call returns it reads, for whoever reads it next."""
        self._read(output, number)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._read((args, kwargs), self._running[-1] if self._running else NETWORK)
        return func(*args, **kwargs)

    def _read(self, tree: Any, reader: int) -> None:
        for leaf in tensors(tree):
            if id(leaf) in self._source:
                self._readers.setdefault(self._source[id(leaf)], set()).add(reader)

    def finish(self, samples: int) -> list[Call]:
        for number, call in enumerate(self.calls):
            # What an object of another kind holds may be read anywhere.
            hidden = [NETWORK] if any(map(_may_hold_tensors, leaves(self._outputs[number]))) else []
            call.readers = frozenset([*self._readers.get(number, ()), *hidden])
            ends = (len(self.calls) + 1 if reader == NETWORK else self.calls[reader].end for reader in call.readers)
            call.until = max(ends, default=0)
            call.changed = _versions(self._outputs[number]) != self._versions[number]
            call.size = sum(leaf.numel() * leaf.element_size() for leaf in tensors(self._outputs[number])) / samples
            call.unread = map_leaves(lambda leaf: UNREAD if isinstance(leaf, Tensor) else leaf, self._outputs[number])
        return self.calls


def read_from(calls: Sequence[Call], start: int) -> set[int]:
    """The calls that had ended before `start`, in one that had not, and whose output is read by one that had not."""
    return {
        number
        for number, call in enumerate(calls[:start])
        if call.end <= start < call.until and (call.inside == NETWORK or calls[call.inside].end > start)
    }


def _may_hold_tensors(leaf: Any) -> bool:
    return hasattr(leaf, "__dict__") and not isinstance(leaf, (Tensor, nn.Module, type)) and not callable(leaf)


def _versions(tree: Any) -> list[int]:
    return [leaf._version for leaf in tensors(tree)]
