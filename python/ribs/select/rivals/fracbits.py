"""Bits as real numbers, learned by interpolation between neighbouring bit-widths.

Source: Yang and Jin, FracBits: Mixed Precision Quantization via Fractional Bit-Widths, AAAI 2021.

Here the bits of a unit lie between two neighbouring candidates, weights and activations together, and the output of
its layers between the outputs at these; where activations have bits of their own, only the candidates are used whose
activations have the bits nearest to those of the weights. The weights stay as they are, and what is learned for is the
logarithm of the task loss plus 10 times the share by which the interpolated cost is over the budget. An integer program
then takes the candidates nearest to what was learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ribs.select.rivals.relaxed import Mix, train
from ribs.select.rivals.setting import Setting, best_by_weights, nearest
from ribs.select.samples import Choice

UPDATES, RATE = 200, 0.05


def choose(setting: Setting) -> Choice:
    """The least sum of squared distances to the learned bits, in candidates.

    Costs 6 passes over 32 samples, 200 times: 38 passes over 1024 samples.
    """
    return take(setting, learned(setting))


def take(setting: Setting, positions: Tensor) -> Choice:
    """The candidates nearest to learned bits, within the budgets."""
    scores = setting.no_scores()
    for unit, options in enumerate(setting.plan.candidates):
        places = {options[rung][0]: place for place, rung in enumerate(nearest(options))}
        for candidate, (weight, _) in enumerate(options):
            scores[unit, candidate] = (float(positions[unit]) - places[weight]) ** 2
    return best_by_weights(setting, scores)


def learned(setting: Setting, updates: int = UPDATES) -> Tensor:
    """[units] float64 positions from 0, the fewest bits, to the most, where they start."""
    positions = first_positions(setting).requires_grad_()
    train(
        setting,
        positions,
        lambda update: between(setting, positions),
        updates,
        RATE,
        lambda: keep_inside(setting, positions),
    )
    return positions.detach()


def first_positions(setting: Setting) -> Tensor:
    """[units] float64: the most bits of each unit."""
    return torch.tensor([len(nearest(options)) - 1.0 for options in setting.plan.candidates], dtype=torch.float64)


@torch.no_grad()
def keep_inside(setting: Setting, positions: Tensor) -> None:
    positions.copy_(positions.clamp(min=torch.zeros_like(positions), max=first_positions(setting)))


def between(setting: Setting, positions: Tensor) -> Sequence[Mix]:
    """The two neighbouring candidates of each unit, by how near they are."""
    mixes: list[Mix] = []
    for position, options in zip(positions, setting.plan.candidates, strict=True):
        rungs = nearest(options)
        if len(rungs) == 1:
            mixes.append([(rungs[0], torch.ones_like(position))])
            continue
        below = min(int(position.detach()), len(rungs) - 2)
        mixes.append([(rungs[below], below + 1 - position), (rungs[below + 1], position - below)])
    return mixes
