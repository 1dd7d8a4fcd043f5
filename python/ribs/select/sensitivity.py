"""Task losses of configurations, measured on the calibration set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ribs.quant.inputs import Inputs
from ribs.quant.network import Bits, QuantizedNetwork
from ribs.select.loss import TaskLoss
from ribs.select.replay import Replay


class Sensitivity:
    """Measures L(b), and L of every single-unit change of a reference, for one network and one calibration set.

    candidates: for each unit, the (weight, activation) bits it may take; configurations are tuples of indices into
        these.
    forward_equivalents: work done so far, in passes of the network over the calibration set.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        batches: Sequence[Inputs],
        candidates: Sequence[Sequence[Bits]],
        loss: TaskLoss,
    ) -> None:
        self._network = network
        self._batches = batches
        self._candidates = candidates
        self._loss = loss
        self._samples = sum(batch.samples for batch in batches)
        macs = {layer.name: layer.macs for layer in network.trace.layers}
        unit_macs = [sum(macs[name] for name in unit.layers) for unit in network.units]
        total = sum(unit_macs) + sum(network.trace.unquantized.values())
        self._share = [macs / total for macs in unit_macs]
        self.forward_equivalents = 0.0
        self._float_outputs = self._run_float()

    @torch.no_grad()
    def _run_float(self) -> list[Any]:
        """The float network's outputs; a candidate of 32 bits everywhere has a loss of exactly 0."""
        self._network.configure(dict.fromkeys((unit.name for unit in self._network.units), (32, 32)))
        outputs = []
        for batch in self._batches:
            output = batch.to(self._network.device).call(self._network.model)
            losses = self._loss(output, output)
            if losses.shape != (batch.samples,):
                raise ValueError(
                    f"[loss] returned shape {tuple(losses.shape)} for {batch.samples} samples; it must be [samples]"
                )
            if not bool(torch.isfinite(losses).all()):
                raise ValueError("[ribs] the float model's output holds NaN or Inf on the calibration set")
            outputs.append(output)
        self.forward_equivalents += 1
        return outputs

    @torch.no_grad()
    def evaluate(self, choice: Sequence[int]) -> float:
        """L(b): the mean task loss over the samples of the calibration set."""
        self._choose(choice)
        total = 0.0
        for batch, reference in zip(self._batches, self._float_outputs, strict=True):
            total += float(self._loss(reference, batch.to(self._network.device).call(self._network.model)).sum())
        self.forward_equivalents += 1
        return total / self._samples

    @torch.no_grad()
    def profile(
        self, reference: Sequence[int], selected: Sequence[int], progress: Callable[[float], None] = lambda probes: None
    ) -> NDArray[np.float64]:
        """L(b) with unit i alone at candidate k, for each selected unit i (RIBS, Algorithm 1, lines 4-12).

        Batch by batch: the reference runs once and is stored, then every candidate of unit i runs from unit i on.
        progress: told, as they are done, of (fractions of) probes; a probe is one candidate over all batches.
        Returns: [len(selected), K] losses; the reference's own candidates are filled with the reference's loss, and
            candidates past a unit's last with NaN.
        """
        self._choose(reference)
        widest = max(len(candidates) for candidates in self._candidates)
        losses = np.full((len(selected), widest), np.nan)
        for row, unit in enumerate(selected):
            losses[row, : len(self._candidates[unit])] = 0.0
        with Replay(self._network) as replay:
            for batch, target in zip(self._batches, self._float_outputs, strict=True):
                inputs = batch.to(self._network.device)
                share = batch.samples / self._samples
                base = float(self._loss(target, replay.record(inputs)).sum())
                self.forward_equivalents += share
                for row, unit in enumerate(selected):
                    for index, bits in enumerate(self._candidates[unit]):
                        loss = base
                        if index != reference[unit]:
                            self._network.set_bits(self._network.units[unit], bits)
                            loss = float(self._loss(target, replay.run_from(unit, inputs)).sum())
                            ran = share * sum(self._share[other] for other in replay.units_from(unit))
                            self.forward_equivalents += ran
                            progress(share)
                        losses[row, index] += loss
                    self._network.set_bits(self._network.units[unit], self._candidates[unit][reference[unit]])
        return losses / self._samples

    def _choose(self, choice: Sequence[int]) -> None:
        for unit, candidates, index in zip(self._network.units, self._candidates, choice, strict=True):
            self._network.set_bits(unit, candidates[index])
