"""Units lowered one by one in the order of what each loses alone.

Source: automatic mixed precision of Qualcomm's AIMET. Every unit at every candidate is measured with all others in
float; from the most bits on, this list is walked from the least loss to the largest, and each entry is taken that
leads no farther out of any budget, until all is within them.

With one upper bound these are the entries that make their unit cheaper, and the walk ends within it. With several
bounds it may end outside; then units take what they have in the cheapest configuration, in the order of what they lose
by it alone, until all is within the budgets.
"""

from __future__ import annotations

import operator

import numpy as np

from ribs.select.rivals.feasible import excess_of, fits
from ribs.select.rivals.setting import Scores, Setting, replaced
from ribs.select.samples import Choice


def choose(setting: Setting) -> Choice:
    """The first configuration of the walk within the budgets. Costs about a pass for each candidate of each unit."""
    return walk(setting, setting.alone())


def walk(setting: Setting, losses: Scores) -> Choice:
    """losses: [units, candidates], each alone; candidates of equal loss are taken from the cheapest on."""
    plan, choice = setting.plan, setting.plan.start
    losses = np.where(np.isfinite(losses), losses, np.inf)
    entries = [(unit, candidate) for unit, options in enumerate(plan.candidates) for candidate in range(len(options))]
    for unit, candidate in sorted(entries, key=lambda e: (losses[e], plan.costs[e[0]][e[1]], e)):
        if fits(plan, choice):
            return choice
        changed = replaced(choice, {unit: candidate})
        if all(map(operator.le, excess_of(plan, changed), excess_of(plan, choice))):
            choice = changed
    least = enumerate(setting.cheapest)
    for unit, candidate in sorted(least, key=lambda e: (losses[e], e)):
        if fits(plan, choice):
            return choice
        choice = replaced(choice, {unit: candidate})
    return choice
