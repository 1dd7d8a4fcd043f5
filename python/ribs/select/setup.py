"""What a search and a comparison begin with: a calibration set, a network under quantizers, and plans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ribs.quant.copies import unwrap
from ribs.quant.inputs import Inputs, collect
from ribs.quant.network import QuantizedNetwork, prepare
from ribs.quant.recipe import RecipeName, check_recipe
from ribs.quant.units import UnitScheme
from ribs.select.budget import Budget, in_words
from ribs.select.candidates import ActivationBits, Allowed, Pins, Ties, activation_choices, bit_choices
from ribs.select.cost import CostTable
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.plan import Plan, make_plan


@dataclass(frozen=True)
class Setup:
    """batches: the calibration set.  network: not yet calibrated; tied units are one.  plans: one for each budget.

    The units are the same in all plans; their candidates differ where the accountings of the budgets pin some.
    """

    batches: list[Inputs]
    network: QuantizedNetwork
    plans: tuple[Plan, ...]


def set_up(
    model: nn.Module,
    loader: Iterable[Any],
    budgets: Sequence[Budget],
    *,
    units: UnitScheme,
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    calibration_samples: int,
    bits: Iterable[int],
    activation_bits: ActivationBits,
    pins: Pins | None,
    allowed: Allowed | None,
    ties: Ties | None,
    target: str | None,
) -> Setup:
    """Read the loader, and say what each unit may take within each budget. Arguments and errors: `ribs.search`."""
    check_recipe(recipe)
    model = unwrap(model)
    choices = bit_choices(bits)
    activation_bits = activation_choices(activation_bits)
    # What can be read only once is read here, for all budgets.
    if allowed is not None:
        allowed = {name: bits if isinstance(bits, int) else list(bits) for name, bits in allowed.items()}
    if ties is not None and not isinstance(ties, str):
        ties = [group if isinstance(group, str) else list(group) for group in ties]
    batches = collect(model, loader, calibration_samples)
    network = prepare(model, batches[0], units, recipe=recipe, skip=skip)
    table = CostTable.of(network.trace, network.units, recipe=network.recipe.name)
    plans = []
    for number, budget in enumerate(budgets, 1):
        try:
            plan = make_plan(table, budget, choices, activation_bits, pins, allowed=allowed, ties=ties, target=target)
        except InfeasibleBudgetError as error:
            if len(budgets) > 1:
                message = str(error).removeprefix("[ribs] ")
                error.args = (f"[ribs] budget {number} of {len(budgets)}, {in_words(budget)}: {message}",)
            raise
        plans.append(plan)
    return Setup(batches, replace(network, units=plans[0].table.groups), tuple(plans))
