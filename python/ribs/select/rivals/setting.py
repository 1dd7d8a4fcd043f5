"""What every rival may use, and what several of them do alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.network import Bits, QuantizedNetwork
from ribs.quant.quantizer import FLOAT_BITS
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.ilp import solve
from ribs.select.loss import TaskLoss
from ribs.select.plan import Plan
from ribs.select.rivals.feasible import cheapest, most_uniform
from ribs.select.samples import Choice
from ribs.select.sensitivity import Sensitivity

FLOAT = (FLOAT_BITS, FLOAT_BITS)
BACKWARD = 2.0  # forward passes that a backward pass counts as
Scores = NDArray[np.float64]  # [units, candidates], less is better


@dataclass
class Setting:
    """One choice to be made: the network and its calibration set, what may be chosen, and what it took so far.

    network: calibrated for all bits of the plan. A rival may choose its bits, but changes no weight and no step.
    inputs: the calibration set, batch by batch.
    loss: the task loss.
    seed: of all that is random.
    cache_mib: for stored outputs.
    passes: forward equivalents of all but measuring. A backward pass counts as two passes.
    """

    network: QuantizedNetwork
    inputs: Sequence[Inputs]
    plan: Plan
    loss: TaskLoss
    seed: int = 0
    cache_mib: float = 1024
    passes: float = field(default=0.0, init=False)
    _measuring: list[Sensitivity] = field(default_factory=list, init=False)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Measures task losses; made when first asked for.

        Beside the plan's candidates every unit has one more, float, which is `floats[unit]` in a configuration.
        """
        return self.measuring(self.loss, self._with_float)

    def measuring(self, loss: TaskLoss, candidates: Sequence[Sequence[Bits]]) -> Sensitivity:
        """One more of these, whose work is counted as well."""
        made = Sensitivity(self.network, self.inputs, candidates, loss, cache_mib=self.cache_mib)
        self._measuring.append(made)
        return made

    @property
    def _with_float(self) -> list[list[Bits]]:
        return [[*options, FLOAT] for options in self.plan.candidates]

    @property
    def forward_equivalents(self) -> float:
        """All work so far, in passes of the network over the calibration set."""
        return self.passes + sum(each.forward_equivalents for each in self._measuring)

    @cached_property
    def cheapest(self) -> Choice:
        """The configuration of least cost within the budgets, of the first budget first."""
        return cheapest(self.plan)

    @property
    def floats(self) -> Choice:
        """The configuration of a float network, in numbers of `sensitivity`."""
        return tuple(map(len, self.plan.candidates))

    @property
    def samples(self) -> int:
        return sum(inputs.samples for inputs in self.inputs)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def mean_loss(self, choice: Choice) -> float:
        """The measured task loss of a configuration."""
        return float(self.sensitivity.evaluate(choice).mean())

    def alone(self, loss: TaskLoss | None = None) -> Scores:
        """The loss of each candidate with all other units in float; NaN for padding.

        loss: in the place of the task loss.
        """
        sensitivity = self.sensitivity if loss is None else self.measuring(loss, self._with_float)
        singles = [
            (unit, candidate, replaced(self.floats, {unit: candidate}))
            for unit, options in enumerate(self.plan.candidates)
            for candidate in range(len(options))
        ]
        choices = [self.floats, *(choice for _, _, choice in singles)]
        losses = [sensitivity.measure(choices, shard)[1:] for shard in range(len(self.inputs))]
        table = self.no_scores()
        for (unit, candidate, _), mean in zip(singles, np.concatenate(losses, axis=1).mean(axis=1), strict=True):
            table[unit, candidate] = mean
        return table

    def no_scores(self) -> Scores:
        """[units, candidates] zeros; NaN for padding."""
        return np.where(self.plan.allowed, 0.0, np.nan)

    def layers(self) -> Iterator[tuple[int, str, QuantizedLayer | QuantizedMatmul]]:
        """(number of the unit, name, module) of every layer, in execution order within each unit."""
        for number, unit in enumerate(self.network.units):
            for name in unit.layers:
                layer = self.network.model.get_submodule(name)
                assert isinstance(layer, (QuantizedLayer, QuantizedMatmul))
                yield number, name, layer

    def batches(self) -> Iterator[Inputs]:
        for inputs in self.inputs:
            yield inputs.to(self.network.device)

    def training_batches(self, size: int, updates: int) -> Iterator[tuple[Inputs, Any]]:
        """So many times the next `size` samples and the float network's output for them, over and over in order."""
        pieces = [piece for inputs in self.batches() for piece in inputs.split(size)]
        self.in_float()
        with torch.no_grad():
            targets = [piece.call(self.network.model) for piece in pieces]
        self.passes += 1
        yield from itertools.islice(itertools.cycle(zip(pieces, targets, strict=True)), updates)

    def in_float(self) -> None:
        """Choose 32 bits for all units."""
        self.network.configure({unit.name: FLOAT for unit in self.network.units})

    def call(self, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Any:
        """The network's output with other tensors in the place of parameters and buffers, which stay as they are."""
        return functional_call(self.network.model, dict(tensors), inputs.args, dict(inputs.kwargs))


def replaced(choice: Choice, changes: Mapping[int, int]) -> Choice:
    return tuple(changes.get(unit, candidate) for unit, candidate in enumerate(choice))


def best_by(setting: Setting, scores: Scores) -> Choice:
    """The configuration of the least sum of scores within the budgets, to a proven optimum.

    Of candidates with the same score the cheapest is taken; but a unit all of whose candidates have the same score, of
    which the method knows nothing, takes that of the `uniform` rival, where the budgets admit this. A score that is not
    finite excludes a candidate.

    Raises: ValueError where nothing that is left is within the budgets, and for a unit without any candidate left.
    """
    try:
        return _least(setting.plan, scores)
    except InfeasibleBudgetError:
        raise ValueError(
            "[rivals] candidates whose score is NaN or Inf are excluded, and nothing is within the budgets without them"
        ) from None


def best_by_weights(setting: Setting, scores: Scores) -> Choice:
    """`best_by` for scores that look at weights alone, the same for all candidates of the same weight bits.

    Where the bits of a unit's activations are tied to those of its weights or fixed, this orders all candidates;
    otherwise only those are used whose activations have the bits nearest to the weights'. Where none of these are
    within the budgets, all are: the weights of the least sum that fit with some activations, and with them the
    activations of the least sum of distances to the weights' bits.
    """
    plan = setting.plan
    try:
        return _least(plan, near_the_weights(plan, scores))
    except InfeasibleBudgetError:
        weights = [o[k][0] for o, k in zip(plan.candidates, best_by(setting, scores), strict=True)]
    distances = np.full(scores.shape, np.nan)
    for unit, (options, kept) in enumerate(zip(plan.candidates, weights, strict=True)):
        for candidate, (weight, activation) in enumerate(options):
            if weight == kept and np.isfinite(scores[unit, candidate]):
                distances[unit, candidate] = abs(activation - weight)
    return solve(distances, plan.costs, plan.available, plan.allowed).choice


def _least(plan: Plan, scores: Scores) -> Choice:
    """As `best_by`, but raises InfeasibleBudgetError where nothing that is left is within the budgets."""
    known, usable, unknown = scores.copy(), plan.allowed.copy(), False
    most = most_uniform(plan)
    for unit, options in enumerate(plan.candidates):
        row = scores[unit, : len(options)]
        if len(options) > 1 and np.isfinite(row).all() and np.unique(row).size == 1:
            unknown, known[unit] = True, 0.0
            if most:
                usable[unit] = np.arange(len(known[unit])) == most[0][unit]
    if unknown and most:
        try:
            return solve(known, plan.costs, plan.available, usable).choice
        except InfeasibleBudgetError:
            pass  # what is known does not fit beside these
    return solve(known, plan.costs, plan.available, plan.allowed).choice


def weight_scores(setting: Setting, score: Callable[[str, QuantizedLayer, Tensor], float]) -> Scores:
    """Scores that look at weights alone, summed over the layers of each unit; for `best_by_weights`.

    score: f(name, layer, quantized weights) of a layer with weights.
    """
    scores = setting.no_scores()
    for unit, name, layer in setting.layers():
        if isinstance(layer, QuantizedLayer):
            for candidate, (bits, _) in enumerate(setting.plan.candidates[unit]):
                layer.weight_quantizer.set_bits(bits)
                with torch.no_grad():
                    scores[unit, candidate] += score(name, layer, layer.quantized_weight())
    return scores


def near_the_weights(plan: Plan, scores: Scores) -> Scores:
    """NaN for candidates whose activations have bits farther from their weights' than another of the same weights."""
    kept: Scores = scores.copy()
    for unit, options in enumerate(plan.candidates):
        kept[unit, [k for k in range(len(options)) if k not in nearest(options)]] = np.nan
    return kept


def nearest(options: Sequence[Bits]) -> list[int]:
    """For each weight bits, rising, the candidate of the nearest activation bits; of two as near, the one of more."""
    of_weight: dict[int, int] = {}
    for candidate in sorted(range(len(options)), key=lambda k: (abs(options[k][1] - options[k][0]), -options[k][1])):
        of_weight.setdefault(options[candidate][0], candidate)
    return [of_weight[bits] for bits in sorted(of_weight)]
