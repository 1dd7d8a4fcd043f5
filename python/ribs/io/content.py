"""What is saved of a result, as dataclasses that are the format of its JSON file."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import ribs
from ribs.quant.quantizer import FLOAT_BITS, Quantizer
from ribs.quant.recipe import RecipeName
from ribs.quant.trace import Trace
from ribs.quant.units import Unit
from ribs.select.accounting import AccountingName
from ribs.select.cost import Configuration, CostTable
from ribs.select.result import IterationRecord, Result, SearchCost, Spending

# What modules say and may change: where a function is in memory, and whether there is a bias, which the tensors show.
VARIABLE = re.compile(r" at 0x[0-9a-fA-F]+|, bias=(?:True|False)")


@dataclass(frozen=True)
class SavedQuantizer:
    """A quantizer of activations at its bits; at 32 it has no steps.

    kind: one of `ribs.io.quantizers.KINDS`.
    step, zero_point: one for the tensor, or one for each index of `axis`; levels of other kinds have no zero points.
    """

    kind: str
    bits: int
    symmetric: bool
    axis: int | None
    step: tuple[float, ...]
    zero_point: tuple[int, ...]


@dataclass(frozen=True)
class SavedWeight:
    """The weights of a layer, whose codes and steps are in the other file unless `bits` is 32.

    held: whether they take the place of weights that the model computes or reads in other ways too.
    symmetric: whether codes lie around zero; otherwise there are zero points too.
    shape, stride: in elements.  axis: the dimension with a step for each index.
    """

    bits: int
    held: bool
    symmetric: bool
    axis: int | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class SavedLayer:
    """weight: None for a matmul.  inputs: the quantizers of activations, call after call."""

    weight: SavedWeight | None
    inputs: tuple[SavedQuantizer, ...]

    @property
    def packed(self) -> SavedWeight | None:
        """The weights, where they are packed."""
        return None if self.weight is None or self.weight.bits == FLOAT_BITS else self.weight


@dataclass(frozen=True)
class Versions:
    """What wrote it."""

    ribs: str
    torch: str
    python: str


@dataclass(frozen=True)
class WeightsFile:
    """bytes, sha256: of the whole file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Content:
    """Everything but weights.

    modules: (path, class, what it says of itself) of every module of the quantized network, to compare models by.
    layers: by name, how each is quantized.
    The other fields are those of `Result` and `CostTable`.
    """

    versions: Versions
    weights: WeightsFile
    bits: Configuration
    loss: float
    standard_error: float
    loss_as_searched: float
    bops: int
    size_mib: float
    limits: dict[str, int]
    spending: tuple[Spending, ...]
    stopped: bool
    cost_of_search: SearchCost
    recipe: RecipeName
    accounting: AccountingName
    units: tuple[Unit, ...]
    layers: dict[str, SavedLayer]
    modules: tuple[tuple[str, str, str], ...]
    trace: Trace
    history: tuple[IterationRecord, ...]

    @classmethod
    def of(cls, result: Result, layers: dict[str, SavedLayer], weights: WeightsFile) -> Content:
        return cls(
            versions=Versions(ribs.__version__, torch.__version__, sys.version.split()[0]),
            weights=weights,
            bits=result.bits,
            loss=result.loss,
            standard_error=result.standard_error,
            loss_as_searched=result.loss_as_searched,
            bops=result.bops,
            size_mib=result.size_mib,
            limits=result.limits,
            spending=result.spending,
            stopped=result.stopped,
            cost_of_search=result.cost_of_search,
            recipe=result.recipe,
            accounting=result.costs.accounting,
            units=result.costs.groups,
            layers=layers,
            modules=describe(result.model),
            trace=result.costs.trace,
            history=result.history,
        )

    def result(self, model: nn.Module) -> Result:
        """The result whose quantized network is `model`."""
        return Result(
            bits=self.bits,
            model=model,
            loss=self.loss,
            standard_error=self.standard_error,
            loss_as_searched=self.loss_as_searched,
            bops=self.bops,
            size_mib=self.size_mib,
            limits=self.limits,
            spending=self.spending,
            history=self.history,
            stopped=self.stopped,
            cost_of_search=self.cost_of_search,
            costs=self.costs,
            recipe=self.recipe,
        )

    @property
    def costs(self) -> CostTable:
        return CostTable(self.trace, self.units, self.accounting, self.recipe)


def upgraded(content: Any, version: int) -> Any:
    """Plain values of an older format as those of the present one, where they are sound; the rest is for `decode`."""
    if version < 2 and isinstance(content.get("history"), list):
        for record in content["history"]:
            if isinstance(record, dict):
                record |= {"spent": {}, "gaps": []}
    if version < 3 and isinstance(content.get("trace"), dict):
        content["trace"]["residuals"] = {}
    if version < 3 and isinstance(content.get("layers"), dict):
        for layer in content["layers"].values():
            if isinstance(layer, dict) and isinstance(layer.get("weight"), dict):
                layer["weight"]["symmetric"] = True
    return content


def describe(network: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """The modules of a network but quantizers, in order, as `Content.modules` has them."""
    modules = ((name, module) for name, module in network.named_modules() if not isinstance(module, Quantizer))
    return tuple((name, type(module).__qualname__, VARIABLE.sub("", module.extra_repr())) for name, module in modules)
