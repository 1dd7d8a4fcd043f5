"""Reconstruction of many configurations of one network, each from its float weights, with nothing done twice."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ribs.quant.inputs import Inputs
from ribs.quant.network import Bits, QuantizedNetwork
from ribs.recon.learned import Learned, learned, put, restore
from ribs.recon.methods import Method, Phase
from ribs.recon.pieces import Piece
from ribs.recon.run import Loss, Reconstruction
from ribs.recon.soft import Begun
from ribs.recon.store import run_to, samples_of
from ribs.select.cost import Configuration
from ribs.select.measurement import MIB, shares_of_units
from ribs.select.replay import Recording, Replay

WATCHED_SAMPLES = 2
Key = tuple[int, tuple[Bits, ...]]  # a piece, and the bits of the units that it depends on


@dataclass
class _Passes:
    """What is stored of the present network, batch by batch, and the call up to which it is what would be there now."""

    recordings: list[Recording]
    upto: list[int]


@dataclass
class _Kept:
    """Things of known size, up to a number of bytes; of those that are too many, the ones used last stay."""

    limit: float
    used: float = 0.0
    found: OrderedDict[Any, tuple[Any, float]] = field(default_factory=OrderedDict)

    def get(self, key: Any) -> Any:
        if key not in self.found:
            return None
        self.found.move_to_end(key)
        return self.found[key][0]

    def put(self, key: Any, value: Any, size: float) -> None:
        self.found[key] = value, size
        self.used += size
        while self.used > self.limit and len(self.found) > 1:
            _, (_, freed) = self.found.popitem(last=False)
            self.used -= freed


class Configurations(Reconstruction):
    """A network that goes from one reconstructed configuration to another.

    A piece is reconstructed from its float weights and calibrated steps, for the inputs that it gets from those before
    it, with random numbers of its own. So what it becomes follows from the bits of the units that begin no later than
    it ends, and is the same whatever the network was before. On the way to another configuration pieces in front of the
    first that this changes stay as they are; that one and all after it get their float weights and calibrated steps
    again, and then, in order, what was learned of them for these bits before, or a reconstruction.

    With a `share`, the first iterations of a piece are done only once for each bit-width, in a network that has it in
    all units; a configuration goes on from there, each layer with the variables that belong to its bits, and does only
    the last iterations in its own surroundings. What a piece becomes still follows from the same bits.

    network: calibrated, with its float weights.
    pairs: all (weight, activation) bits of the candidates.
    share: of the iterations that each configuration does by itself; 0 for all.
    cache_mib: MiB for outputs of the network with reconstructed pieces, as much again for the inputs and targets of
        pieces in the float network, and for what was learned.  store_mib: as for `Reconstruction`.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        batches: Sequence[Inputs],
        method: Method,
        pairs: Collection[Bits],
        *,
        loss: Loss,
        share: float = 0.0,
        cache_mib: float,
        store_mib: float,
        seed: int,
    ) -> None:
        layers = network.trace.layers
        super().__init__(network.model, layers, batches, method, loss=loss, store_mib=store_mib, seed=seed)
        self._network = network
        self._replay = Replay(network)
        with torch.no_grad(), self._replay as replay:
            plan = replay.plan(self.batches[0].head(WATCHED_SAMPLES), self.batches[-1].tail(WATCHED_SAMPLES))
        self._plan = plan.within(cache_mib * MIB / samples_of(self.batches), shares_of_units(network))
        self._passes = {activations: self._nothing() for activations in {p.activations for p in method.phases} | {True}}
        self._floats, self._learned = _Kept(cache_mib * MIB), _Kept(cache_mib * MIB)
        self._share = share
        self._beginnings = beginnings(pairs)
        self._begun: dict[Bits, dict[str, list[Begun]]] = {}
        self._configuration: Configuration = {}
        self._path: list[Key] = []  # what the pieces are reconstructed for, as far as they are
        place = {layer.name: number for number, layer in enumerate(layers)}
        begins = [min(place[name] for name in unit.layers) for unit in network.units]
        ends = [max(place[name] for name in piece.layers) for piece in self.pieces]
        names = [unit.name for unit in network.units]
        self._depends = [[n for n, begin in zip(names, begins, strict=True) if begin <= end] for end in ends]
        macs = {layer.name: layer.macs for layer in layers}
        work = [sum(macs[name] for name in piece.layers) for piece in self.pieces]
        self._shares = [sum(work[first:]) / max(1, sum(work)) for first in range(len(work) + 1)]
        self._starts = [min(self._plan.starts[unit] for unit in self._units_of(piece)) for piece in self.pieces]

    def _nothing(self) -> _Passes:
        return _Passes([Recording() for _ in self.batches], [0] * len(self.batches))

    def _units_of(self, piece: Piece) -> list[int]:
        return [i for i, unit in enumerate(self._network.units) if set(unit.layers) & set(piece.layers)]

    def first_changed(self, before: Configuration, after: Configuration) -> int:
        """The first piece that two configurations make different; their number where there is none."""
        return _in_common(self._keys(before), self._keys(after))

    def work_from(self, first: int) -> float:
        """The share of a piece and all after it in the work of a pass."""
        return self._shares[first]

    def go_to(self, configuration: Configuration) -> None:
        """Choose the bits, and have all pieces reconstructed for them."""
        self._begin(configuration)
        first = self._leave(configuration)
        for piece, key in zip(self.pieces[first:], self._keys(configuration)[first:], strict=True):
            found: Learned | None = self._learned.get(key)
            if found is None:
                self.rebuild(piece, share=self._share, begun=self._begun_of(piece))
                found = learned(self.model, piece.layers)
                self._learned.put(key, found, found.nbytes)
            else:
                put(self.model, piece.layers, found)
            self._path.append(key)

    def _begin(self, configuration: Configuration) -> None:
        """For all bits of a configuration, reconstruct the network that has them in all units, once.

        The variables of each piece are kept as they are on the way.
        """
        needed = {(kind, pair[kind]) for pair in configuration.values() for kind in (0, 1) if self._share}
        for pair in sorted({self._beginnings[each] for each in needed} - set(self._begun)):
            self.restore({unit.name: pair for unit in self._network.units})
            self._begun[pair] = {piece.name: self.rebuild(piece, share=self._share) for piece in self.pieces}

    def _begun_of(self, piece: Piece) -> list[Begun]:
        """For each phase, the variables with which a piece begins at its present bits."""
        found = [Begun() for _ in self.method.phases if self._share]
        for name in piece.layers:
            unit = next(unit for unit in self._network.units if name in unit.layers)
            weight, activation = self._configuration[unit.name]
            for number, begun in enumerate(found):
                rounding = self._begun[self._beginnings[0, weight]][piece.name][number].alphas
                steps = self._begun[self._beginnings[1, activation]][piece.name][number].steps
                begun.alphas |= {name: rounding[name]} if name in rounding else {}
                begun.steps |= {place: step for place, step in steps.items() if place.rpartition(" ")[0] == name}
        return found

    def go_to_alone(self, reference: Configuration, configuration: Configuration) -> None:
        """As `go_to`, but of the pieces only those whose own bits differ from the reference's are reconstructed.

        All others stay as they are in the reference.
        """
        self._begin(configuration)
        self.go_to(reference)
        kept = [learned(self.model, piece.layers) for piece in self.pieces]
        first = self._leave(configuration)
        for piece, found in zip(self.pieces[first:], kept[first:], strict=True):
            names = [self._network.units[unit].name for unit in self._units_of(piece)]
            if any(reference[name] != configuration[name] for name in names):
                self.rebuild(piece, share=self._share, begun=self._begun_of(piece))
            else:
                put(self.model, piece.layers, found)

    def restore(self, configuration: Configuration) -> nn.Module:
        """The network at these bits with its float weights and calibrated steps."""
        self._path.clear()
        self._leave(configuration)
        return self.model

    def _leave(self, configuration: Configuration) -> int:
        """Choose the bits; the number of pieces that stay as they are. The others are as calibrated."""
        first = _in_common(self._path, self._keys(configuration))
        units = zip(self._network.units, self._plan.starts, strict=True)
        changed = [start for u, start in units if self._configuration.get(u.name) != configuration[u.name]]
        upto = min([*changed, *self._starts[first:]], default=max(self._plan.starts))
        for passes in self._passes.values():
            passes.upto = [min(upto, each) for each in passes.upto]
        for piece in self.pieces[first:]:
            restore(self.model, self.reference, piece.layers)
        self._network.configure(configuration)
        self._configuration = dict(configuration)
        del self._path[first:]
        return first

    def _keys(self, configuration: Configuration) -> list[Key]:
        return [(n, tuple(configuration[name] for name in names)) for n, names in enumerate(self._depends)]

    @torch.no_grad()
    def output(self, batch: int) -> Any:
        """What the network returns for a batch."""
        passes = self._passes[True]
        with self._replay as replay:
            result = self._record(replay, passes, batch)
        passes.upto[batch] = max(self._plan.starts)
        return result

    def floating(self, piece: Piece, batch: int) -> tuple[Any, Any]:
        key = piece.name, batch
        found: tuple[Any, Any] | None = self._floats.get(key)
        if found is None:
            found = super().floating(piece, batch)
            size = sum(each.nbytes for each in tree_leaves(found) if torch.is_tensor(each))
            if self._floats.used + size <= self._floats.limit:  # they come in turns: the last used is the last needed
                self._floats.put(key, found, size)
        return found

    def quantized(self, piece: Piece, phase: Phase, batch: int) -> Any:
        passes, module = self._passes[phase.activations], self.model.get_submodule(piece.name)
        with self._replay as replay:
            found = run_to(module, functools.partial(self._record, replay, passes, batch), through=False)[0]
        passes.upto[batch] = self._starts[self.pieces.index(piece)]
        return found

    def _record(self, replay: Replay, passes: _Passes, batch: int) -> Any:
        return replay.record(self._plan, passes.recordings[batch], self.batches[batch], passes.upto[batch])


def _in_common(left: Sequence[Key], right: Sequence[Key]) -> int:
    """How many of their first are the same."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(left), len(right)))


def beginnings(pairs: Collection[Bits]) -> dict[tuple[int, int], Bits]:
    """The uniform network in which weights (0) and activations (1) of some bits begin: {(kind, bits): its pair}.

    Of the pairs with these bits the one whose two are nearest to each other.
    """
    even = sorted(pairs, key=lambda pair: (-abs(pair[0] - pair[1]), pair))
    return {(kind, pair[kind]): pair for pair in even for kind in (0, 1)}
