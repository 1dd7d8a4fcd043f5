"""A distribution over the candidates of each unit, learned by gradients through samples of it.

Source: Wu et al., Mixed Precision Quantization of ConvNets via Differentiable Neural Architecture Search, 2018: the
output of a layer is the sum of its candidates' outputs weighted by a Gumbel softmax, whose temperature falls.

Here the weights stay as they are, what is learned for is the logarithm of the task loss plus 10 times the share by
which the expected cost is over the budget, and instead of samples of the distribution an integer program takes its most
probable configuration within the budgets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ribs.select.rivals.relaxed import Mix, train
from ribs.select.rivals.setting import Setting, best_by
from ribs.select.samples import Choice

UPDATES, RATE = 200, 0.05
FIRST_TEMPERATURE, LAST_TEMPERATURE = 5.0, 0.5


def choose(setting: Setting) -> Choice:
    """The largest product of the candidates' probabilities.

    Costs 3 passes over 32 samples for each candidate, 200 times: 56 passes over 1024 samples with three candidates.
    """
    logits = learned(setting)
    scores = setting.no_scores()
    for unit, options in enumerate(setting.plan.candidates):
        scores[unit, : len(options)] = -logits[unit, : len(options)].log_softmax(dim=0).numpy()
    return best_by(setting, scores)


def learned(setting: Setting, updates: int = UPDATES) -> Tensor:
    """[units, candidates] float64 logits, all 0 at first; padding stays 0."""
    logits = torch.zeros(setting.plan.allowed.shape, dtype=torch.float64, requires_grad=True)
    generator = setting.generator()

    def sampled(update: int) -> Sequence[Mix]:
        fall = update / max(1, updates - 1)
        temperature = FIRST_TEMPERATURE * (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** fall
        uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        return shares(setting, logits - (-uniform.log()).log(), temperature)

    train(setting, logits, sampled, updates, RATE)
    return logits.detach()


def shares(setting: Setting, logits: Tensor, temperature: float) -> Sequence[Mix]:
    """All candidates of each unit, by the softmax of logits / temperature."""
    mixes: list[Mix] = []
    for row, options in zip(logits, setting.plan.candidates, strict=True):
        soft = (row[: len(options)] / temperature).softmax(dim=0)
        mixes.append(list(enumerate(soft)))
    return mixes
