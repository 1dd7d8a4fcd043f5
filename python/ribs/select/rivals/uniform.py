"""One pair of bits for all units: what mixed precision is compared with."""

from __future__ import annotations

from ribs.select.plan import Plan
from ribs.select.rivals.feasible import most_uniform
from ribs.select.rivals.setting import Setting
from ribs.select.samples import Choice


def choose(setting: Setting) -> Choice:
    """The most bits that all units without a pin can have within the budgets.

    Where neither of two pairs has at least as many bits as the other in both weights and activations, the one of less
    measured loss. Costs a pass for each such pair, none if there is only one.

    Raises: ValueError when no pair of bits that all of these units may have is within the budgets.
    """
    check(setting.plan)
    most = most_uniform(setting.plan)
    return most[0] if len(most) == 1 else min(most, key=lambda choice: (setting.mean_loss(choice), choice))


def check(plan: Plan) -> None:
    """Raise as `choose` does."""
    if not most_uniform(plan):
        raise ValueError(
            "[uniform] no pair of bits that all units with a choice may have is within the budget; widen the budget, "
            "allow more bits or leave this method out"
        )
