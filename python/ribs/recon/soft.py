"""What stands in for quantizers while something about them is learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ribs import ops
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FakeQuantizer, code_range


class SoftRounding:
    """The weights of a layer between their two neighbours, in the place of its weight quantizer.

    name: of the layer.
    alpha: like the weights, the variable of AdaRound; at first the values are the weights themselves, where in range.
    beta: the sharpness of the regulariser, a tensor of one number, 0 for none.
    penalty: the regulariser, as of the last call.
    """

    def __init__(self, layer: QuantizedLayer, name: str = "") -> None:
        self.name = name
        quantizer = layer.weight_quantizer
        self.layer = layer
        self.axis = quantizer.axis
        self.step, self.zero_point = quantizer.present
        self.codes = code_range(quantizer.bits, quantizer.symmetric)
        shape = [1] * layer.weight.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        u = layer.weight / self.step.reshape(shape)
        self.alpha = -torch.log(1.2 / (u - u.floor() + 0.1) - 1).detach()
        self.alpha.requires_grad_()
        self.beta = torch.zeros((), dtype=torch.float32, device=layer.weight.device)
        self.penalty = torch.zeros(())

    def __call__(self, weight: Tensor) -> Tensor:
        values, self.penalty = self._round(weight, self.alpha, self.beta)
        return values

    @torch.no_grad()
    def finish(self) -> None:
        """Give the layer the weights that its rounding leads to. They are values of the quantizer, which keeps them."""
        up = torch.where(self.alpha >= 0, torch.inf, -torch.inf).to(self.alpha.dtype)
        self.layer.weight.copy_(self._round(self.layer.weight, up, 0.0)[0])
        self.layer.rounded = True

    def _round(self, weight: Tensor, alpha: Tensor, beta: float | Tensor) -> tuple[Tensor, Tensor]:
        return ops.soft_round(weight, alpha, self.step, self.zero_point, *self.codes, self.axis, beta=beta)


class SoftStep:
    """An activation quantizer whose step is learned, and that leaves values as they are at random.

    name: of its place.
    keep: the probability with which a value is quantized.
    seed: of those that are; a tensor of one number.
    lost: whether the step became NaN or infinite; it then began anew.
    """

    def __init__(self, quantizer: FakeQuantizer, keep: float, generator: torch.Generator, name: str = "") -> None:
        self.name = name
        self.quantizer = quantizer
        self.keep = keep
        self.seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        step, self.zero_point = quantizer.present
        self.start = float(step)
        self.lost = torch.zeros((), dtype=torch.bool, device=step.device)
        self.step = step.detach().clone().requires_grad_()
        self.codes = code_range(quantizer.bits, quantizer.symmetric)

    def __call__(self, x: Tensor) -> Tensor:
        # The scale of LSQ (Esser et al., 2019, section 2.2), in the gradient alone.
        scale = 1 / math.sqrt(x.numel() * max(self.codes[1], 1))
        step = self.step.detach() + (self.step - self.step.detach()) * scale
        if self.keep == 1:
            return ops.fake_quantize(x, step, self.zero_point, *self.codes)
        return ops.drop(x, step, self.zero_point, *self.codes, keep=self.keep, seed=self.seed)

    def draw(self) -> None:
        """Leave other values as they are from now on."""
        self.seed += 1

    @torch.no_grad()
    def bound(self) -> None:
        """Keep the step positive and finite, so that it can be used until somebody looks whether it is lost."""
        self.lost |= ~self.step.isfinite()
        self.step.nan_to_num_(self.start, self.start, self.start).clamp_(min=self.start / 1024)

    def finish(self) -> None:
        """Give the quantizer its step for the chosen bits."""
        quantizer = self.quantizer
        steps = quantizer.step.clone()
        steps[quantizer.choices.index(quantizer.bits)] = self.step.detach()
        quantizer.set_steps(quantizer.choices, steps, quantizer.zero_point)


@dataclass
class Begun:
    """Variables of an optimisation, part of the way.

    alphas: of roundings, by layer.  steps: of activation quantizers, by their place.
    """

    alphas: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, roundings: Sequence[SoftRounding], steps: Sequence[SoftStep]) -> Begun:
        return cls(
            {each.name: each.alpha.detach().clone() for each in roundings},
            {each.name: each.step.detach().clone() for each in steps},
        )

    @torch.no_grad()
    def put(self, roundings: Sequence[SoftRounding], steps: Sequence[SoftStep]) -> None:
        """Set those that are here."""
        for rounding in roundings:
            if rounding.name in self.alphas:
                rounding.alpha.copy_(self.alphas[rounding.name])
        for step in steps:
            if step.name in self.steps:
                step.step.copy_(self.steps[step.name])


@contextmanager
def in_place_of(softs: Mapping[FakeQuantizer, Any]) -> Iterator[None]:
    """Within, quantizers do what stands in for them does."""
    for quantizer, soft in softs.items():
        quantizer.__dict__["forward"] = soft
    try:
        yield
    finally:
        for quantizer in softs:
            del quantizer.__dict__["forward"]


def learnable(model: nn.Module, layer: QuantizedLayer) -> bool:
    """Whether the layer's rounding can be kept: the weights are a parameter, and nobody else's."""
    if layer.layer is None or not layer.has_own_weight:
        return False
    owners = [module for module in model.modules() if any(p is layer.weight for p in module._parameters.values())]
    return len(owners) == 1
