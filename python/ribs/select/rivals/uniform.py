"""One pair of bits for all units: what mixed precision is compared with."""

from __future__ import annotations

from ribs.select.rivals.feasible import most_uniform
from ribs.select.rivals.setting import Setting
from ribs.select.samples import Choice


def choose(setting: Setting) -> Choice:
    """The most bits that all units without a pin can have within the budgets.

    Where neither of two pairs has at least as many bits as the other in both weights and activations, the one of less
    measured loss. Costs a pass for each such pair, none if there is only one.
    """
    most = most_uniform(setting.plan)
    return most[0] if len(most) == 1 else min(most, key=lambda choice: (setting.mean_loss(choice), choice))
