"""Losses of configurations, each measured once, by the processes that share a search, and kept in its journal."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import Bits, QuantizedNetwork
from ribs.select.loss import TaskLoss, check_loss, measure
from ribs.select.ranks import Ranks
from ribs.select.samples import Choice

Losses = NDArray[np.float64]
Key = tuple[Choice, int]  # a configuration, and the number of a shard among all that there were
MIB = 2**20


class Measurement(ABC):
    """Measures L(b) of one network on a calibration set.

    shards: the calibration set.
    candidates: for each unit, the (weight, activation) bits it may take; configurations are tuples of indices into
        these.
    samples: of each shard.
    known: losses that need not be measured again, by configuration and shard; all that are measured come here too.
    forward_equivalents: work asked for so far, in passes of the network over the calibration set; what was known
        when asked for the first time counts as well, so that an interrupted search ends with the same number.
    passes_of_a_loss: the work of one configuration alone, in forward equivalents.  passes_before: of what is done once.
    seconds_of_a_pass: how long the float network took.
    record: told of every loss that this process measured.  progress: told of work, in forward equivalents.
    """

    passes_of_a_loss = 1.0
    passes_before = 0.0

    def __init__(
        self,
        network: QuantizedNetwork,
        shards: Sequence[Inputs],
        candidates: Sequence[Sequence[Bits]],
        loss: TaskLoss,
        *,
        ranks: Ranks | None,
        known: Mapping[Key, Losses] | None,
        record: Callable[[Choice, int, Losses], None] | None,
        progress: Callable[[float], None],
    ) -> None:
        check_loss(loss)
        self.samples = tuple(shard.samples for shard in shards)
        self.known = dict(known or {})
        self.forward_equivalents = 0.0
        self._network = network
        self._shards = shards
        self._before = 0  # shards that the samples were in before these
        self._candidates = candidates
        self._loss = loss
        self._ranks = ranks or Ranks(alone=True)
        self._record = record or (lambda choice, shard, losses: None)
        self._progress = progress
        self._asked: set[Key] = set()
        self._work = shares_of_units(network)
        started = time.perf_counter()
        self._float_outputs = self._run_float()
        self.seconds_of_a_pass = time.perf_counter() - started

    @torch.no_grad()
    def _run_float(self) -> list[Any]:
        """The float network's outputs; a candidate of 32 bits everywhere has a loss of exactly 0."""
        self._network.set_float()
        outputs = []
        for shard in range(len(self._shards)):
            inputs = self._inputs(shard)
            output = inputs.call(self._network.model)
            losses = measure(self._loss, output, output, inputs)
            if not bool(torch.isfinite(losses).all()):
                where = _first_not_finite(self._network, inputs)
                raise ValueError(f"[ribs] the float model's output holds NaN or Inf on the calibration set; {where}")
            outputs.append(output)
        self.forward_equivalents += 1
        return outputs

    @torch.no_grad()
    def measure(self, choices: Sequence[Choice], shard: int) -> Losses:
        """[len(choices), samples of the shard] task losses of each configuration.

        The first is the reference, which most of the others are near. The work is shared out among the processes, and
        all of them get all losses.
        """
        self._begin(choices[0])
        ahead = self._count(choices, shard)
        unknown = [choice for choice in dict.fromkeys(choices) if not self.knows(choice, shard)]
        jobs = list(self._jobs(choices[0], unknown))
        if jobs:
            work = [sum(self._share(choices[0], choice) for choice in job) for job in jobs]
            mine = self._ranks.share(work)
            measured: list[Losses] = []
            for index, losses in zip(mine, self._run(choices[0], [jobs[i] for i in mine], shard), strict=True):
                measured.append(losses)
                done = min(ahead, work[index] * self.samples[shard] / sum(self.samples))
                ahead -= done
                self._progress(done)
            for job, rows in zip(jobs, self._ranks.gather(measured, mine, len(jobs)), strict=True):
                self.known.update((self._key(choice, shard), row) for choice, row in zip(job, rows, strict=True))
        self._progress(ahead)
        return np.stack([self.known[self._key(choice, shard)] for choice in choices])

    def knows(self, choice: Choice, shard: int) -> bool:
        """Whether the losses of a configuration on a shard need not be measured again."""
        return self._key(choice, shard) in self.known

    def evaluate(self, choice: Choice) -> Losses:
        """[samples] task losses of one configuration on the whole calibration set."""
        return np.concatenate([self.measure([choice], shard)[0] for shard in range(len(self.samples))])

    @torch.no_grad()
    def losses_of(self, network: QuantizedNetwork) -> Losses:
        """[samples] losses of a network at its present bits, measured by passes of all of it and not kept."""
        losses = []
        for shard, target in enumerate(self._float_outputs):
            inputs = self._inputs(shard)
            losses.append(self._losses(target, inputs.call(network.model), inputs))
        self.forward_equivalents += 1
        return np.concatenate(losses)

    def _losses(self, target: Any, output: Any, inputs: Inputs) -> Losses:
        return measure(self._loss, target, output, inputs).double().cpu().numpy()

    @abstractmethod
    def _begin(self, choice: Choice) -> None:
        """Get ready, before anything is measured; once, or again at no cost."""

    @abstractmethod
    def _jobs(self, reference: Choice, choices: Sequence[Choice]) -> Iterator[list[Choice]]:
        """The configurations in the order in which they are best measured, those together that are so at once."""

    @abstractmethod
    def _run(self, reference: Choice, jobs: Sequence[Sequence[Choice]], shard: int) -> Iterator[Losses]:
        """[configurations of the job, samples] losses of each job, recorded as they come."""

    @abstractmethod
    def _share(self, reference: Choice, choice: Choice) -> float:
        """The work of a configuration beside the reference, in passes of the network over a shard."""

    @abstractmethod
    def _count(self, choices: Sequence[Choice], shard: int) -> float:
        """Add up the work as if nothing was known, which does not depend on interruptions or processes."""

    def _key(self, choice: Choice, shard: int) -> Key:
        return choice, self._before + shard

    def _configuration(self, choice: Choice) -> dict[str, Bits]:
        units = zip(self._network.units, self._candidates, choice, strict=True)
        return {unit.name: options[index] for unit, options, index in units}

    def _inputs(self, shard: int) -> Inputs:
        return self._shards[shard].to(self._network.device)


def _first_not_finite(network: QuantizedNetwork, inputs: Inputs) -> str:
    """Which layer is the first to get NaN or Inf."""
    found: list[str] = []

    def look(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        values = [each for each in args if isinstance(each, Tensor) and each.is_floating_point()]
        if not all(bool(each.isfinite().all()) for each in values):
            found.append(name)

    layers = [layer.name for layer in network.trace.layers]
    hooks = [network.model.get_submodule(name).register_forward_pre_hook(partial(look, name)) for name in layers]
    try:
        inputs.call(network.model)
    finally:
        for hook in hooks:
            hook.remove()
    return f"they are there where it enters {found[0]!r}" if found else "they come after its last layer"


def shares_of_units(network: QuantizedNetwork) -> list[float]:
    """The share of each unit in the MACs of the network."""
    macs = {layer.name: layer.macs for layer in network.trace.layers}
    units = [sum(macs[name] for name in unit.layers) for unit in network.units]
    in_float = sum(network.trace.unquantized.values()) + sum(layer.macs for layer in network.trace.skipped)
    total = sum(units) + in_float
    return [work / total for work in units]
