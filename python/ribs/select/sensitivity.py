"""Task losses of configurations, measured for every sample of the calibration set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ribs.quant.inputs import Inputs
from ribs.quant.network import Bits, QuantizedNetwork
from ribs.select.graphs import Capture, Graphs, Held, capture_on_cuda
from ribs.select.loss import TaskLoss, measure
from ribs.select.measurement import MIB, Key, Losses, Measurement
from ribs.select.ranks import Ranks
from ribs.select.replay import Recording, Replay, same
from ribs.select.samples import Choice
from ribs.select.watch import Plan

WATCHED_SAMPLES = 2
# Bytes of the largest output of a pass. On GPUs a larger batch rounds differently more often than not.
SIDE_BY_SIDE = {"cpu": 32 * MIB}
CAPTURES: dict[str, Capture] = {"cuda": capture_on_cuda}  # how passes are captured, by type of device
FEWEST_SHARDS = 6  # capturing costs as much as two passes, which few launches do not bring back


@dataclass
class _Slot:
    """The outputs of one configuration on one shard."""

    shard: int = -1
    choice: Choice = ()
    recording: Recording = field(default_factory=Recording)


class Sensitivity(Measurement):
    """Measures L(b) of one network on the shards of one calibration set, a whole shard at a time.

    The reference is run and stored as far as it differs from the one before, and each of the others runs from the first
    unit on in which it differs from the reference.

    cache_mib: limit for stored outputs.
    The other arguments are those of `Measurement`.
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
        record: Callable[[Choice, int, Losses], None] | None = None,
        progress: Callable[[float], None] = lambda work: None,
    ) -> None:
        super().__init__(network, shards, candidates, loss, ranks=ranks, known=known, record=record, progress=progress)
        self._limit = cache_mib * MIB
        self._most = max(map(len, candidates)) - 1  # candidates of a unit beside the reference's
        self._replay = Replay(network)
        self._forget()

    def _forget(self) -> None:
        """All that depends on the shards."""
        self._held: dict[int, tuple[int, Choice]] = {}  # what the slots would hold if nothing had been known
        self._beside: set[int] = set()
        # Whether what runs side by side was found to be the same as single passes, by unit and size of a shard.
        self._same_beside: dict[tuple[int, int], bool] = {}
        self._plan: Plan | None = None
        self._slots: list[_Slot] = []
        self._graphs: Graphs | None = None
        self._captured_around: Choice = ()

    def arrange(self, shards: Sequence[Inputs]) -> None:
        """From now on measure on other shards of the same samples; they are numbered after those so far."""
        self._before += len(self._shards)
        self._shards = shards
        self.samples = tuple(shard.samples for shard in shards)
        self._forget()
        self._float_outputs = self._run_float()

    def _jobs(self, reference: Choice, choices: Sequence[Choice]) -> Iterator[list[Choice]]:
        """The configurations one by one, but all other candidates of a unit as one job where they run side by side."""

        def key(choice: Choice) -> tuple[int, ...]:
            changed = _changed(reference, choice)
            return changed if len(changed) == 1 and changed[0] in self._beside else (-1, *choice)

        for _, group in itertools.groupby(choices, key):
            job = list(group)
            yield from [job] if len(job) == self._most else [[choice] for choice in job]

    def _run(self, reference: Choice, jobs: Sequence[Sequence[Choice]], shard: int) -> Iterator[Losses]:
        """[configurations of the job, samples] losses of each job."""
        if not jobs:
            return
        inputs, target = self._inputs(shard), self._float_outputs[shard]
        with self._replay as replay:
            slot, output = self._bring(reference, shard, inputs)
            launch = self._launcher(reference, Held(slot.recording, inputs, target)) if self._graphs else None
            for job in jobs:
                if job[0] == reference and output is not None:
                    found = iter([self._losses(target, output, inputs)])
                elif launch is not None:
                    found = (launch(replay, choice) for choice in job)
                else:
                    outputs = self._outputs(replay, slot.recording, reference, job, inputs)
                    found = (self._losses(target, each, inputs) for each in outputs)
                rows = []
                for choice, losses in zip(job, found, strict=True):
                    rows.append(losses)
                    self._record(*self._key(choice, shard), losses)
                yield np.stack(rows)

    def _launcher(self, reference: Choice, held: Held) -> Callable[[Replay, Choice], Losses]:
        """F(replay, choice), [samples] losses of a candidate by its captured pass."""
        assert self._graphs is not None
        if reference != self._captured_around:
            self._graphs.forget()
            self._captured_around = reference
        losses_of = self._graphs.load(held)

        def launch(replay: Replay, choice: Choice) -> Losses:
            start = self._start(reference, choice)

            def run(held: Held) -> Tensor:
                self._switch(reference, choice)
                try:
                    output = replay.run(self._made, held.recording, start, held.inputs)
                    return measure(self._loss, held.target, output, held.inputs)
                finally:
                    self._switch(choice, reference)

            return losses_of((choice, start), run).double().cpu().numpy()

        return launch

    def _outputs(
        self, replay: Replay, recording: Recording, reference: Choice, job: Sequence[Choice], inputs: Inputs
    ) -> Iterator[Any]:
        """The network's output for each configuration of a job; the reference's bits are chosen before and after."""
        start = self._start(reference, job[0])

        def alone(choice: Choice) -> Any:
            self._switch(reference, choice)
            output = replay.run(self._made, recording, start, inputs)
            self._switch(choice, reference)
            return output

        unit = _changed(reference, job[0])[0] if len(job) > 1 else -1
        known = self._same_beside.get((unit, inputs.samples))
        if len(job) > 1 and known is not False:
            settings = [partial(self._switch, reference, choice) for choice in job]
            try:
                joint = replay.run_side_by_side(self._made, recording, start, inputs, unit, settings)
            except RuntimeError:  # of shapes that do not fit; if it was another, a single pass raises it again
                joint = []
            self._switch(job[-1], reference)
            ends = () if known else (0, -1)
            # Not so where an operator rounds differently for larger batches, samples affect one another, or the unit is
            # given them along another dimension, as the layers of nn.MultiheadAttention are.
            known = bool(joint) and all(same(alone(job[end]), joint[end]) for end in ends)
            self._same_beside[unit, inputs.samples] = known
            if known:
                yield from joint
                return
        for choice in job:
            yield alone(choice)

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

    def _begin(self, choice: Choice) -> None:
        """Plan what to store: all that is read for one shard at least, as far as the cache allows."""
        if self._plan is not None:
            return
        self._network.configure(self._configuration(choice))
        with self._replay as replay:
            first, last = self._inputs(0), self._inputs(len(self.samples) - 1)
            plan = replay.plan(first.head(WATCHED_SAMPLES), last.tail(WATCHED_SAMPLES), self._fixed_activations())
        self._beside = self._units_side_by_side(plan)
        largest = max(self.samples)
        self._plan = plan.within(self._limit / largest, self._work)
        slots = int(self._limit // max(1.0, self._plan.size * largest))
        capture = CAPTURES.get(self._network.device.type)
        if capture is not None and len(self.samples) >= FEWEST_SHARDS and slots > 1:
            self._graphs = Graphs(self._network, capture)
            slots -= 1  # the place that captured passes read
        self._slots = [_Slot() for _ in range(max(1, min(slots, len(self.samples))))]

    def _fixed_activations(self) -> set[str]:
        """The layers whose activations have the same bits in all candidates."""
        units = zip(self._network.units, self._candidates, strict=True)
        return {name for unit, options in units if len({a for _, a in options}) == 1 for name in unit.layers}

    def _units_side_by_side(self, plan: Plan) -> set[int]:
        """The units all of whose candidates may run as one batch: where it stays small.

        A pass of a small batch costs more for each sample than one of a large one, up to what caches hold.
        """
        limit = SIDE_BY_SIDE.get(self._network.device.type, 0) / (max(self.samples) * max(1, self._most))
        found = {
            unit
            for unit, (start, options) in enumerate(zip(plan.starts, self._candidates, strict=True))
            if len(options) == self._most + 1 > 2 and max((c.size for c in plan.calls[start:]), default=0.0) <= limit
        }
        # Only what the unit's modules compute is each candidate's own.
        fixed = self._fixed_activations()
        return {unit for unit in found if self._network.read_outside(self._network.units[unit]) <= fixed}

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

    def _count(self, choices: Sequence[Choice], shard: int) -> float:
        """Add up the work as if nothing was known, which does not depend on interruptions or processes."""
        new = [choice for choice in dict.fromkeys(choices) if self._key(choice, shard) not in self._asked]
        if not new:
            return 0.0
        self._asked.update(self._key(choice, shard) for choice in new)
        reference, place = choices[0], self._place(shard)
        held, before = self._held.get(place, (-1, reference))
        self._held[place] = shard, reference
        share = self.samples[shard] / sum(self.samples)
        work = [self._share(reference, choice) for choice in new if choice != reference]
        work.append(1.0 if held != shard else 0.0 if before == reference else self._share(before, reference))
        self.forward_equivalents += share * sum(work)
        return share * sum(work)

    def _switch(self, old: Choice, new: Choice) -> None:
        for unit, options, before, after in zip(self._network.units, self._candidates, old, new, strict=True):
            if before != after:
                self._network.set_bits(unit, options[after])


def _changed(reference: Choice, choice: Choice) -> tuple[int, ...]:
    return tuple(unit for unit, (a, b) in enumerate(zip(reference, choice, strict=True)) if a != b)
