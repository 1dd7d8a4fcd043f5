"""Runs a network from one unit on: everything that ran before it answers from a store.

Watched are the modules of the units, the modules between them (pooling, activations) and every module around these. One
pass over a few samples shows the order of their calls, which call lies in which, and which outputs are read by what
(`Plan`). To try other bits in unit i the network runs again, but every call that had ended before unit i's first began
returns its stored output, so that nothing before unit i is computed again. Causality makes this exact for any topology
and control flow: those calls cannot depend on unit i. Where they leave something behind that no output shows (a module
that keeps a tensor for a later one), a check finds it, and the unit runs the whole network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.network import QuantizedNetwork
from ribs.quant.tree import map_leaves, tensors
from ribs.select.side_by_side import Setting, SideBySide
from ribs.select.watch import NETWORK, UNREAD, Call, OutputReadError, Plan, Watch, read_from


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
        self._watch: Watch | None = None  # while a plan is made
        self._plan: Plan | None = None
        self._recording = Recording()
        self._start = self._next = 0
        self._storing = self._astray = False
        self._side_by_side: SideBySide | None = None

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

    def plan(self, inputs: Inputs, others: Inputs, fixed: Collection[str] = ()) -> Plan:
        """Watch one pass over `inputs`, a few samples, and check that every unit can be run from its first call.

        others: other samples, run in between, so that what a module kept of `inputs` cannot pass the check.
        fixed: layers whose activation bits never change from now on. What only they read is stored as their codes.
        """
        watch = self._watch = Watch()
        try:
            with watch:
                output = inputs.call(self._network.model)
            watch.returned(NETWORK, output)
        finally:
            self._watch = None
        calls = watch.finish(inputs.samples)
        for call in calls:
            [*readers] = {calls[reader].name for reader in call.readers if reader != NETWORK}
            one_tensor = call.unread is UNREAD and not call.changed
            if one_tensor and len(readers) == 1 and NETWORK not in call.readers and readers[0] in fixed:
                layer = self._network.model.get_submodule(readers[0])
                if isinstance(layer, QuantizedLayer) and layer.rounds_what_it_gets and layer.input_quantizer.bits <= 8:
                    call.quantizer, call.size = layer.input_quantizer, call.size / 4
        first = [0] * len(self._network.units)  # of a unit that these samples did not reach: the whole network
        for number in reversed(range(len(calls))):
            if calls[number].name in self.unit_of:
                first[self.unit_of[calls[number].name]] = number
        everything = frozenset().union(*(read_from(calls, start) for start in first))
        plan = Plan(tuple(calls), tuple(first), tuple(first), everything, 0.0)
        starts = [start if self._repeats(plan, start, inputs, others) else 0 for start in first]
        kept = frozenset().union(*(read_from(calls, start) for start in starts))
        return Plan(plan.calls, plan.first, tuple(starts), kept, sum(calls[number].size for number in kept))

    def _repeats(self, plan: Plan, start: int, inputs: Inputs, others: Inputs) -> bool:
        """Whether a run from `start` on gives what a whole one gives."""
        recording = Recording()
        expected = self.record(plan, recording, inputs)
        others.call(self._network.model)
        try:
            return not recording.whole and same(self.run(plan, recording, start, inputs), expected)
        except OutputReadError:
            return False

    def record(self, plan: Plan, recording: Recording, inputs: Inputs, start: int = 0) -> Any:
        """The network's output with the present bits; stores what the plan keeps.

        start: nothing before this call has changed since `recording` was filled with these inputs.
        A pass that something ends early stores what it came to.
        """
        try:
            return self._run(plan, recording, 0 if recording.whole else start, inputs, storing=True)
        finally:
            recording.whole = self._astray
            if recording.whole:
                recording.outputs.clear()

    def run(self, plan: Plan, recording: Recording, start: int, inputs: Inputs) -> Any:
        """The network's output with the present bits, given that nothing before call number `start` changed."""
        return self._run(plan, recording, 0 if recording.whole else start, inputs, storing=False)

    def run_side_by_side(
        self, plan: Plan, recording: Recording, start: int, inputs: Inputs, unit: int, settings: Sequence[Setting]
    ) -> list[Any]:
        """The network's output with a unit in each of several settings, from one pass of a batch as many times larger.

        unit: the modules of this unit run once for each setting, on a part of the batch each; all others run once.
        settings: each changes the bits of the unit; the last to be called stays.
        Raises: RuntimeError where the calls are not those of the plan, so that the unit's cannot be told.
        """
        self._side_by_side = SideBySide(frozenset(self._network.units[unit].modules), settings, inputs.samples)
        try:
            output = self.run(plan, recording, start, inputs.repeat(len(settings)))
            if self._astray:
                raise RuntimeError("[Replay] the calls are not those that were watched")
            return self._side_by_side.parts(output)
        finally:
            self._side_by_side = None

    def _run(self, plan: Plan, recording: Recording, start: int, inputs: Inputs, *, storing: bool) -> Any:
        self._plan, self._recording, self._start, self._storing = plan, recording, start, storing
        self._next, self._astray = 0, False
        try:
            output = inputs.call(self._network.model)
            self._astray |= self._next != len(plan.calls)
            return output
        finally:
            self._plan, self._recording = None, Recording()

    def _watched_forward(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._watch is not None:
                number = len(self._watch.calls)
                output = self._watch.call(name, forward, args, kwargs)
                self._watch.calls[number].numbers = Counter(self._network.repeats.numbers)
                return output
            if self._plan is None or self._astray:
                return forward(*args, **kwargs)
            number = self._next
            if number >= len(self._plan.calls) or self._plan.calls[number].name != name:
                self._astray = True
                return forward(*args, **kwargs)
            planned = self._plan.calls[number]
            if planned.end <= self._start:
                self._next = planned.end
                self._network.repeats.numbers = Counter(planned.numbers)
                return self._answer(number, planned)
            self._next += 1
            beside = self._side_by_side
            each = beside is not None and name in beside.modules
            output = beside.run(self._again(forward), args, kwargs) if beside and each else forward(*args, **kwargs)
            self._astray |= self._next != planned.end
            if self._storing and number in self._plan.kept and not self._astray:
                self._recording.outputs[number] = self._stored(output, planned)
            return output

        return call

    def _again(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that may run several times in the place of one: each starts from the same numbers of calls."""
        before = Counter(self._network.repeats.numbers)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._network.repeats.numbers = Counter(before)
            return forward(*args, **kwargs)

        return call

    def _stored(self, output: Any, planned: Call) -> Any:
        if planned.quantizer is not None and planned.quantizer.bits <= 8:
            return planned.quantizer.codes(output)
        return _clone(output) if planned.changed else output

    def _answer(self, number: int, planned: Call) -> Any:
        if number not in self._recording.outputs:
            return planned.unread
        output = self._recording.outputs[number]
        if planned.quantizer is not None and planned.quantizer.bits <= 8:
            # Quantizing again what has been quantized changes nothing.
            step, zero_point = planned.quantizer.scalars
            output = (output.float() - zero_point).mul_(step)
        if self._side_by_side is not None:
            return self._side_by_side.repeated(output)
        return _clone(output) if planned.changed else output


def _between(model: nn.Module, units: Iterable[str]) -> list[str]:
    """The outermost modules that neither hold a unit nor lie in one."""
    holders = {name[:end] for name in units for end, letter in enumerate(name) if letter == "."} | {""}
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{other}.") or not other for other in (*units, *found))
        if name not in holders and not inside and not isinstance(module, nn.Identity):
            found.append(name)
    return found


def _clone(tree: Any) -> Any:
    return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def same(left: Any, right: Any) -> bool:
    """Equal outputs, bit for bit but for the sign of zero; NaN equals nothing, nor do objects without known tensors."""
    pairs = list(zip(tensors(left), tensors(right), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)
