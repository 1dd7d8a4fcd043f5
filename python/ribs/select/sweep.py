"""`ribs.sweep`: the best bits of a network at many budgets, for the work of two searches."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ribs.quant.copies import unwrap
from ribs.quant.recipe import RecipeName
from ribs.quant.units import UnitScheme
from ribs.select.algorithm import work_of_neighbours
from ribs.select.budget import Budget, in_words
from ribs.select.candidates import ActivationBits, Allowed, Pins, Ties
from ribs.select.front import ANCHORS, TRIES, search_front
from ribs.select.loss import TaskLoss, kl_divergence
from ribs.select.measurement import MIB
from ribs.select.measuring import WEIGHTS_SHARE, Options, measuring
from ribs.select.plan import Plan
from ribs.select.points import Point, Sweep
from ribs.select.problem import Problem
from ribs.select.result import SearchCost
from ribs.select.samples import Choice, Samples
from ribs.select.setup import set_up

PROPOSALS_A_UNIT = 7.5  # of all budgets together: with all else at most twice the work of one search
ONE_BUDGET = 6  # of one alone


def sweep(
    model: nn.Module,
    loader: Iterable[Any],
    budgets: Sequence[Budget],
    *,
    bits: Iterable[int] = range(2, 9),
    activation_bits: ActivationBits = None,
    units: UnitScheme = "layer",
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    proposals: int | None = None,
    calibration_samples: int = 1024,
    pool_batches: bool = False,
    pins: Pins | None = None,
    allowed: Allowed | None = None,
    ties: Ties | None = None,
    target: str | None = None,
    loss: TaskLoss = kl_divergence,
    max_seconds: float | None = None,
    cache_mib: float = 1024,
    journal: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Sweep:
    """Choose the bits of every unit that lose the least within each of several budgets, from one table of measurements.

    budgets: all bound the same, from the same sides and in the same accounting, such as bit operations from above.
    proposals: how many configurations are measured at most, beside the uniform ones and what a few budgets begin with;
        by default 7.5 for each unit, or, of one budget, 6. For 20 budgets or 200 that is about twice the work of one
        search. docs/algorithms.md compares the points with those of single searches.
    The other arguments are as for `ribs.search`. A journal of a sweep serves a search of the same network, and the
    other way round.

    Where `torch.distributed` is initialised, all of its processes must make the same call, as for `ribs.search`.

    Raises: as `ribs.search`; InfeasibleBudgetError says which of the budgets it is. ValueError for no budgets, and
        for those that do not bound the same; all before any long work.
    """
    budgets = [budgets] if isinstance(budgets, Budget) else list(budgets)
    _check(budgets, proposals)
    model = unwrap(model)
    options = Options(
        loss=loss,
        seed=seed,
        pool_batches=pool_batches,
        max_seconds=max_seconds,
        cache_mib=cache_mib,
        journal=journal,
        progress=progress,
    )
    setup = set_up(
        model,
        loader,
        budgets,
        units=units,
        recipe=recipe,
        skip=skip,
        calibration_samples=calibration_samples,
        bits=bits,
        activation_bits=activation_bits,
        pins=pins,
        allowed=allowed,
        ties=ties,
        target=target,
    )
    network, plans = setup.network, setup.plans
    [plan, *_] = plans
    uniform = uniform_choices(plan)
    neighbours, work = work_of_neighbours(plan)
    proposals = default_proposals(plans) if proposals is None else proposals
    anchors = min(len(ANCHORS), len(plans))
    others = len(uniform) + anchors * (1 + TRIES) + proposals
    losses, work = others + anchors * neighbours // 2, others + anchors * work / 2  # of the neighbours, those below
    same = {"budget": str([plan.limits for plan in plans]), "proposals": str(proposals)}
    with measuring(model, setup, setup.batches, options, same) as measures:
        sensitivity, bars = measures.sensitivity, measures.bars
        measures.announce(f"{len(plans)} budgets", "about", losses, work)
        measures.calibrate()
        bars.start_search(work)
        samples = Samples(sensitivity.measure, sensitivity.samples)
        order = sorted(range(len(plans)), key=lambda place: plans[place].available)
        problems = [Problem(plans[place].costs, plans[place].available, plan.allowed) for place in order]
        with network.keep_weights(int(cache_mib * MIB * WEIGHTS_SHARE)):
            found, stopped = search_front(
                plan.padded_candidates(),
                problems,
                samples,
                first=uniform,
                proposals=proposals,
                seed=seed,
                stop=measures.out_of_time,
                agree=measures.ranks.first,
            )
    _warn_of_excluded(plan, problems[0].allowed)

    def point(budget: str, own: Plan, choice: Choice, bounded: bool) -> Point:
        configuration = own.configuration(choice)
        return Point(
            budget=budget,
            bits=configuration,
            loss=samples.mean(choice),
            standard_error=samples.standard_error(choice),
            bops=own.table.bops(configuration),
            size_mib=own.table.size_mib(configuration),
            limits=own.limits if bounded else {},
            spending=own.spending(configuration) if bounded else (),
        )

    choices = dict(zip(order, found, strict=True))
    return Sweep(
        points=tuple(
            point(in_words(budget), own, choices[place], True)
            for place, (budget, own) in enumerate(zip(budgets, plans, strict=True))
        ),
        uniform=tuple(point(_in_words(plan, choice), plan, choice, False) for choice in uniform),
        stopped=stopped,
        cost_of_search=SearchCost(sensitivity.forward_equivalents, time.perf_counter() - options.started),
        costs=plan.table,
        recipe=network.recipe.name,
        _network=network,
        _batches=setup.batches,
        _loss=loss,
    )


def _check(budgets: Sequence[Budget], proposals: int | None) -> None:
    if not budgets:
        raise ValueError("[sweep] budgets=[] is not allowed; give at least one")
    if proposals is not None and proposals < 1:
        raise ValueError(f"[sweep] proposals={proposals} is not allowed; give at least 1")
    for number, budget in enumerate(budgets[1:], 2):
        if budget.kind != budgets[0].kind:
            raise ValueError(
                f"[sweep] budget {number}, {in_words(budget)}, does not bound what budget 1 does, "
                f"{in_words(budgets[0])}; give budgets of the same resources, sides and accounting"
            )


def default_proposals(plans: Sequence[Plan]) -> int:
    """How many configurations are proposed at most."""
    return math.ceil(min(PROPOSALS_A_UNIT, ONE_BUDGET * len(plans)) * len(plans[0].candidates))


def uniform_choices(plan: Plan) -> list[Choice]:
    """The configurations in which all units with a choice have the same bits, with rising bits.

    Where weights and activations come apart, those of equal bits.
    """
    free = [set(options) for options in plan.candidates if len(options) > 1]
    shared = sorted(set.intersection(*free)) if free else []
    if len({w for w, _ in shared}) < len(shared):
        shared = [(w, a) for w, a in shared if w == a]
    return [tuple(options.index(pair) if len(options) > 1 else 0 for options in plan.candidates) for pair in shared]


def _in_words(plan: Plan, choice: Choice) -> str:
    """The bits of a uniform configuration."""
    place = max(range(len(choice)), key=lambda unit: len(plan.candidates[unit]))
    return "uniform {}/{}".format(*plan.candidates[place][choice[place]])


def _warn_of_excluded(plan: Plan, allowed: NDArray[np.bool_]) -> None:
    for name, options, before, after in zip(plan.table.units, plan.candidates, plan.allowed, allowed, strict=True):
        bad = [options[k] for k in np.flatnonzero(before & ~after)]
        if bad:
            warnings.warn(
                f"[ribs] unit {name!r} has a loss of NaN or Inf at {bad}; left out", RuntimeWarning, stacklevel=3
            )
