"""Recipes: which quantizers a network gets, and how their steps are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ribs.quant.quantizer import ShareLevels
from ribs.quant.ranges import Ranges
from ribs.quant.trace import Trace

RecipeName = Literal["minmax", "mse", "repq", "repq+"]


@dataclass(frozen=True)
class Recipe:
    """ranges: how the steps of weights and activations are found (`ribs.quant.ranges`).

    by_channel: linears that alone read a layer norm have a step for each channel of their input while bits are chosen,
        and one in the end, the difference being moved into the layer norm and their weights (`reparameterize`).
    shares: the levels of softmax outputs that enter a product of two activations; None for those of all others.
    """

    name: RecipeName
    ranges: Ranges
    by_channel: bool = False
    shares: ShareLevels | None = None


RECIPES: Mapping[RecipeName, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("minmax", "minmax"),
        Recipe("mse", "mse"),
        # RepQ-ViT (arXiv 2212.08254), and as RIBS has it in section 4.2: steps by squared error, nuLSQ after softmax.
        Recipe("repq", "percentile", by_channel=True, shares="log_sqrt2"),
        Recipe("repq+", "mse", by_channel=True, shares="nonuniform"),
    )
}


def find_recipe(name: RecipeName | None, trace: Trace) -> Recipe:
    """The recipe of that name; by default "repq+" where a softmax output is multiplied, "mse" elsewhere.

    Raises: ValueError for another name.
    """
    check_recipe(name)
    return RECIPES[name if name is not None else "repq+" if trace.shares else "mse"]


def check_recipe(name: RecipeName | None) -> None:
    if name is not None and name not in RECIPES:
        raise ValueError(f"[ribs] recipe={name!r} is not supported; give one of {get_args(RecipeName)}, or None")
