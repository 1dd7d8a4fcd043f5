"""Task losses of configurations after reconstruction: what a search that sees through it (recRIBS) measures."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ribs.quant.inputs import Inputs
from ribs.quant.network import Bits, QuantizedNetwork
from ribs.recon.methods import Method
from ribs.recon.run import Reconstruction
from ribs.recon.store import joined
from ribs.select.configurations import Configurations, beginnings
from ribs.select.finished import finished_pieces
from ribs.select.loss import TaskLoss, measure
from ribs.select.measurement import Key, Losses, Measurement
from ribs.select.ranks import Ranks
from ribs.select.samples import Choice

SHARE = 0.1  # of the iterations that "race" does for each configuration
PASSES_OF_A_STEP = 3  # forward, and backward about twice as much
FULL_ITERATIONS = 20_000  # of the configuration found, as in the papers


class Reconstructed(Measurement):
    """Measures L(b) of one network, each configuration being reconstructed, on all of a calibration set at once.

    The loss of a configuration is that of `ribs.reconstruct` with the same method and seed, whatever was measured
    before. docs/reconstruction.md says what is restored in between.

    method: of the reconstruction.  seed: of its random numbers.
    share: of the iterations, those that each configuration does by itself, the first of them being done once for each
        bit-width; 0 for all. The losses are then others, but still those of the configuration alone.
    cache_mib: limit for all that is stored to be used again.  store_mib: as for `Reconstruction`.
    The other arguments are those of `Measurement`.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        batches: Sequence[Inputs],
        candidates: Sequence[Sequence[Bits]],
        loss: TaskLoss,
        method: Method,
        *,
        share: float = 0.0,
        seed: int = 0,
        cache_mib: float = 1024,
        store_mib: float = 1024,
        ranks: Ranks | None = None,
        known: Mapping[Key, Losses] | None = None,
        record: Callable[[Choice, int, Losses], None] | None = None,
        progress: Callable[[float], None] = lambda work: None,
    ) -> None:
        batches = joined(batches)
        super().__init__(network, batches, candidates, loss, ranks=ranks, known=known, record=record, progress=progress)
        self.samples = (sum(self.samples),)
        self.method, self._own_share, self._seed = method, share, seed
        self._cache_mib, self._store_mib = cache_mib, store_mib
        self._configurations: Configurations | None = None
        self._last: Choice | None = None  # the reference before
        steps = sum(phase.iterations for phase in method.phases)
        batch = min(method.batch_size, self.samples[0])
        passes = PASSES_OF_A_STEP * steps * batch / self.samples[0]
        self.passes_of_a_loss = 1 + (share or 1) * passes
        self._pairs = {pair for options in candidates for pair in options}
        self.passes_before = len(set(beginnings(self._pairs).values())) * (1 + passes) if share else 0.0
        self.forward_equivalents += self.passes_before

    @property
    def _made(self) -> Configurations:
        assert self._configurations is not None
        return self._configurations

    def _begin(self, choice: Choice) -> None:
        if self._configurations is None:
            self._network.configure(self._configuration(choice))
            self._configurations = Configurations(
                self._network,
                [self._inputs(batch) for batch in range(len(self._shards))],
                self.method,
                self._pairs,
                loss=functools.partial(measure, self._loss),
                share=self._own_share,
                cache_mib=self._cache_mib / 3,
                store_mib=self._store_mib,
                seed=self._seed,
            )

    def _jobs(self, reference: Choice, choices: Sequence[Choice]) -> Iterator[list[Choice]]:
        """One by one, those that leave most of the reference as it is first: what the next needs then still stands."""
        yield from ([each] for each in sorted(choices, key=lambda choice: -self._first(reference, choice)))

    def _run(self, reference: Choice, jobs: Sequence[Sequence[Choice]], shard: int) -> Iterator[Losses]:
        for [choice] in jobs:
            self._made.go_to(self._configuration(choice))
            losses = self._present_losses()
            self._record(choice, shard, losses)
            yield losses[None]

    def _present_losses(self) -> Losses:
        pairs = enumerate(self._float_outputs)
        return np.concatenate([self._losses(out, self._made.output(n), self._inputs(n)) for n, out in pairs])

    def measure_alone(self, reference: Choice, choice: Choice) -> Losses:
        """[samples] losses of a configuration of which only what differs from the reference is reconstructed anew.

        It is what the paper's Figure 3 warns of, and nothing that a search measures.
        """
        self._begin(reference)
        self._made.go_to_alone(self._configuration(reference), self._configuration(choice))
        return self._present_losses()

    def finish(
        self, choice: Choice, method: Method, *, journal: str | os.PathLike[str] | None, progress: bool
    ) -> Losses:
        """Leave the network reconstructed by another method, at a configuration; [samples] losses of it.

        journal: the folder in which finished pieces are kept, and looked for.
        """
        model = self._made.restore(self._configuration(choice))
        finished = finished_pieces(
            journal, model, self._shards, method, self._loss, seed=self._seed, store_mib=self._store_mib
        )
        Reconstruction(
            model,
            self._network.trace.layers,
            self._shards,
            method,
            loss=functools.partial(measure, self._loss),
            store_mib=self._store_mib,
            seed=self._seed,
            progress=progress,
        ).run(finished)
        return self.losses_of(self._network)

    def _first(self, reference: Choice, choice: Choice) -> int:
        """The first piece that a choice makes different."""
        return self._made.first_changed(self._configuration(reference), self._configuration(choice))

    def _share(self, reference: Choice, choice: Choice) -> float:
        first = 0 if choice == reference else self._first(reference, choice)
        return self.passes_of_a_loss * self._made.work_from(first)

    def _count(self, choices: Sequence[Choice], shard: int) -> float:
        new = [choice for choice in dict.fromkeys(choices) if (choice, shard) not in self._asked]
        self._asked.update((choice, shard) for choice in new)
        reference, before = choices[0], self._last or choices[0]
        work = sum(self._share(before if choice == reference else reference, choice) for choice in new)
        self._last = reference
        self.forward_equivalents += work
        return work


