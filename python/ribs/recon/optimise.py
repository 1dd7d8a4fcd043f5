"""One step of an optimisation, and what it needs to go back to the last good one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ribs.quant.quantizer import FakeQuantizer
from ribs.recon.methods import Method, Phase
from ribs.recon.soft import SoftRounding, SoftStep, in_place_of


class Optimisation:
    """Learns the rounding of weights and the steps of activations of one module, which is called with args and kwargs.

    first: the iteration that it begins with.
    error: of the last step's batch, before the step.

    Each step minimises error + penalty weight * regulariser by Adam: the error between what the module returns and the
    target, summed over dimension 1 and averaged over the others, as in the code of BRECQ and QDrop.
    """

    def __init__(
        self,
        method: Method,
        phase: Phase,
        module: Callable[[Any, Any], Tensor],
        roundings: Sequence[SoftRounding],
        steps: Sequence[SoftStep],
        first: int = 0,
    ) -> None:
        self.method, self.phase, self.module = method, phase, module
        self.roundings, self.steps, self.first = roundings, steps, first
        self.variables = [*(each.alpha for each in roundings), *(each.step for each in steps)]
        self.error = torch.zeros(())
        self._device = self.variables[0].device
        on_cpu = self._device.type == "cpu"
        self._beta = torch.zeros((), dtype=torch.float32, device=self._device)
        self._step_lr = torch.zeros((), dtype=torch.float64 if on_cpu else torch.float32, device=self._device)
        for each in roundings:
            each.beta = self._beta
        groups = [
            {"params": [each.alpha for each in roundings], "lr": method.weight_lr},
            {"params": [each.step for each in steps], "lr": self._step_lr},
        ]
        fused = self._device.type in ("cpu", "cuda")
        self._adam = torch.optim.Adam([group for group in groups if group["params"]], fused=fused)
        self._softs: dict[FakeQuantizer, SoftRounding | SoftStep] = {}
        self._softs |= {each.layer.weight_quantizer: each for each in roundings}
        self._softs |= {each.quantizer: each for each in steps}
        self._good: list[Tensor] = []
        self.remember()

    def begin(self, iteration: int) -> None:
        """Set what differs from step to step; a step reads it from memory, and can be captured."""
        if self.roundings:
            self._beta.fill_(self.method.beta_at(iteration))
        if self.steps:
            done = (iteration - self.first) / (self.phase.iterations - self.first)
            self._step_lr.fill_(self.method.step_lr * (1 + math.cos(math.pi * done)) / 2)  # a cosine, down to 0

    def step(self, inputs: Any, target: Tensor, weights: Tensor | None = None) -> None:
        """One step of Adam on a batch; `error` is the one before it.

        inputs: the (args, kwargs) of the module.  weights: of the error of each value, like the target.
        Raises: ValueError where the error has no gradient.
        """
        args, kwargs = inputs
        for each in self.steps:
            each.draw()  # once: a sum that reads what a layer reads has the same values of it
        with torch.enable_grad(), in_place_of(self._softs):
            error = self._error(self.module(args, kwargs), target, weights)
            if not error.requires_grad:
                raise ValueError(
                    "its output has no gradient; it detaches what it computes, or computes without gradients"
                )
            loss = error
            for rounding in self.roundings:
                loss = loss + self.method.penalty * rounding.penalty
            self._adam.zero_grad()
            torch.autograd.backward(loss)
        self.error = error.detach()
        for rounding in self.roundings:
            # What autograd recorded belongs to a stream, and the next step may be captured on another.
            rounding.penalty = rounding.penalty.detach()
        for group in self._adam.param_groups:
            group["capturable"] = self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        self._adam.step()
        for step in self.steps:
            step.bound()

    def _error(self, output: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        size = output.shape[1] if output.dim() > 1 else 1  # a mean over all, times this, is a sum over dimension 1
        if weights is None and self.phase.power == 2:
            return nn.functional.mse_loss(output, target) * size
        error = (output - target).abs().pow(self.phase.power)
        return (error if weights is None else error * weights).mean() * size

    @property
    def finite(self) -> bool:
        return all(bool(each.isfinite().all()) for each in self.variables) and not any(each.lost for each in self.steps)

    def remember(self) -> None:
        self._good = [each.detach().clone() for each in self.variables]

    @torch.no_grad()
    def go_back(self) -> None:
        """To what was remembered last."""
        for each, good in zip(self.variables, self._good, strict=True):
            each.copy_(good)

    def finish(self) -> None:
        """Write what was learned into the module."""
        for soft in self._softs.values():
            soft.finish()
