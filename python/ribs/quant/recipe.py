"""Recipes: which quantizers a network gets, and how their steps are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from ribs.quant.trace import Trace

RecipeName = Literal["minmax", "mse", "asymmetric", "residual", "repq", "repq+"]
Ranges = Literal["minmax", "mse", "norm", "percentile", "cut"]
ShareLevels = Literal["nonuniform", "log_sqrt2"]


@dataclass(frozen=True)
class Recipe:
    """How steps are found (`ribs.quant.ranges`), and which quantizers there are.

    weights: of weights.  activations: of what enters a product.
    by_channel: of the input of linears that alone read a layer norm, which has a step for each channel while bits are
        chosen, and one in the end, the difference being moved into the layer norm and the weights (`reparameterize`).
        None for no such steps.
    shares: the levels of softmax outputs that enter a product of two activations; None for those of all others.
    outputs: whether steps of linears, of weights and inputs, are searched around these for the least squared error of
        what comes out on the calibration set (`ribs.quant.outputs`).
    residuals: whether a sum reads what a layer has read before as that layer has it, quantized by the same quantizer.
    symmetric: whether codes of weights lie around zero; otherwise each channel has a zero point among its codes.
    """

    name: RecipeName
    weights: Ranges
    activations: Ranges
    by_channel: Ranges | None = None
    shares: ShareLevels | None = None
    outputs: bool = False
    residuals: bool = False
    symmetric: bool = True


RECIPES: Mapping[RecipeName, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("minmax", "minmax", "minmax"),
        Recipe("mse", "mse", "mse"),
        # The weights of BRECQ and QDrop. Of the four codes of 2 bits that lie around zero, one alone is above it.
        Recipe("asymmetric", "norm", "mse", symmetric=False),
        # Of BRECQ (arXiv 2102.05426) and QDrop (arXiv 2203.05740) where quantizers are: what one makes of an activation
        # is what the convolution and the identity path of a block read.
        Recipe("residual", "mse", "mse", residuals=True),
        # RepQ-ViT (arXiv 2212.08254), and after section 4.2 of RIBS, with nuLSQ after softmax and weights of least
        # squared error. There activations are too, which cuts off too much of what enters products; here what comes
        # out of linears has the least: docs/method.md.
        Recipe("repq", "percentile", "percentile", by_channel="percentile", shares="log_sqrt2"),
        Recipe("repq+", "mse", "percentile", by_channel="cut", shares="nonuniform", outputs=True),
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
