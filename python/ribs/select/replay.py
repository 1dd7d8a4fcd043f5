"""Runs a network from one unit on: everything that ran before it answers from a store.

Each unit is watched at its boundary modules (its block, or its layers one by one), and so is every module between
units (pooling, activations). One full pass stores what every boundary returned, in the order of the calls. To try other
bits in unit i, the network runs again, but every boundary call before unit i's first returns its stored output, so that
nothing before unit i is computed again. Causality makes this exact for any topology and control flow: those calls
cannot depend on unit i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork


class Replay:
    """A context in which a quantized network can be run from any unit on.

    Holds the outputs of one batch at a time, so that memory does not grow with the calibration set.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        self._network = network
        units = {name: index for index, unit in enumerate(network.units) for name in unit.modules}
        self._unit_of: dict[str, int | None] = {**units, **dict.fromkeys(_between(network.model, units))}
        self._patched: dict[str, Callable[..., Any]] = {}  # a forward that the user had replaced on the instance
        self._stored: list[Any] = []
        self._versions: list[list[int]] = []
        self._first_call: dict[int, int] = {}
        # Boundary calls whose output the network goes on to change in place (`x += shortcut`): stored as copies.
        self._changed_in_place: set[int] = set()
        self._calls = 0
        self._skip_before: int | None = None  # None while recording

    def __enter__(self) -> Replay:
        for name, unit in self._unit_of.items():
            module = self._network.model.get_submodule(name)
            if "forward" in module.__dict__:
                self._patched[name] = module.__dict__["forward"]
            module.forward = self._boundary(module.forward, unit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in self._unit_of:
            del self._network.model.get_submodule(name).__dict__["forward"]
        for name, forward in self._patched.items():
            self._network.model.get_submodule(name).forward = forward
        self._stored.clear()

    def record(self, inputs: Inputs) -> Any:
        """One full pass with the present bits; what it returns is the network's output."""
        output = self._record(inputs)
        changed = self._changed()
        if changed - self._changed_in_place:
            self._changed_in_place |= changed
            output = self._record(inputs)
        return output

    def run_from(self, unit: int, inputs: Inputs) -> Any:
        """The network's output with the present bits, given that only unit number `unit` and later ones changed."""
        self._calls, self._skip_before = 0, self._first_call[unit]
        output = inputs.call(self._network.model)
        if self._changed() - self._changed_in_place:
            raise RuntimeError("[Replay] the network changed a stored output in place that it did not when recorded")
        return output

    def units_from(self, unit: int) -> list[int]:
        """The units that `run_from` computes."""
        return [other for other, call in self._first_call.items() if call >= self._first_call[unit]]

    def _record(self, inputs: Inputs) -> Any:
        self._stored, self._versions, self._first_call = [], [], {}
        self._calls, self._skip_before = 0, None
        return inputs.call(self._network.model)

    def _boundary(self, forward: Callable[..., Any], unit: int | None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            index = self._calls
            self._calls += 1
            if self._skip_before is None:
                if unit is not None:
                    self._first_call.setdefault(unit, index)
                return self._store(index, forward(*args, **kwargs))
            if index < self._skip_before:
                return _clone(self._stored[index]) if index in self._changed_in_place else self._stored[index]
            return forward(*args, **kwargs)

        return call

    def _store(self, index: int, output: Any) -> Any:
        kept = _clone(output) if index in self._changed_in_place else output
        self._stored.append(kept)
        self._versions.append(_versions(kept))
        return output

    def _changed(self) -> set[int]:
        return {
            index
            for index, (output, versions) in enumerate(zip(self._stored, self._versions, strict=True))
            if _versions(output) != versions
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


def _versions(tree: Any) -> list[int]:
    return [leaf._version for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _clone(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)
