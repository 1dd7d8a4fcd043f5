"""The samples of a race in the order in which it measures them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ribs.quant.inputs import Gathered, Inputs, alike
from ribs.select.plan import Plan
from ribs.select.samples import Choice, Measure
from ribs.select.sampling import order_of, sizes_of
from ribs.select.sensitivity import Sensitivity

SHARD = 32  # samples: of fewer, a pass costs more for each, and nothing is decided on fewer
LEVELS = (1 / 3, 2 / 3)  # how far from the noisiest candidates to the others the configurations are that order samples
PASSES = len(LEVELS) + 1  # before a race, those and one of the float network


def arrange(
    sensitivity: Sensitivity, measure: Measure, plan: Plan, batches: Sequence[Inputs], seed: int
) -> NDArray[np.float64] | None:
    """Arrange the calibration set in small shards, of samples whose losses matter most first (`ribs.select.sampling`).

    It depends on no budget, so that a journal serves all.

    sensitivity: measures on the batches, and on the shards afterwards.  measure: asks it.
    Returns: [samples] sizes in the new order. None, and the order stays, where samples of several batches cannot be in
        one shard, because their shapes differ.
    """
    if not alike(batches):
        sensitivity.arrange([shard for batch in batches for shard in batch.split(SHARD)])
        return None
    levels = dict.fromkeys(level(plan, share) for share in LEVELS)
    shards = range(len(sensitivity.samples))
    sizes = sizes_of([np.concatenate([np.array(measure([each], shard))[0] for shard in shards]) for each in levels])
    order = order_of(sizes, seed)
    sensitivity.arrange(Gathered(batches, order, SHARD))
    return sizes[order]


def level(plan: Plan, share: float) -> Choice:
    """The configuration whose units all have candidates so far from their noisiest to their least noisy one."""
    choice = []
    for options in plan.candidates:
        noise = [4.0**-w + 4.0**-a for w, a in options]
        choice.append(int(np.argsort(noise, kind="stable")[::-1][round(share * (len(options) - 1))]))
    return tuple(choice)
