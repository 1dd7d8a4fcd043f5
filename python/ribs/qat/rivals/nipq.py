"""Noise in the place of rounding, whose width depends smoothly on the bits.

Source: Shin et al., NIPQ: Noise Proxy-Based Integrated Pseudo-Quantization, CVPR 2023.

Weights and activations are clipped to a learned range, and uniform noise as wide as a step is added, (high - low) /
(2^bits - 1). NIPQ learns the bits of weights and activations apart, each a sigmoid between 2 and 14; here the bits of a
unit lie between those of its candidates, as all other methods' do, and its price is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FakeQuantizer, code_range
from ribs.select.rivals.relaxed import Mix
from ribs.select.rivals.setting import Setting


def noisy(x: Tensor, low: Tensor, high: Tensor, bits: Tensor) -> Tensor:
    """clip(x, low, high) + U(-1/2, 1/2) (high - low) / (2^bits - 1), with gradients by all four."""
    noise = torch.rand_like(x) - 0.5
    return torch.clamp(x, low, high) + noise * (high - low) / (2**bits - 1)


class Noise:
    """A network with noise in the place of rounding.

    parameters: for each quantizer the logarithm of its range, over the range that was calibrated at the most bits.

    Raises: ValueError for softmax outputs at uneven levels, whose rounding such noise is not like.
    """

    def __init__(self, setting: Setting) -> None:
        self._quantizers: list[tuple[int, bool, FakeQuantizer]] = []  # with the unit, and whether it rounds weights
        for unit, name, layer in setting.layers():
            if isinstance(layer, QuantizedLayer):
                self._quantizers.append((unit, True, layer.weight_quantizer))
            for quantizer in layer.activation_quantizers:
                if not isinstance(quantizer, FakeQuantizer):
                    raise ValueError(f"[learn_bits] method='nipq' has no noise for the uneven levels entering {name!r}")
                self._quantizers.append((unit, False, quantizer))
        device = setting.network.device
        self.parameters = [nn.Parameter(torch.zeros((), device=device)) for _ in self._quantizers]
        self._candidates = setting.plan.candidates

    @contextmanager
    def within(self, mixes: Sequence[Mix]) -> Iterator[None]:
        """Within, each quantizer adds the noise of the mean bits of its unit."""
        try:
            for (unit, of_weights, quantizer), reach in zip(self._quantizers, self.parameters, strict=True):
                options = self._candidates[unit]
                terms = [share * options[k][0 if of_weights else 1] for k, share in mixes[unit]]
                quantizer.forward = _with_noise(quantizer, reach, torch.stack(terms).sum())  # type: ignore[method-assign]
            yield
        finally:
            for _, _, quantizer in self._quantizers:
                quantizer.__dict__.pop("forward", None)


def _with_noise(quantizer: FakeQuantizer, reach: Tensor, bits: Tensor) -> Callable[..., Tensor]:
    most = max(quantizer.choices)
    index, codes = quantizer.choices.index(most), code_range(most, quantizer.symmetric)
    step, zero_point = quantizer.step[index], quantizer.zero_point[index]

    def forward(x: Tensor) -> Tensor:
        shape = [-1 if dim == quantizer.axis else 1 for dim in range(x.dim())]
        low, high = (((code - zero_point) * step * reach.exp()).reshape(shape).to(x) for code in codes)
        return noisy(x, low, high, bits.to(x))

    return forward
