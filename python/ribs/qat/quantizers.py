"""Quantizers whose steps are parameters, in the place of those that were calibrated.

LSQ is Esser et al., Learned Step Size Quantization (2019); LSQ+ Bhalgat et al. (2020); nuLSQ DensoITLab's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ribs import ops
from ribs.quant.fold import norm_scale
from ribs.quant.quantizer import FakeQuantizer, ShareQuantizer, code_range

SMALLEST = 2.0**-10  # of a step, as a share of what it was at first


def learned(step: Tensor, floor: Tensor, scale: float) -> Tensor:
    """The step, at least its floor, with the scaled gradient that LSQ gives it (section 2.2), below the floor too.

    An optimizer may take a step to zero and beyond; so it is still usable, and comes back.
    """
    return torch.maximum(step.detach(), floor) + (step - step.detach()) * scale


def in_float32(x: Tensor) -> bool:
    """Whether the operators take x in float32 only, as on a CPU under autocast."""
    return x.device.type != "cuda" and x.dtype in (torch.float16, torch.bfloat16)


class Learned(FakeQuantizer):
    """Levels at equal distances whose step is learned, at one bit-width.

    step: a parameter, [1] per tensor or [1, channels] along `axis`.
    floor: like it, the least that is used.
    decays: whether weight decay is for the step too.
    """

    learns = True
    decays = False
    floor: Tensor

    def __init__(self, quantizer: FakeQuantizer, axis: int | None, step: Tensor, zero_point: Tensor) -> None:
        super().__init__(symmetric=quantizer.symmetric, axis=axis)
        del self.step
        self.step = nn.Parameter(step.detach().clone()[None])
        self.register_buffer("floor", self.step.detach() * SMALLEST)
        self.zero_point = zero_point.clone()[None]
        self.choose(quantizer.bits)

    def choose(self, bits: int) -> None:
        """Round to other bits from now on, with the same step."""
        self.choices, self.bits, self.range = (bits,), bits, code_range(bits, self.symmetric)

    @torch.no_grad()
    def set_steps(self, choices: Sequence[int], step: Tensor, zero_point: Tensor) -> None:
        """Begin anew at one bit-width; the parameter stays the same object."""
        [bits] = choices
        self.choose(bits)
        self.step.copy_(step)
        self.floor.copy_(step * SMALLEST)
        self.zero_point.copy_(zero_point)

    @property
    def present(self) -> tuple[Tensor, Tensor]:
        return torch.maximum(self.step.detach(), self.floor)[0], self.zero_point[0]

    def scale(self, features: int) -> float:
        """The scale of the step's gradient for so many values (LSQ, section 2.2)."""
        return 1 / math.sqrt(max(features, 1) * max(self.range[1], 1))


