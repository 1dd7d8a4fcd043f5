"""Against weights that go back and forth between two codes, which few bits and depthwise layers suffer from.

After Nagel et al., Overcoming Oscillations in Quantization-Aware Training (2022), sections 4.1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ribs.qat.quantizers import LearnedWeights
from ribs.quant.layers import QuantizedLayer

MOMENTUM = 0.01  # of the running means, as in the paper


def dampening(network: nn.Module) -> Tensor:
    """The sum over all weights of the squared distance to the value that each is rounded to, where it is not clipped.

    network: what `ribs.qat.prepare` returned. To be added to the loss, times a number; its gradient is that of weights
        alone. Weights that a layer computes or shares with what is none have no part in it.
    """
    total = next(network.parameters()).new_zeros(())
    for _, weight, quantizer in _weights(network):
        low, high = quantizer.limits(weight)
        values = quantizer(weight.detach()).detach()
        total = total + (values - torch.clamp(weight, low, high)).square().sum()
    return total


class Freezing:
    """Holds weights at one code once they oscillate too often.

    A weight oscillates in a step where its code changes in the other direction than the last time. When the running
    mean of that exceeds the threshold, the weight stays at the running mean of its codes, rounded.

    network: what `ribs.qat.prepare` returned.  threshold: a frequency, 0..1.
    Raises: ValueError for another threshold.
    """

    def __init__(self, network: nn.Module, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"[Freezing] threshold={threshold} is not supported; a frequency lies in 0..1, above 0")
        self.network, self.threshold = network, threshold
        self._state: dict[str, dict[str, Tensor]] = {}
        for name, weight, quantizer in _weights(network):
            codes = quantizer.integers(weight)
            mean = codes.float()
            self._state[name] = {
                "codes": codes,
                "direction": torch.zeros_like(codes),
                "frequency": torch.zeros_like(mean),
                "mean": mean,
                "frozen": torch.zeros_like(codes, dtype=torch.bool),
            }

    @property
    def share(self) -> float:
        """The share of weights that are frozen."""
        frozen = [each["frozen"] for each in self._state.values()]
        return sum(int(each.sum()) for each in frozen) / max(sum(each.numel() for each in frozen), 1)

    @torch.no_grad()
    def step(self) -> None:
        """To be called after each step of the optimizer."""
        for name, weight, quantizer in _weights(self.network):
            state = self._state[name]
            frozen, old = state["frozen"], state["codes"]
            codes = torch.where(frozen, old, quantizer.integers(weight))
            change = (codes - old).sign()
            oscillates = change * state["direction"] < 0
            state["direction"] = torch.where(change == 0, state["direction"], change)
            state["frequency"].lerp_(oscillates.float(), MOMENTUM)
            state["mean"].lerp_(codes.float(), MOMENTUM)
            new = (state["frequency"] > self.threshold) & ~frozen
            state["codes"] = torch.where(new, state["mean"].round().to(codes.dtype), codes)
            state["frozen"] = frozen | new
            weight.copy_(torch.where(state["frozen"], state["codes"] * quantizer.steps(weight), weight))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {name: dict(each) for name, each in self._state.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        for name, each in self._state.items():
            for part, value in each.items():
                each[part] = state[name][part].to(value.device)


def _weights(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, LearnedWeights]]:
    """The weights that layers multiply as they are, with their quantizers, by the names of the layers."""
    for name, layer in network.named_modules():
        if isinstance(layer, QuantizedLayer) and isinstance(layer.weight_quantizer, LearnedWeights):
            weight = None if layer.layer is None else layer.layer._parameters.get("weight")
            if weight is not None and weight.requires_grad:
                yield name, weight, layer.weight_quantizer
