"""Runs of a network captured on a GPU: all their kernels are launched again at once, without Python in between.

A captured run reads and writes the memory that it was captured on. What it reads of a shard is therefore copied to one
place in memory, the same for all shards of a size, and each run is captured there once and launched for every shard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork
from ribs.quant.tree import leaves, map_leaves, tensors
from ribs.select.replay import Recording

Launch = Callable[[], None]
Capture = Callable[[Callable[[], Tensor], Any], tuple[Launch, Tensor]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """What a run from the middle of a network on one shard reads, and what its output is compared with."""

    recording: Recording
    inputs: Inputs
    target: Any

    @property
    def tree(self) -> Any:
        return self.recording.outputs, self.inputs.args, dict(self.inputs.kwargs), self.target

    def copy(self) -> Held:
        outputs, args, kwargs, target = map_leaves(
            lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, self.tree
        )
        return Held(Recording(outputs), Inputs(args, kwargs), target)


Run = Callable[[Held], Tensor]


@dataclass
class _Captured:
    """weights: all that was kept of weights, which the run reads: held so that its memory is not given to others."""

    launch: Launch
    losses: Tensor
    weights: Any


@dataclass
class _Place:
    """description: of what fits into it."""

    held: Held
    description: list[Any]
    runs: dict[Hashable, _Captured] = field(default_factory=dict)


class Graphs:
    """The captured runs of one network.

    capture: f(run, pool), captures a run; gives what launches it, and the tensor that holds what it returns.
    """

    def __init__(self, network: QuantizedNetwork, capture: Capture) -> None:
        self._network = network
        self._capture = capture
        self._places: list[_Place] = []
        self._pool: Any = None
        self.usable = True

    def forget(self) -> None:
        """Release all runs, and with them their memory: torch refuses to capture into a pool that no graph holds."""
        for place in self._places:
            place.runs.clear()
        self._pool = None

    def load(self, held: Held) -> Callable[[Hashable, Run], Tensor]:
        """Bring a shard to its place in memory.

        Returns: f(key, run), the losses that `run` gives for the shard, until it is asked again. A run is known by its
            key, and captured when that is new; where it cannot be, it runs as it is.
        """
        if not self.usable or held.recording.whole:
            return lambda key, run: run(held)
        description = [_describe(leaf) for leaf in leaves(held.tree)]
        place = next((place for place in self._places if place.description == description), None)
        if place is None:
            place = _Place(held.copy(), description)
            self._places.append(place)
        else:
            for own, given in zip(tensors(place.held.tree), tensors(held.tree), strict=True):
                own.copy_(given)
        return lambda key, run: self._losses(place, key, run)

    def _losses(self, place: _Place, key: Hashable, run: Run) -> Tensor:
        if key not in place.runs:
            # This also makes the weights of these bits, and what libraries make at their first call.
            expected = run(place.held)
            captured = self._captured(place, run, expected) if self.usable else None
            if captured is not None:
                place.runs[key] = captured
            return expected
        place.runs[key].launch()
        return place.runs[key].losses

    def _captured(self, place: _Place, run: Run, expected: Tensor) -> _Captured | None:
        weights = self._network.kept_weights()
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle() if expected.is_cuda else object()
            launch, losses = self._capture(lambda: run(place.held), self._pool)
            # What was made while capturing only comes to be when the run is launched.
            self._network.forget_weights_but(weights)
            launch()
            if torch.equal(losses, expected):
                return _Captured(launch, losses, weights)
            reason = "it gave another loss"
        except RuntimeError as error:
            self._network.forget_weights_but(weights)
            reason = str(error).partition("\n")[0]
        self.usable = False
        self._places.clear()
        _log.info("passes of this network are not captured as CUDA graphs, which is slower: %s", reason)
        return None


def capture_on_cuda(run: Callable[[], Tensor], pool: Any) -> tuple[Launch, Tensor]:
    """Raises: RuntimeError for a run that waits for the device, or does what a graph cannot hold."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        losses = run()
    return graph.replay, losses


def _describe(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.stride()) if isinstance(leaf, Tensor) else leaf
