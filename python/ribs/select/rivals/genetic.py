"""A genetic algorithm over a table of sensitivities of units and of pairs of units.

Source: Li et al., BRECQ, ICLR 2021, section 3.4 and its appendix: losses of single units, and within each block of
pairs of units at the lowest bits, where they interact most; the predicted loss of a configuration is their sum.

Here the singles are each quantized with all others in float, and what a pair adds is its loss less those of its units.
Children over the budgets have random units lowered rather than being drawn again.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from ribs.quant.units import find_units
from ribs.select.rivals.feasible import lowered
from ribs.select.rivals.random import draw
from ribs.select.rivals.setting import Scores, Setting, replaced
from ribs.select.samples import Choice

POPULATION, GENERATIONS, PARENTS, MUTATION = 50, 100, 10, 0.1

Pairs = dict[tuple[int, int], float]  # what two units, both at their lowest candidate, lose beyond each alone


def choose(setting: Setting) -> Choice:
    """The least predicted loss. Costs about a pass for each candidate of each unit, and for each pair in a block."""
    table = setting.alone()
    table = np.where(np.isfinite(table), table, np.inf)
    return evolve(setting, table, pairs_of(setting, table))


def pairs_of(setting: Setting, table: Scores) -> Pairs:
    """What each pair of units of one block adds, at the lowest candidates; table: [units, candidates], each alone."""
    together = list(within_blocks(setting))
    lowest = [options.index(min(options)) for options in setting.plan.candidates]
    choices = [setting.floats, *(replaced(setting.floats, {i: lowest[i], j: lowest[j]}) for i, j in together)]
    losses = [setting.sensitivity.measure(choices, shard)[1:] for shard in range(len(setting.inputs))]
    means = np.concatenate(losses, axis=1).mean(axis=1).tolist()
    added = {
        (i, j): loss - float(table[i, lowest[i]]) - float(table[j, lowest[j]])
        for (i, j), loss in zip(together, means, strict=True)
    }
    return {pair: loss for pair, loss in added.items() if math.isfinite(loss)}


def within_blocks(setting: Setting) -> list[tuple[int, int]]:
    """Pairs of units that lie in one block."""
    network = setting.network
    blocks = find_units(network.model, network.trace.layers, "block")
    owner = {layer: block.name for block in blocks for layer in block.layers}
    of_unit = [{owner[layer] for layer in unit.layers} for unit in network.units]
    every = itertools.combinations(range(len(network.units)), 2)
    return [(i, j) for i, j in every if len(of_unit[i]) == 1 and of_unit[i] == of_unit[j]]


def predicted(setting: Setting, table: Scores, pairs: Pairs, choice: Choice) -> float:
    lowest = [options.index(min(options)) for options in setting.plan.candidates]
    singles = sum(float(table[unit, candidate]) for unit, candidate in enumerate(choice))
    return singles + sum(loss for (i, j), loss in pairs.items() if choice[i] == lowest[i] and choice[j] == lowest[j])


def evolve(setting: Setting, table: Scores, pairs: Pairs) -> Choice:
    """The least predicted loss met: 100 generations of 50, half of them children of the 10 best, half mutants."""
    generator = np.random.default_rng(setting.seed)
    seen: dict[Choice, float] = {}

    def rank(population: list[Choice]) -> list[Choice]:
        for choice in population:
            if choice not in seen:
                seen[choice] = predicted(setting, table, pairs, choice)
        return sorted(dict.fromkeys(population), key=lambda choice: (seen[choice], choice))

    best = rank([draw(setting, generator) for _ in range(POPULATION)])[:PARENTS]
    for _ in range(GENERATIONS):
        children = [_crossed(setting, best, generator) for _ in range(POPULATION // 2)]
        mutants = [_mutated(setting, best, generator) for _ in range(POPULATION // 2)]
        best = rank([*best, *children, *mutants])[:PARENTS]
    return best[0]


def _parent(best: list[Choice], generator: np.random.Generator) -> Choice:
    return best[int(generator.integers(len(best)))]


def _crossed(setting: Setting, best: list[Choice], generator: np.random.Generator) -> Choice:
    """Each unit from one of two parents."""
    left, right = _parent(best, generator), _parent(best, generator)
    from_left: NDArray[np.bool_] = generator.random(len(left)) < 0.5
    child = tuple(a if flip else b for a, b, flip in zip(left, right, from_left, strict=True))
    return lowered(setting.plan, child, setting.cheapest, generator)


def _mutated(setting: Setting, best: list[Choice], generator: np.random.Generator) -> Choice:
    """Each unit at a random candidate with a probability of 0.1."""
    child = tuple(
        int(generator.integers(len(options))) if generator.random() < MUTATION else candidate
        for options, candidate in zip(setting.plan.candidates, _parent(best, generator), strict=True)
    )
    return lowered(setting.plan, child, setting.cheapest, generator)