def check_reconstruction(
    reconstruct: Method | None, finish: Method | None, *, execution: str
) -> tuple[Method | None, Method | None]:
    """The two methods, the second by default the first with as many iterations as in the papers.

    Raises: TypeError or ValueError for what a search cannot do.
    """
    for argument, method in (("reconstruct", reconstruct), ("finish", finish)):
        if method is not None and not isinstance(method, Method):
            raise TypeError(
                f"[search] {argument}={method!r} is not supported; give a ribs.AdaRound, ribs.BRECQ or ribs.QDrop, "
                "such as ribs.QDrop(iterations=200)"
            )
    if reconstruct is None:
        if finish is not None:
            raise ValueError("[search] finish is for a search with reconstruct; use ribs.reconstruct on the result")
        return None, None
    if execution != "float32":
        raise ValueError(f"[search] execution={execution!r} is not supported with reconstruct; give 'float32'")
    if any(phase.fisher for phase in reconstruct.phases):
        raise ValueError(
            "[search] reconstruct with fisher=True is not supported: the weights of a piece's errors depend on the "
            "bits of all that follows it; give fisher=False, and finish=ribs.BRECQ(fisher=True) if you like"
        )
    return reconstruct, finish or replace(reconstruct, iterations=FULL_ITERATIONS)


def check_recipe_of(network: QuantizedNetwork) -> None:
    """Refuse recipes whose steps change after bits are chosen."""
    if network.recipe.by_channel is not None:
        raise ValueError(
            f"[search] reconstruct is not supported with recipe={network.recipe.name!r}, which scales layer norms once "
            'bits are chosen; give recipe="mse" or "minmax"'
        )
