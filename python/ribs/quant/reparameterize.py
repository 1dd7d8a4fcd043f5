"""From steps for each channel after a layer norm to one step, without changing what the network computes in float.

RepQ-ViT (arXiv 2212.08254, section 3.2), with a rounded zero point: every code of an activation is the one that the
steps by channel gave, so that only the rounding of weights, whose columns are scaled, is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.network import Bits, QuantizedNetwork, find_weight_steps, observe
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, StepAverage
from ribs.quant.ranges import RANGES


@torch.no_grad()
def reparameterize(network: QuantizedNetwork, configuration: Mapping[str, Bits], batches: Iterable[Inputs]) -> bool:
    """Choose the bits of all units and give linears after layer norms one step for their input; tells if there are any.

    network: calibrated, changed in place; those inputs then have steps for these bits alone.
    configuration: {unit name: (weight bits, activation bits)}.
    batches: of the calibration set. Linears that read one layer norm at different bits share the scaling of the
        fewest bits; the others' steps are found anew, in a pass over these.
    """
    network.configure(configuration)
    left: list[tuple[str, QuantizedLayer, int]] = []
    found = False
    for norm, names in network.trace.norms.items():
        readers = {name: network.model.get_submodule(name) for name in names}
        by_channel = {name: reader for name, reader in readers.items() if isinstance(reader, QuantizedLayer)}
        if all(reader.input_quantizer.is_per_tensor for reader in by_channel.values()):
            continue
        found = True
        left += _reparameterize(network, network.model.get_submodule(norm), by_channel)
    if left:
        _find_steps(network, left, batches)
        network.configure(configuration)
    return found


def _reparameterize(
    network: QuantizedNetwork, norm: nn.Module, readers: dict[str, QuantizedLayer]
) -> list[tuple[str, QuantizedLayer, int]]:
    """One layer norm and its readers; returns those whose steps are to be found anew, with their bits."""
    assert isinstance(norm, nn.LayerNorm)
    least = min(reader.input_quantizer.bits for reader in readers.values())
    lead = next(reader.input_quantizer for reader in readers.values() if reader.input_quantizer.bits == least)
    if least == FLOAT_BITS:
        return []
    step, scale, shift, zero_point = _target(lead)
    weight = torch.ones_like(scale) if norm.weight is None else norm.weight.double()
    bias = torch.zeros_like(scale) if norm.bias is None else norm.bias.double()
    norm.weight, norm.bias = _parameter(weight / scale), _parameter(bias / scale + shift)
    left = []
    for name, reader in readers.items():
        layer, quantizer = reader.layer, reader.input_quantizer
        assert isinstance(layer, nn.Linear)
        columns = layer.weight.double() * scale
        moved = columns @ shift
        layer.weight = _parameter(columns)
        layer.bias = _parameter(-moved if layer.bias is None else layer.bias.double() - moved)
        find_weight_steps(reader, reader.weight_quantizer.choices, network.recipe)
        bits = quantizer.bits
        quantizer.axis = None
        if bits == least:
            quantizer.set_steps((bits,), step, zero_point)
        elif bits != FLOAT_BITS:
            left.append((name, reader, bits))
    return left


def _target(quantizer: FakeQuantizer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The one step [1], the scale [channels] by which the layer norm is divided, what it is shifted by, zero point [1].

    With s, z the means of the steps s_c and zero points z_c of the channels, the scale is s_c / s and the shift
    s (z_c - z).
    """
    steps, zero_points = (each.double() for each in quantizer.present)
    # Channels that are zero throughout have a step of 1, whatever the others have.
    live = (quantizer.step != 1).any(0)
    live = live if bool(live.any()) else ~live
    step = steps[live].mean()
    zero_point = zero_points[live].mean().round()
    scale = torch.where(live, steps / step, 1.0)
    shift = torch.where(live, step * (zero_points - zero_point), 0.0)
    return step.float().reshape(1), scale, shift, zero_point.int().reshape(1)


def _find_steps(
    network: QuantizedNetwork, left: Sequence[tuple[str, QuantizedLayer, int]], batches: Iterable[Inputs]
) -> None:
    """Steps of inputs as the float network produces them."""
    find = RANGES[network.recipe.activations]
    network.set_float()
    observe(network, [StepAverage(name, (bits,), reader.input_quantizer, find) for name, reader, bits in left], batches)


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float(), requires_grad=False)
