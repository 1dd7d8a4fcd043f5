"""Configurations within the budgets of a plan."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from ribs.select.ilp import solve
from ribs.select.plan import Plan
from ribs.select.samples import Choice


def costs_of(plan: Plan, choice: Sequence[int]) -> tuple[int, ...]:
    """Exact costs of all units together, one for each budget."""
    return tuple(sum(plan.costs[i][k][c] for i, k in enumerate(choice)) for c in range(len(plan.available)))


def fits(plan: Plan, choice: Sequence[int]) -> bool:
    return all(map(operator.le, costs_of(plan, choice), plan.available))


def cheapest(plan: Plan) -> Choice:
    """The configuration of least cost within the budgets, of the first budget first."""
    return solve(np.zeros(plan.allowed.shape), plan.costs, plan.available, plan.allowed).choice


def uniform(plan: Plan) -> list[Choice]:
    """All configurations in which the units that have a choice have one pair of bits, within the budgets or not."""
    free = [set(options) for options in plan.candidates if len(options) > 1] or [set(plan.candidates[0])]
    pairs = sorted(set.intersection(*free))
    choices = [tuple(o.index(pair) if pair in o else 0 for o in plan.candidates) for pair in pairs]
    return list(dict.fromkeys(choices))


def most_uniform(plan: Plan) -> list[Choice]:
    """Those of `uniform` within the budgets, except where another has at least as many weight and activation bits.

    Raises: ValueError where there is none.
    """
    found = [choice for choice in uniform(plan) if fits(plan, choice)]
    bits = [[b for options, k in zip(plan.candidates, choice, strict=True) for b in options[k]] for choice in found]
    most = [
        choice
        for choice, ours in zip(found, bits, strict=True)
        if not any(ours != theirs and all(map(operator.le, ours, theirs)) for theirs in bits)
    ]
    if not most:
        raise ValueError("[rivals] no pair of bits that all units without a pin may have is within the budget")
    return most


def filled(plan: Plan, choice: Choice, generator: np.random.Generator) -> Choice:
    """Units in random order, each raised to the most costly candidate that still fits; `choice` fits."""
    present = list(choice)
    for unit in generator.permutation(len(present)):
        for candidate in sorted(_options(plan, unit), key=lambda k: plan.costs[unit][k], reverse=True):
            dearer = all(map(operator.ge, plan.costs[unit][candidate], plan.costs[unit][present[unit]]))
            changed = [*present[:unit], candidate, *present[unit + 1 :]]
            if dearer and fits(plan, changed):
                present = changed
                break
    return tuple(present)


def lowered(plan: Plan, choice: Choice, generator: np.random.Generator) -> Choice:
    """Random units lowered one by one, each to its next cheaper candidate, until all is within the budgets."""
    present, least = list(choice), cheapest(plan)
    while not fits(plan, present):
        unit = int(generator.choice([i for i, k in enumerate(present) if k != least[i]]))
        costs = plan.costs[unit]
        cheaper = [
            k
            for k in _options(plan, unit)
            if costs[k] != costs[present[unit]] and all(map(operator.le, costs[k], costs[present[unit]]))
        ]
        present[unit] = max(cheaper, key=lambda k: (costs[k], k), default=least[unit])
    return tuple(present)


def _options(plan: Plan, unit: int) -> range:
    return range(len(plan.candidates[unit]))
