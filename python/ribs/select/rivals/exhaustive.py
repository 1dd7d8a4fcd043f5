"""Every configuration within the budgets, measured: the answer that all others look for, on small networks."""

from __future__ import annotations

import itertools
import math

from ribs.select.plan import Plan
from ribs.select.rivals.feasible import costs_of, fits
from ribs.select.rivals.setting import Setting
from ribs.select.samples import Choice

MOST = 4096  # configurations


def choose(setting: Setting) -> Choice:
    """The configuration of least measured loss; of equals the one of least cost. Costs a pass for each.

    Raises: ValueError when there are more than 4096 configurations, those over the budgets included.
    """
    plan = setting.plan
    check(plan)
    every = itertools.product(*(range(len(options)) for options in plan.candidates))
    return min(
        (choice for choice in every if fits(plan, choice)),
        key=lambda choice: (setting.mean_loss(choice), costs_of(plan, choice), choice),
    )


def check(plan: Plan) -> None:
    """Raise as `choose` does."""
    count = math.prod(map(len, plan.candidates))
    if count > MOST:
        raise ValueError(
            f"[exhaustive] {len(plan.candidates)} units have {count:,} configurations, more than {MOST}; allow fewer "
            "bits, take larger units or choose another method"
        )