class LearnedWeights(Learned):
    """Of the weights of a layer, rounded before the batch norm that follows scales them.

    norm: that batch norm. Where its weight is negative, folding turns the sign of a channel, and the codes of n bits
        reach further down than up: such channels are rounded with the other sign, so that folding changes no code.
    channel_axis: the dimension of output channels, whether they have steps of their own or not.
    """

    def __init__(self, quantizer: FakeQuantizer, axis: int | None, step: Tensor, norm: _BatchNorm | None) -> None:
        super().__init__(quantizer, axis, step, torch.zeros_like(step, dtype=torch.int32))
        self.channel_axis = quantizer.axis
        self._norm = (norm,)  # in a tuple, so that it is no submodule of this one too

    @property
    def norm(self) -> _BatchNorm | None:
        return self._norm[0]

    def rounded(self, x: Tensor) -> Tensor:
        features = x.numel() if self.axis is None else x.numel() // x.shape[self.axis]
        signs = self._signs
        # As [1] or [channels], by views, whose gradients copy nothing.
        parts = self.step, self.zero_point, self.floor
        step, zero_point, floor = parts if self.axis is None else (each.view(-1) for each in parts)
        axis = self.axis if signs is None else self.channel_axis
        return ops.fake_quantize(
            x, step, zero_point, *self.range, axis, floor=floor, signs=signs, scale=self.scale(features)
        )

    def steps(self, weight: Tensor) -> Tensor:
        """Those of the weights, to be multiplied with them."""
        step = self.present[0]
        return step if self.axis is None else step.reshape(_along(self.axis, weight))

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        """[like weights] int16: how many steps each is rounded to."""
        codes: Tensor = (self(weight) / self.steps(weight)).round()
        return codes.to(torch.int16)

    def limits(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest value that weights are rounded to."""
        low, high = (each * self.steps(weight) for each in self.range)
        if self._signs is None:
            return low, high
        turned = self._signs.reshape(_along(self.channel_axis, weight)) < 0
        return torch.where(turned, -high, low), torch.where(turned, -low, high)

    @property
    def _signs(self) -> Tensor | None:
        """A number for each channel, negative where folding the norm turns its sign."""
        norm = self._norm[0]
        return None if norm is None else norm.weight

    def fixed_for(self, weight: Tensor) -> FakeQuantizer:
        """The quantizer of these weights once the norm is folded into them, with a step for each channel."""
        made = FakeQuantizer(symmetric=True, axis=self.channel_axis)
        step = self.present[0].double()
        if self.channel_axis is not None:
            step = step.expand(weight.shape[self.channel_axis])
        if self.norm is not None:
            scale = norm_scale(self.norm).abs()
            step = torch.where(scale > 0, step * scale, 1.0)
        made.set_steps((self.bits,), step.to(weight.dtype)[None], torch.zeros_like(step, dtype=torch.int32)[None])
        made.set_bits(self.bits)
        return made


def _along(axis: int | None, weight: Tensor) -> list[int]:
    """The shape of a value for each index of an axis."""
    return [-1 if dim == axis else 1 for dim in range(weight.dim())]


class LearnedActivations(Learned):
    """Of what enters a product.

    offset: for LSQ+ a parameter, [1]: the value of code 0, which is rounded to a whole number of steps, so that zero
        stays exact. None for LSQ, whose zero point stays.
    """

    offset: nn.Parameter | None

    def __init__(self, quantizer: FakeQuantizer, *, learn_offset: bool) -> None:
        step, zero_point = quantizer.present
        super().__init__(quantizer, quantizer.axis, step.reshape(-1)[0], zero_point.reshape(-1)[0])
        offset = -self.zero_point * self.step.detach()
        self.register_parameter("offset", nn.Parameter(offset) if learn_offset else None)

    @torch.no_grad()
    def set_steps(self, choices: Sequence[int], step: Tensor, zero_point: Tensor) -> None:
        super().set_steps(choices, step, zero_point)
        if self.offset is not None:
            self.offset.copy_(-self.zero_point * self.step)

    @property
    def present(self) -> tuple[Tensor, Tensor]:
        # Not by super(), where torch.compile does not find properties.
        step = torch.maximum(self.step.detach(), self.floor)[0]
        if self.offset is None:
            return step, self.zero_point[0]
        return step, (-self.offset.detach()[0] / step).round().clamp(*self.range).int()

    def rounded(self, x: Tensor) -> Tensor:
        if in_float32(x):
            return self.rounded(x.float()).to(x.dtype)
        scale = self.scale(x.numel() // max(len(x), 1))  # the features of a sample, whatever the batch
        step, floor = self.step, self.floor
        if self.offset is None:
            return ops.fake_quantize(x, step, self.zero_point, *self.range, floor=floor, scale=scale)
        zero_point = self.present[1]
        # Zero, with the gradients of LSQ+ for what is out of range: 1 of the offset, and of the step what the offset,
        # a number of steps in fake_quantize, adds to the code.
        moved = ((self.offset - self.offset.detach()) + (step - step.detach()) * zero_point) * scale
        return ops.fake_quantize(x - moved, step, zero_point[None], *self.range, floor=floor, scale=scale) + moved

    def fixed(self) -> FakeQuantizer:
        """The same quantizer, with what was learned."""
        made = FakeQuantizer(symmetric=False)
        step, zero_point = self.present
        made.set_steps((self.bits,), step.clone()[None], zero_point.clone()[None])
        made.set_bits(self.bits)
        return made


class LearnedShares(ShareQuantizer):
    """Of softmax outputs, with all the steps of its levels learned (nuLSQ), or the one of log-sqrt2.

    step: a parameter, [levels - 1] or [1].  floor: like it, the least that is used.
    """

    floor: Tensor

    def __init__(self, quantizer: ShareQuantizer) -> None:
        super().__init__(quantizer.levels)
        step = quantizer.steps_of(quantizer.bits)
        del self.step
        self.step = nn.Parameter(step.detach().clone())
        self.register_buffer("floor", self.step.detach() * SMALLEST)
        self.choices, self.bits = (quantizer.bits,), quantizer.bits

    def rounded(self, x: Tensor) -> Tensor:
        if in_float32(x):
            return self.rounded(x.float()).to(x.dtype)
        scale = 1 / math.sqrt(max(x.numel() // max(len(x), 1), 1) * (2**self.bits - 1))
        step = learned(self.step, self.floor, scale)
        if self.levels == "nonuniform":
            return ops.fake_quantize_nonuniform(x, step)
        return ops.fake_quantize_log_sqrt2(x, step, self.bits)

    def fixed(self) -> ShareQuantizer:
        """The same quantizer, with what was learned."""
        made = ShareQuantizer(self.levels)
        made.set_steps((self.bits,), [torch.maximum(self.step.detach(), self.floor)])
        made.set_bits(self.bits)
        return made
