"""How far noise of the size of rounding moves the outputs of a quantized network: what no runtime can be blamed for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ribs.io.export.weights import shift
from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FLOAT_BITS, Quantizer
from ribs.quant.tree import tensors

DRAWS = 16
ROUNDING = 1e-4  # of the largest value of a tensor: what sums in another order may change
NOISE = 1e-6  # of the same, what is added to each tensor: several times what sums are usually off


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Between two lists of tensors alike; NaN where one of them holds it."""
    pairs = zip(found, expected, strict=True)
    return max(float((a.double() - b.double()).abs().max()) if a.numel() else 0.0 for a, b in pairs)


def noise_floor(network: nn.Module, inputs: Inputs, outputs: list[Tensor], integer: Collection[str] = ()) -> float:
    """How far the outputs move at most when what enters the quantizers is changed as rounding may change it."""
    return max(largest_difference(found, outputs) for found in under_noise(network, inputs, integer))


def under_noise(network: nn.Module, inputs: Inputs, integer: Collection[str] = ()) -> Iterator[list[Tensor]]:
    """The outputs of each draw of noise of the size of rounding, in what enters the quantizers.

    integer: the quantizers of weights whose layers have their biases changed too, by up to half of the smallest
        difference of sums of products of integers.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(x: Tensor) -> Tensor:
        return torch.rand(x.shape, generator=generator) * 2 - 1

    def blur(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return args[0] + noise(args[0]) * (NOISE * args[0].abs().max())

    layers = [network.get_submodule(path.rpartition(".")[0]) for path in integer]
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, Quantizer) and module.bits != FLOAT_BITS:
                stack.enter_context(module.register_forward_pre_hook(blur))
        for _ in range(DRAWS):
            with ExitStack() as biases:
                for layer in layers:
                    assert isinstance(layer, QuantizedLayer)
                    biases.enter_context(_moved_bias(layer, noise))
                yield tensors(inputs.call(network))


@contextmanager
def _moved_bias(layer: QuantizedLayer, noise: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, the bias of a layer is another by up to half of the smallest difference of sums, for each channel."""
    bias, inputs, weights = getattr(layer.layer, "bias", None), layer.input_quantizer, layer.weight_quantizer
    if bias is None or FLOAT_BITS in (inputs.bits, weights.bits):
        yield
        return
    before = bias.clone()
    smallest = inputs.present[0].max() * weights.present[0] / 2 ** shift(weights.bits)
    bias.add_(noise(bias) * smallest / 2)
    try:
        yield
    finally:
        bias.copy_(before)
