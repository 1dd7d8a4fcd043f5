"""The best measured of random configurations: what any method must beat at the same work."""

from __future__ import annotations

import numpy as np

from ribs.select.rivals.feasible import filled, fitting
from ribs.select.rivals.setting import Setting, replaced
from ribs.select.samples import Choice

TRIES = 64


def choose(setting: Setting) -> Choice:
    """Of 64 random configurations that use the budgets, the one of least measured loss. Costs a pass for each."""
    generator = np.random.default_rng(setting.seed)
    drawn = dict.fromkeys(draw(setting, generator) for _ in range(TRIES))
    return min(drawn, key=lambda choice: (setting.mean_loss(choice), choice))


def draw(setting: Setting, generator: np.random.Generator) -> Choice:
    """A random configuration within the budgets in which no unit alone can be raised.

    From the cheapest one, units in random order take a random candidate that fits, and are then raised in another.
    """
    plan = setting.plan
    choice = setting.cheapest
    for unit in generator.permutation(len(choice)).tolist():
        options = fitting(plan, choice, unit)
        choice = replaced(choice, {unit: options[int(generator.integers(len(options)))]})
    return filled(plan, choice, generator)
