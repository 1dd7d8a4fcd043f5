"""Learned step sizes as the importance of a layer at each bit-width.

Source: Tang et al., Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance (LIMPQ), ECCV 2022.
Step sizes of all layers at all bit-widths are trained together: in each update the network runs once with all units at
each candidate and once at random ones, and the gradients are added up. The score of a layer at a candidate is
activation step + 2 x weight step, and an integer program takes the least sum.

Simplified: the weights stay as they are, the loss is the task loss rather than the cross entropy to labels, steps start
at their calibrated values, and the step of the weights is the mean over channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer, ShareQuantizer
from ribs.select.loss import measure
from ribs.select.rivals.feasible import uniform
from ribs.select.rivals.setting import BACKWARD, Scores, Setting, best_by
from ribs.select.samples import Choice

UPDATES = 32
BATCH = 32  # samples of an update
RATE = 0.01  # of Adam, for the logarithms of the steps
WEIGHT_SHARE = 2.0


def choose(setting: Setting) -> Choice:
    """The least sum of learned steps.

    Costs 3 passes over 32 samples, 32 times for each candidate and for one more: 12 passes over 1024 samples with
    three candidates.
    """
    return best_by(setting, scores_of(setting, learned(setting)))


def learned(setting: Setting, updates: int = UPDATES) -> dict[str, Tensor]:
    """The steps of all quantizers after training, by the name of their buffer in the model."""
    start = {f"{name}.step": quantizer.step for name, quantizer in quantizers(setting).items()}
    logs = {name: step.detach().log().requires_grad_() for name, step in start.items()}
    optimizer = torch.optim.Adam(logs.values(), RATE)
    generator = np.random.default_rng(setting.seed)
    plan = setting.plan
    for inputs, target in setting.training_batches(BATCH, updates):
        random = tuple(int(generator.integers(len(options))) for options in plan.candidates)
        optimizer.zero_grad()
        for choice in [*uniform(plan), random]:
            setting.network.configure(plan.configuration(choice))
            output = setting.call(inputs, {name: log.exp() for name, log in logs.items()})
            torch.autograd.backward(measure(setting.loss, target, output, inputs).mean())
            setting.passes += (1 + BACKWARD) * inputs.samples / setting.samples
        optimizer.step()
    return {name: log.detach().exp() for name, log in logs.items()}


def quantizers(setting: Setting) -> dict[str, FakeQuantizer]:
    """Those of all layers that have steps, by name."""
    modules = setting.network.model.named_modules()
    return {name: each for name, each in modules if isinstance(each, FakeQuantizer) and each.choices}


def scores_of(setting: Setting, steps: dict[str, Tensor]) -> Scores:
    """Activation step + 2 x weight step, summed over the layers of each unit; of a matmul, its operands' steps."""
    scores, names = setting.no_scores(), {each: name for name, each in quantizers(setting).items()}

    def step(quantizer: Quantizer, bits: int) -> float:
        if bits == FLOAT_BITS:
            return 0.0
        if isinstance(quantizer, ShareQuantizer):
            return float(quantizer.steps_of(bits).double().mean())
        assert isinstance(quantizer, FakeQuantizer)
        return float(steps[f"{names[quantizer]}.step"][quantizer.choices.index(bits)].double().mean())

    for unit, _, layer in setting.layers():
        for candidate, (weight, activation) in enumerate(setting.plan.candidates[unit]):
            scores[unit, candidate] += sum(step(each, activation) for each in layer.activation_quantizers)
            if isinstance(layer, QuantizedLayer):
                scores[unit, candidate] += WEIGHT_SHARE * step(layer.weight_quantizer, weight)
    return scores
