"""What a search tells while it runs: callbacks of the user's own, and lines of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ribs.quant.network import Bits
from ribs.select.bars import Bars
from ribs.select.cost import Configuration
from ribs.select.measurement import Losses, Measurement
from ribs.select.plan import Plan
from ribs.select.ranks import Ranks
from ribs.select.result import IterationRecord
from ribs.select.samples import Choice, Measure
from ribs.select.search import Iteration

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IterationDone:
    """What `on_iteration` gets, after an iteration.

    number: of the iteration, from 1.  at_most: how many there can be.
    record: what came of it, as in the history of the result.
    forward_equivalents: work so far, in passes of the network over the calibration set.
    seconds: since the search began.
    """

    number: int
    at_most: int
    record: IterationRecord
    forward_equivalents: float
    seconds: float


@dataclass(frozen=True)
class ProbeDone:
    """What `on_probe` gets, after a loss was measured.

    bits: the configuration.  shard: number of the piece of the calibration set, from 0.  samples: how many it has.
    loss: mean over these samples; it may not be finite.
    """

    bits: Configuration
    shard: int
    samples: int
    loss: float


Event = TypeVar("Event")
OnIteration = Callable[[IterationDone], object]
OnProbe = Callable[[ProbeDone], object]


class Events:
    """Tells rank 0 of a search what happens in it; all ranks call it, in the same order.

    at_most: iterations.  started: by `time.perf_counter`.
    What a callback raises ends the search in every rank, as `Ranks.together` says.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        bars: Bars,
        at_most: int,
        *,
        started: float,
        on_iteration: OnIteration | None,
        on_probe: OnProbe | None,
    ) -> None:
        self._plan, self._ranks, self._bars, self._at_most = plan, ranks, bars, at_most
        self._on_iteration, self._on_probe = on_iteration, on_probe
        self._started, self._done = started, 0
        self._named: set[tuple[str, Bits]] = set()

    def iteration(self, iteration: Iteration, forward_equivalents: float) -> None:
        self._done += 1
        self._plan.name_non_finite(iteration, self._named)
        self._bars.measured(iteration.loss)
        record, seconds = self._plan.record(iteration), time.perf_counter() - self._started
        if self._ranks.rank == 0:
            _log.info(
                "iteration %d of at most %d: loss %.6g +- %.2g, predicted %.6g, %.6g GBOPs, %.4g MiB, %.1f s",
                *(self._done, self._at_most, record.loss, record.standard_error, record.predicted),
                *(record.bops / 1e9, record.size_mib, seconds),
            )
        if self._on_iteration is not None:
            done = IterationDone(self._done, self._at_most, record, forward_equivalents, seconds)
            self._tell(self._on_iteration, [done])

    def telling(self, measurement: Measurement) -> Measure:
        """Its `measure`, which then tells of the losses that were not known."""
        if self._on_probe is None and not _log.isEnabledFor(logging.DEBUG):
            return measurement.measure

        def measure(choices: Sequence[Choice], shard: int) -> Losses:
            new = {choice for choice in choices if not measurement.knows(choice, shard)}
            losses = measurement.measure(choices, shard)
            self._probes({choice: row for choice, row in zip(choices, losses, strict=True) if choice in new}, shard)
            return losses

        return measure

    def _probes(self, losses: Mapping[Choice, Losses], shard: int) -> None:
        probes = [
            ProbeDone(self._plan.configuration(choice), shard, len(row), float(row.mean()))
            for choice, row in losses.items()
        ]
        for probe in probes if self._ranks.rank == 0 else []:
            _log.debug("shard %d: loss %.6g of %d samples at %s", probe.shard, probe.loss, probe.samples, probe.bits)
        if self._on_probe is not None:
            self._tell(self._on_probe, probes)

    def _tell(self, callback: Callable[[Event], object], events: Sequence[Event]) -> None:
        def tell() -> None:
            for event in events if self._ranks.rank == 0 else []:
                callback(event)

        self._ranks.together(tell)
