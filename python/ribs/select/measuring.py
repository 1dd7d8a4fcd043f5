"""What measures the losses of a search or a sweep: a calibrated network, with a journal, processes and a clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, check_pooled
from ribs.quant.reparameterize import scale_norms
from ribs.recon.methods import Method
from ribs.select.bars import Bars, duration
from ribs.select.identity import identity
from ribs.select.journal import Journal
from ribs.select.loss import TaskLoss
from ribs.select.plan import bit_widths
from ribs.select.ranks import Ranks
from ribs.select.reconstructed import Reconstructed
from ribs.select.sensitivity import Sensitivity
from ribs.select.setup import Setup

FINALS = 2  # passes that a search still makes after its time is up
WEIGHTS_SHARE = 0.5  # of the cache, for quantized weights of all bits; the rest is for outputs


@dataclass(frozen=True)
class Options:
    """How losses are measured; as for `ribs.search`.

    execution: of the network, in words.
    reconstruct, share, store_mib: those of `Reconstructed`; None measures without reconstruction.
    started: by `time.perf_counter`, when the time of `max_seconds` began.
    """

    loss: TaskLoss
    seed: int
    pool_batches: bool
    max_seconds: float | None
    cache_mib: float
    journal: str | os.PathLike[str] | None
    progress: bool
    execution: str = "float32"
    reconstruct: Method | None = None
    share: float = 0.0
    store_mib: float = 1024
    started: float = field(default_factory=lambda: time.perf_counter())

    def __post_init__(self) -> None:
        for name in ("max_seconds", "cache_mib", "store_mib"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"[ribs] {name}={value} is not allowed; give at least 0")


@dataclass(frozen=True)
class Measuring:
    """sensitivity: what measures.  ranks: the processes that share the work.  bars: what the user sees."""

    setup: Setup
    options: Options
    sensitivity: Sensitivity | Reconstructed
    ranks: Ranks
    bars: Bars

    def announce(self, steps: str, about: str, losses: int, work: float) -> None:
        """Say what is ahead.

        steps: in words.  about: "about" or "at most".  losses, work: how many, and in forward equivalents.
        """
        seconds = self.sensitivity.seconds_of_a_pass
        self.bars.say(
            f"{len(self.setup.network.units)} units, {steps}, {about} {losses} losses on "
            f"{sum(self.sensitivity.samples)} samples: {about} {work:.0f} forward equivalents (passes of the float "
            f"network over the samples); one took {seconds:.3g} s, so {about} {duration(work * seconds)}"
        )

    def calibrate(self) -> None:
        """Find the steps of all candidates."""
        plans = self.setup.plans
        widths = bit_widths(pair for plan in plans for options in plan.candidates for pair in options)
        network, pooled = self.setup.network, self.options.pool_batches
        calibrate(network, self.setup.batches, widths, pooled=pooled, progress=self.bars.calibration)
        scale_norms(network)

    def out_of_time(self) -> bool:
        """Whether `max_seconds` will soon have passed; the same in all processes."""
        limit = self.options.max_seconds
        left = FINALS * self.sensitivity.passes_of_a_loss * self.sensitivity.seconds_of_a_pass
        spent = time.perf_counter() - self.options.started + left
        return limit is not None and bool(self.ranks.first(spent > limit))


@contextmanager
def measuring(
    model: nn.Module, setup: Setup, shards: Sequence[Inputs], options: Options, same: Mapping[str, str]
) -> Iterator[Measuring]:
    """What measures the losses of a network, which is not calibrated yet.

    model: in float.  setup: its plans have the same candidates.  shards: the calibration set in pieces.
    same: what beside the losses must be the same in all processes, in words.
    Raises: JournalError; ValueError where the processes differ, or the loss or the model cannot be used.
    """
    check_pooled(options.pool_batches, setup.network.recipe)
    [candidates, *_] = [plan.candidates for plan in setup.plans]
    with ExitStack() as stack:
        ranks = stack.enter_context(closing(Ranks()))
        bars = stack.enter_context(Bars(options.progress, first=ranks.rank == 0))
        fields = {}
        if options.journal is not None or ranks.count > 1:
            steps = "of all batches together" if options.pool_batches else "of each batch, averaged"
            recipe = f"{setup.network.recipe.name}, {steps}; {options.execution}"
            fields = identity(model, shards, setup.plans[0], options.loss, recipe=recipe, seed=options.seed)
            if options.reconstruct is not None:
                profile = f"race, {options.share:g} of the iterations" if options.share else "full"
                pieces = f"pieces of at most {options.store_mib:g} MiB"
                fields["reconstruction"] = f"{options.reconstruct}, {profile}; {pieces}"
            ranks.check_same({**fields, **same})
        losses = stack.enter_context(_journal(options.journal, fields, ranks))
        links: dict[str, Any] = {
            "cache_mib": options.cache_mib * (1 - WEIGHTS_SHARE),
            "ranks": ranks,
            "known": losses.known if losses else None,
            "record": losses.record if losses else None,
            "progress": bars.worked,
        }
        sensitivity: Sensitivity | Reconstructed
        if options.reconstruct is None:
            sensitivity = Sensitivity(setup.network, shards, candidates, options.loss, **links)
        else:
            links |= {"share": options.share, "seed": options.seed, "store_mib": options.store_mib}
            sensitivity = Reconstructed(setup.network, shards, candidates, options.loss, options.reconstruct, **links)
        yield Measuring(setup, options, sensitivity, ranks, bars)


@contextmanager
def _journal(
    folder: str | os.PathLike[str] | None, fields: Mapping[str, str], ranks: Ranks
) -> Iterator[Journal | None]:
    """The journal of this process, which knows what those of all processes know."""
    if folder is None:
        yield None
        return
    with ranks.together(lambda: Journal(folder, fields, rank=ranks.rank)) as opened:
        for known in ranks.exchange(opened.known):
            for key, losses in known.items():
                opened.known.setdefault(key, losses)
        yield opened
