"""A learned clipping value of activations, whose gradient is that of clipped values alone.

Source: Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018, equations 1 to 3.

PACT clips what follows a ReLU to 0..alpha, and has alpha / (2^bits - 1) for the step. Here the step is the parameter;
it moves as alpha / (2^bits - 1) does where gradient descent moves alpha, and weight decay is PACT's regularisation of
alpha. Activations with values below zero have a zero point and are clipped on both sides, with one alpha for the width
of the range. Weights are those of LSQ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ribs import ops
from ribs.qat.quantizers import LearnedActivations, in_float32
from ribs.quant.quantizer import FakeQuantizer


class ClippedActivations(LearnedActivations):
    """The activations of a layer, at equal distances up to a learned clipping value."""

    decays = True

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__(quantizer, learn_offset=False)

    def rounded(self, x: Tensor) -> Tensor:
        if in_float32(x):
            return self.rounded(x.float()).to(x.dtype)
        step, zero_point = self.present
        low, high = (bound - zero_point for bound in self.range)
        # The code that clipped values have, and 0 for the others; that of alpha itself counts as clipped (equation 3).
        clipped = torch.where(x.detach() >= high * step, high, 0) + torch.where(x.detach() < low * step, low, 0)
        # A step's derivative is its code; over (2^bits - 1)^2, that of alpha, divided as alpha is.
        moving = (self.step - self.step.detach())[0] / self.range[1] ** 2
        return ops.fake_quantize(x, step, zero_point, *self.range) + clipped.to(x.dtype) * moving
