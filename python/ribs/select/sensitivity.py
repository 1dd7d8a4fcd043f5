"""Task losses of configurations, measured for every sample of the calibration set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ribs.quant.inputs import Inputs
from ribs.quant.network import Bits, QuantizedNetwork
from ribs.select.loss import TaskLoss
from ribs.select.ranks import Ranks
from ribs.select.replay import Plan, Recording, Replay
from ribs.select.search import Choice

Losses = NDArray[np.float64]
Key = tuple[Choice, int]  # a configuration, and the number of a shard
MIB = 2**20
WATCHED_SAMPLES = 2


@dataclass
class _Slot:
    """The outputs of one configuration on one shard."""

    shard: int = -1
    choice: Choice = ()
    recording: Recording = field(default_factory=Recording)


class Sensitivity:
    """Measures L(b) of one network on the shards of one calibration set, a whole shard at a time.

    candidates: for each unit, the (weight, activation) bits it may take; configurations are tuples of indices into
        these.
    samples: of each shard.
    known: losses that need not be measured again, by configuration and shard; all that are measured come here too.
    forward_equivalents: work asked for so far, in passes of the network over the calibration set; what was known
        when asked for the first time counts as well, so that an interrupted search ends with the same number.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        shards: Sequence[Inputs],
        candidates: Sequence[Sequence[Bits]],
        loss: TaskLoss,
        *,
        cache_mib: float = 1024,
        ranks: Ranks | None = None,
        known: Mapping[Key, Losses] | None = None,
        record: Callable[[Choice, int, Losses], None] = lambda choice, shard, losses: None,
        progress: Callable[[float], None] = lambda probes: None,
    ) -> None:
        self.samples = tuple(shard.samples for shard in shards)
        self.known = dict(known or {})
        self.forward_equivalents = 0.0
        self._network = network
        self._shards = shards
        self._candidates = candidates
        self._loss = loss
        self._ranks = ranks or Ranks()
        self._record = record
        self._progress = progress
        self._asked: set[Key] = set()
        self._held: dict[int, tuple[int, Choice]] = {}  # what the slots would hold if nothing had been known
        self._work = _work(network)
        self._float_outputs = self._run_float()
        self._limit = cache_mib * MIB
        self._replay = Replay(network)
        self._plan: Plan | None = None
        self._slots: list[_Slot] = []

    @torch.no_grad()
    def _run_float(self) -> list[Any]:
        """The float network's outputs; a candidate of 32 bits everywhere has a loss of exactly 0."""
        self._network.configure(dict.fromkeys((unit.name for unit in self._network.units), (32, 32)))
        outputs = []
        for shard, samples in enumerate(self.samples):
            output = self._inputs(shard).call(self._network.model)
            losses = self._loss(output, output)
            if losses.shape != (samples,):
                raise ValueError(
                    f"[loss] returned shape {tuple(losses.shape)} for {samples} samples; it must be [samples]"
                )
            if not bool(torch.isfinite(losses).all()):
                raise ValueError("[ribs] the float model's output holds NaN or Inf on the calibration set")
            outputs.append(output)
        self.forward_equivalents += 1
        return outputs

    @torch.no_grad()
    def measure(self, choices: Sequence[Choice], shard: int) -> Losses:
        """[len(choices), samples of the shard] task losses of each configuration.

        The first is the reference: it is run and stored as far as it differs from the one before, and each of the
        others runs from the first unit on in which it differs from the reference. The work is shared out among the
        processes, and all of them get all losses.
        """
        if self._plan is None:
            self._watch(choices[0])
        self._count(choices, shard)
        unknown = [choice for choice in dict.fromkeys(choices) if (choice, shard) not in self.known]
        if unknown:
            mine = self._ranks.share([self._share(choices[0], choice) for choice in unknown])
            measured = self._run(choices[0], [unknown[index] for index in mine], shard)
            for index, losses in enumerate(self._ranks.gather(measured, mine, len(unknown), self.samples[shard])):
                self.known[unknown[index], shard] = losses
                if index not in mine:
                    self._progress(self.samples[shard] / sum(self.samples))
        return np.stack([self.known[choice, shard] for choice in choices])

    def evaluate(self, choice: Choice) -> float:
        """L(b): the mean task loss over the samples of the calibration set."""
        return float(np.concatenate([self.measure([choice], shard)[0] for shard in range(len(self.samples))]).mean())

    def profile(self, reference: Choice, selected: Sequence[int]) -> Losses:
        """L(b) with unit i alone at candidate k, for each selected unit i (RIBS, Algorithm 1, lines 4-12).

        Returns: [len(selected), K] losses; NaN for candidates past a unit's last.
        """
        widest = max(map(len, self._candidates))
        probes = [
            [(*reference[:unit], k, *reference[unit + 1 :]) for k in range(len(self._candidates[unit]))]
            for unit in selected
        ]
        asked = [reference, *(probe for row in probes for probe in row)]
        losses = np.concatenate([self.measure(asked, shard) for shard in range(len(self.samples))], axis=1)
        means = iter(losses.mean(axis=1)[1:])
        return np.array([[next(means) if k < len(row) else np.nan for k in range(widest)] for row in probes])

    def _run(self, reference: Choice, choices: Sequence[Choice], shard: int) -> list[Losses]:
        if not choices:
            return []
        inputs, target, found = self._inputs(shard), self._float_outputs[shard], []
        with self._replay as replay:
            slot, output = self._bring(reference, shard, inputs)
            for choice in choices:
                if choice != reference or output is None:
                    self._switch(reference, choice)
                    output = replay.run(self._made, slot.recording, self._start(reference, choice), inputs)
                    self._switch(choice, reference)
                losses = self._loss(target, output).double().cpu().numpy()
                self._record(choice, shard, losses)
                self._progress(self.samples[shard] / sum(self.samples))
                found.append(losses)
        return found

    def _bring(self, reference: Choice, shard: int, inputs: Inputs) -> tuple[_Slot, Any]:
        """The slot of a shard with the outputs of the reference in it, whose bits are chosen."""
        self._network.configure(self._configuration(reference))
        slot = self._slots[self._place(shard)]
        if (slot.shard, slot.choice) == (shard, reference):
            return slot, None
        start = self._start(slot.choice, reference) if slot.shard == shard else 0
        if start == 0:
            slot.recording = Recording()
        slot.shard = -1  # until it is filled
        output = self._replay.record(self._made, slot.recording, inputs, start)
        slot.shard, slot.choice = shard, reference
        return slot, output

    def _watch(self, choice: Choice) -> None:
        """Plan what to store: all that is read for one shard at least, as far as the cache allows."""
        self._network.configure(self._configuration(choice))
        with self._replay as replay:
            first, last = self._inputs(0), self._inputs(len(self.samples) - 1)
            plan = replay.plan(first.head(WATCHED_SAMPLES), last.tail(WATCHED_SAMPLES))
        largest = max(self.samples)
        self._plan = plan.within(self._limit / largest, self._work)
        slots = int(self._limit // max(1.0, self._plan.size * largest))
        self._slots = [_Slot() for _ in range(max(1, min(slots, len(self.samples))))]

    @property
    def _made(self) -> Plan:
        assert self._plan is not None
        return self._plan

    def _place(self, shard: int) -> int:
        """The first shards have a slot of their own; the others share the last."""
        return min(shard, len(self._slots) - 1)

    def _start(self, reference: Choice, choice: Choice) -> int:
        """The call from which a pass differs between two configurations; of the same one, the first."""
        changed = [start for start, a, b in zip(self._made.starts, reference, choice, strict=True) if a != b]
        return min(changed, default=0)

    def _share(self, reference: Choice, choice: Choice) -> float:
        """The share of a pass that a configuration takes beside the reference, which itself takes all of one."""
        if choice == reference:
            return 1.0
        start = self._start(reference, choice)
        return sum(work for first, work in zip(self._made.first, self._work, strict=True) if first >= start)

    def _count(self, choices: Sequence[Choice], shard: int) -> None:
        """Add up the work as if nothing was known, which does not depend on interruptions or processes."""
        new = [choice for choice in dict.fromkeys(choices) if (choice, shard) not in self._asked]
        if not new:
            return
        self._asked.update((choice, shard) for choice in new)
        reference, place = choices[0], self._place(shard)
        held, before = self._held.get(place, (-1, reference))
        self._held[place] = shard, reference
        share = self.samples[shard] / sum(self.samples)
        work = [self._share(reference, choice) for choice in new if choice != reference]
        work.append(1.0 if held != shard else 0.0 if before == reference else self._share(before, reference))
        self.forward_equivalents += share * sum(work)
        self._progress(share * sum((choice, shard) in self.known for choice in new))

    def _switch(self, old: Choice, new: Choice) -> None:
        for unit, options, before, after in zip(self._network.units, self._candidates, old, new, strict=True):
            if before != after:
                self._network.set_bits(unit, options[after])

    def _configuration(self, choice: Choice) -> dict[str, Bits]:
        units = zip(self._network.units, self._candidates, choice, strict=True)
        return {unit.name: options[index] for unit, options, index in units}

    def _inputs(self, shard: int) -> Inputs:
        return self._shards[shard].to(self._network.device)


def _work(network: QuantizedNetwork) -> list[float]:
    """The share of each unit in the MACs of the network."""
    macs = {layer.name: layer.macs for layer in network.trace.layers}
    units = [sum(macs[name] for name in unit.layers) for unit in network.units]
    total = sum(units) + sum(network.trace.unquantized.values())
    return [work / total for work in units]
