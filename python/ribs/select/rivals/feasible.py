"""Configurations within the budgets of a plan."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

import numpy as np

from ribs.select import problem
from ribs.select.ilp import solve
from ribs.select.knapsack import within
from ribs.select.plan import Plan
from ribs.select.samples import Choice


def costs_of(plan: Plan, choice: Sequence[int]) -> tuple[int, ...]:
    """Exact costs of all units together, one for each budget."""
    return problem.costs_of(plan.costs, choice)


def fits(plan: Plan, choice: Sequence[int]) -> bool:
    return within(costs_of(plan, choice), plan.available)


def excess_of(plan: Plan, choice: Sequence[int]) -> tuple[int, ...]:
    """By how much each budget is exceeded, 0 where it is kept."""
    over = map(operator.sub, costs_of(plan, choice), plan.available)
    return tuple(max(0, more) for more in over)


def cheapest(plan: Plan) -> Choice:
    """The configuration of least cost within the budgets, of the first budget first."""
    return solve(np.zeros(plan.allowed.shape), plan.costs, plan.available, plan.allowed).choice


def uniform(plan: Plan) -> list[Choice]:
    """All configurations in which the units that have a choice have one pair of bits, within the budgets or not.

    Units without weights have the pair's activation bits. There are none where the candidates share no pair.
    """
    weighted = [plan.table.has_weights(unit) for unit in plan.table.groups]
    choices = []
    for weight, activation in sorted(set(itertools.chain(*plan.candidates))):
        pairs = [(weight, activation) if has else (activation, activation) for has in weighted]
        if all(len(o) == 1 or pair in o for o, pair in zip(plan.candidates, pairs, strict=True)):
            matched = zip(plan.candidates, pairs, strict=True)
            choices.append(tuple(options.index(pair) if len(options) > 1 else 0 for options, pair in matched))
    return list(dict.fromkeys(choices))


def most_uniform(plan: Plan) -> list[Choice]:
    """Those of `uniform` within the budgets, except where another has at least as many weight and activation bits.

    There may be none: no pair of bits that all units may have, or each over one budget or below a lower bound.
    """
    found = [choice for choice in uniform(plan) if fits(plan, choice)]
    bits = [[b for options, k in zip(plan.candidates, choice, strict=True) for b in options[k]] for choice in found]
    return [
        choice
        for choice, ours in zip(found, bits, strict=True)
        if not any(ours != theirs and all(map(operator.le, ours, theirs)) for theirs in bits)
    ]


def fitting(plan: Plan, choice: Sequence[int], unit: int) -> list[int]:
    """The candidates of a unit with which all is within the budgets, the other units as in `choice`."""
    left = zip(plan.available, costs_of(plan, choice), plan.costs[unit][choice[unit]], strict=True)
    room = [limit - spent + own for limit, spent, own in left]
    return [k for k in _options(plan, unit) if all(map(operator.le, plan.costs[unit][k], room))]


def filled(plan: Plan, choice: Choice, generator: np.random.Generator) -> Choice:
    """Units in random order, each raised to the most bits that still fit, until none can be; `choice` fits."""
    present, before = list(choice), list[int]()
    while present != before:
        before = present.copy()
        for unit in generator.permutation(len(present)).tolist():
            options = plan.candidates[unit]
            own = options[present[unit]]
            raised = [k for k in fitting(plan, present, unit) if all(map(operator.ge, options[k], own))]
            _, _, present[unit] = max((sum(options[k]), options[k], k) for k in raised)
    return tuple(present)


def lowered(plan: Plan, choice: Choice, least: Choice, generator: np.random.Generator) -> Choice:
    """Random units lowered one by one, each to its next cheaper candidate, until all is within the budgets.

    Cheaper is what costs less in some budget and more in none. A unit without such a candidate, as all are where
    something is bounded from both sides, takes that of `least`, which is within the budgets.
    """
    present = list(choice)
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
