"""Noise at the network's output from each unit alone quantized, all others in float.

Source: Pandey et al., A Practical Mixed Precision Algorithm for Post-Training Quantization, 2023, whose sensitivity is
the signal-to-quantization-noise ratio of the network's output. Here an integer program takes the place of its greedy
search, over noise / signal: noises of independent errors add up, decibels do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ribs.quant.tree import tensors
from ribs.select.rivals.setting import Setting, best_by
from ribs.select.samples import Choice


def choose(setting: Setting) -> Choice:
    """The least sum of noise over signal. Costs about a pass for each candidate of each unit."""
    return best_by(setting, setting.alone(noise_over_signal))


def noise_over_signal(reference: Any, output: Any) -> Tensor:
    """||reference - output||^2 / ||reference||^2 of each sample, over all tensors of the output: [samples] float64."""
    pairs = [
        (a.double().flatten(1), b.double().flatten(1)) for a, b in zip(tensors(reference), tensors(output), strict=True)
    ]
    signal = torch.stack([a.square().sum(1) for a, _ in pairs]).sum(0)
    noise = torch.stack([(a - b).square().sum(1) for a, b in pairs]).sum(0)
    return noise / signal.clamp(min=torch.finfo(torch.float64).tiny)
