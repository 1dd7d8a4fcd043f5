"""Runs a network from one unit on: everything that ran before it answers from a store.

Watched are the modules of the units, the modules between them (pooling, activations) and every module around these. One
pass over a few samples shows the order of their calls, which call lies in which, and which outputs are read by what
(`Plan`). To try other bits in unit i the network runs again, but every call that had ended before unit i's first began
returns its stored output, so that nothing before unit i is computed again. Causality makes this exact for any topology
and control flow: those calls cannot depend on unit i. Where they leave something behind that no output shows (a module
that keeps a tensor for a later one), a check finds it, and the unit runs the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork

NETWORK = -1  # in the place of a call: the network's own forward


@dataclass
class Call:
    """One call of a watched module. Calls are numbered in the order in which they begin.

    name: path of the module.  inside: number of the call around it, or NETWORK.  end: number of the first call that
        begins after it has ended.
    until: its output is read by calls that end before this number, and by no other.
    changed: the output is changed in place after it was returned, so that a copy must be stored.
    size: bytes of the output for one sample.
    unread: the output with something in the place of its tensors that cannot be read.
    """

    name: str
    inside: int
    end: int = 0
    until: int = 0
    changed: bool = False
    size: float = 0.0
    unread: Any = None


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
        return _read_from(self.calls, start)

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


@dataclass
class Recording:
    """Stored outputs of one pass, by the number of the call; empty until `Replay.record` fills it.

    whole: the calls were not those of the plan (a forward that depends on its data), so that nothing can be skipped.
    """

    outputs: dict[int, Any] = field(default_factory=dict)
    whole: bool = False


class Replay:
    """A context in which a quantized network can be run from any unit on."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self._network = network
        self.unit_of = {name: index for index, unit in enumerate(network.units) for name in unit.modules}
        inner = [*self.unit_of, *_between(network.model, self.unit_of)]
        around = {name[:end] for name in inner for end, letter in enumerate(name) if letter == "."}
        self._watched = list(dict.fromkeys([*inner, *sorted(around)]))
        self._patched: dict[str, Callable[..., Any]] = {}  # a forward that the user had replaced on the instance
        self._watch: _Watch | None = None  # while a plan is made
        self._plan: Plan | None = None
        self._recording = Recording()
        self._start = self._next = 0
        self._storing = self._astray = False

    def __enter__(self) -> Replay:
        for name in self._watched:
            module = self._network.model.get_submodule(name)
            if "forward" in module.__dict__:
                self._patched[name] = module.__dict__["forward"]
            module.forward = self._watched_forward(name, module.forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in self._watched:
            del self._network.model.get_submodule(name).__dict__["forward"]
        for name, forward in self._patched.items():
            self._network.model.get_submodule(name).forward = forward

    def plan(self, inputs: Inputs, others: Inputs) -> Plan:
        """Watch one pass over `inputs`, a few samples, and check that every unit can be run from its first call.

        others: other samples, run in between, so that what a module kept of `inputs` cannot pass the check.
        """
        watch = self._watch = _Watch()
        try:
            with watch:
                output = inputs.call(self._network.model)
            watch.returned(NETWORK, output)
        finally:
            self._watch = None
        calls = watch.finish(inputs.samples)
        first = [0] * len(self._network.units)  # of a unit that these samples did not reach: the whole network
        for number in reversed(range(len(calls))):
            if calls[number].name in self.unit_of:
                first[self.unit_of[calls[number].name]] = number
        everything = frozenset().union(*(_read_from(calls, start) for start in first))
        plan = Plan(tuple(calls), tuple(first), tuple(first), everything, 0.0)
        starts = [start if self._repeats(plan, start, inputs, others) else 0 for start in first]
        kept = frozenset().union(*(_read_from(calls, start) for start in starts))
        return Plan(plan.calls, plan.first, tuple(starts), kept, sum(calls[number].size for number in kept))

    def _repeats(self, plan: Plan, start: int, inputs: Inputs, others: Inputs) -> bool:
        """Whether a run from `start` on gives what a whole one gives."""
        recording = Recording()
        expected = self.record(plan, recording, inputs)
        others.call(self._network.model)
        try:
            return not recording.whole and _same(self.run(plan, recording, start, inputs), expected)
        except OutputReadError:
            return False

    def record(self, plan: Plan, recording: Recording, inputs: Inputs, start: int = 0) -> Any:
        """The network's output with the present bits; stores what the plan keeps.

        start: nothing before this call has changed since `recording` was filled with these inputs.
        """
        output = self._run(plan, recording, 0 if recording.whole else start, inputs, storing=True)
        recording.whole = self._astray
        if recording.whole:
            recording.outputs.clear()
        return output

    def run(self, plan: Plan, recording: Recording, start: int, inputs: Inputs) -> Any:
        """The network's output with the present bits, given that nothing before call number `start` changed."""
        return self._run(plan, recording, 0 if recording.whole else start, inputs, storing=False)

    def _run(self, plan: Plan, recording: Recording, start: int, inputs: Inputs, *, storing: bool) -> Any:
        self._plan, self._recording, self._start, self._storing = plan, recording, start, storing
        self._next, self._astray = 0, False
        try:
            return inputs.call(self._network.model)
        finally:
            self._astray |= self._next != len(plan.calls)
            self._plan, self._recording = None, Recording()

    def _watched_forward(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._watch is not None:
                return self._watch.call(name, forward, args, kwargs)
            if self._plan is None or self._astray:
                return forward(*args, **kwargs)
            number = self._next
            if number >= len(self._plan.calls) or self._plan.calls[number].name != name:
                self._astray = True
                return forward(*args, **kwargs)
            planned = self._plan.calls[number]
            if planned.end <= self._start:
                self._next = planned.end
                return self._answer(number, planned)
            self._next += 1
            output = forward(*args, **kwargs)
            self._astray |= self._next != planned.end
            if self._storing and number in self._plan.kept and not self._astray:
                self._recording.outputs[number] = _clone(output) if planned.changed else output
            return output

        return call

    def _answer(self, number: int, planned: Call) -> Any:
        if number not in self._recording.outputs:
            return planned.unread
        output = self._recording.outputs[number]
        return _clone(output) if planned.changed else output


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


_UNREAD = _Unread()


class _Watch(TorchFunctionMode):
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
        self._source.update((id(leaf), number) for leaf in _tensors(output))
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
        for leaf in _tensors(tree):
            if id(leaf) in self._source:
                self._readers.setdefault(self._source[id(leaf)], set()).add(reader)

    def finish(self, samples: int) -> list[Call]:
        for number, call in enumerate(self.calls):
            ends = [len(self.calls) + 1 if r == NETWORK else self.calls[r].end for r in self._readers.get(number, ())]
            call.until = max(ends, default=0)
            call.changed = _versions(self._outputs[number]) != self._versions[number]
            call.size = sum(leaf.numel() * leaf.element_size() for leaf in _tensors(self._outputs[number])) / samples
            call.unread = tree_map(lambda leaf: _UNREAD if isinstance(leaf, Tensor) else leaf, self._outputs[number])
        return self.calls


def _read_from(calls: Sequence[Call], start: int) -> set[int]:
    """The calls that had ended before `start`, in one that had not, and whose output is read by one that had not."""
    return {
        number
        for number, call in enumerate(calls[:start])
        if call.end <= start < call.until and (call.inside == NETWORK or calls[call.inside].end > start)
    }


def _between(model: nn.Module, units: Iterable[str]) -> list[str]:
    """The outermost modules that neither hold a unit nor lie in one."""
    holders = {name[:end] for name in units for end, letter in enumerate(name) if letter == "."} | {""}
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{other}.") or not other for other in (*units, *found))
        if name not in holders and not inside and not isinstance(module, nn.Identity):
            found.append(name)
    return found


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _versions(tree: Any) -> list[int]:
    return [leaf._version for leaf in _tensors(tree)]


def _clone(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def _same(left: Any, right: Any) -> bool:
    """Equal outputs, bit for bit but for the sign of zero; NaN equals nothing."""
    pairs = list(zip(_tensors(left), _tensors(right), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)
