"""From steps for each channel after a layer norm to one step, without changing what the network computes in float.

RepQ-ViT (arXiv 2212.08254, section 3.2), with a rounded zero point: every code of an activation is the one that the
steps by channel gave, so that only the rounding of weights, whose columns are scaled, is another. Scaled once before
bits are chosen (`scale_norms`), they hardly change in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

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

    Where steps are found by outputs, the shift is taken back as the rounded weights multiply it: what comes out is what
    came out by channel, but for columns that round anew, and the float function stays where weights are in float.
    network: calibrated, changed in place; those inputs then have steps for these bits alone.
    configuration: {unit name: (weight bits, activation bits)}.
    batches: of the calibration set. Linears that read one layer norm at different bits share the scaling of the
        fewest bits; the others' steps are found anew, in a pass over these.
    """
    network.configure(configuration)
    left: list[tuple[str, QuantizedLayer, int]] = []
    shifts: list[tuple[QuantizedLayer, Tensor]] = []
    found = False
    for norm, readers in _by_channel(network):
        found = True
        shift, others = _reparameterize(network, norm, readers)
        if shift is not None:
            shifts += [(reader, shift) for reader in readers.values()]
        left += others
    if left:
        _find_steps(network, left, batches)
        network.configure(configuration)
    if network.recipe.outputs:
        for reader, shift in shifts:
            _add(reader, _times(reader, reader.multiplied - reader.quantized_weight(), shift))
    return found


@torch.no_grad()
def scale_norms(network: QuantizedNetwork) -> None:
    """Make the steps after layer norms as equal over the channels as one scale for all bit-widths can.

    The float function stays, and so do all codes of activations; weights round as they will when the network is
    reparameterized, so that losses are those of networks as they end, but for what the bit-widths differ in.
    network: calibrated, changed in place.
    """
    for norm, readers in _by_channel(network):
        lead = next(iter(readers.values())).input_quantizer  # all have the same steps, since they read the same
        steps, live = lead.step.double(), _live(lead)
        relative = (steps / steps[:, live].mean(1, keepdim=True)).log().mean(0).exp()
        scale = torch.where(live, relative, 1.0)
        _move(network, norm, readers, scale)
        for reader in readers.values():
            quantizer = reader.input_quantizer
            quantizer.set_steps(quantizer.choices, (quantizer.step / scale).float(), quantizer.zero_point)


def _by_channel(network: QuantizedNetwork) -> Iterator[tuple[nn.Module, dict[str, QuantizedLayer]]]:
    """Layer norms whose readers have steps by channel, with these by name."""
    for norm, names in network.trace.norms.items():
        modules = {name: network.model.get_submodule(name) for name in names}
        readers = {name: module for name, module in modules.items() if isinstance(module, QuantizedLayer)}
        if not all(reader.input_quantizer.is_per_tensor for reader in readers.values()):
            yield network.model.get_submodule(norm), readers


def _reparameterize(
    network: QuantizedNetwork, norm: nn.Module, readers: dict[str, QuantizedLayer]
) -> tuple[Tensor | None, list[tuple[str, QuantizedLayer, int]]]:
    """One layer norm and its readers; returns the shift, and which steps are to be found anew, with their bits."""
    least = min(reader.input_quantizer.bits for reader in readers.values())
    lead = next(reader.input_quantizer for reader in readers.values() if reader.input_quantizer.bits == least)
    if least == FLOAT_BITS:
        return None, []
    step, scale, shift, zero_point = _target(lead)
    _move(network, norm, readers, scale, shift)
    left = []
    for name, reader in readers.items():
        quantizer = reader.input_quantizer
        bits = quantizer.bits
        quantizer.axis = None
        if bits == least:
            quantizer.set_steps((bits,), step, zero_point)
        elif bits != FLOAT_BITS:
            left.append((name, reader, bits))
    return shift, left


def _move(
    network: QuantizedNetwork,
    norm: nn.Module,
    readers: Mapping[str, QuantizedLayer],
    scale: Tensor,
    shift: Tensor | None = None,
) -> None:
    """Divide the output of a layer norm by the scale and add the shift, and take both back in its readers.

    Weights that the network computes, or reads in other ways too, stay as they are there: the reader holds its own.
    """
    assert isinstance(norm, nn.LayerNorm)
    weight = torch.ones_like(scale) if norm.weight is None else norm.weight.double()
    norm.weight = _parameter(weight / scale)
    if norm.bias is not None or shift is not None:
        bias = torch.zeros_like(scale) if norm.bias is None else norm.bias.double() / scale
        norm.bias = _parameter(bias if shift is None else bias + shift)
    for name, reader in readers.items():
        outputs_first = reader.weight_quantizer.axis == 0
        weight = reader.multiplied.double() * (scale if outputs_first else scale[:, None])
        if reader.has_own_weight and set(network.trace.sources[name]).isdisjoint(network.trace.otherwise):
            assert reader.layer is not None
            reader.layer.weight = _parameter(weight)
        else:
            reader.hold(weight.float())
        if name in network.rows:
            network.rows[name] = network.rows[name] / scale.float()
        find_weight_steps(network, name, reader, reader.weight_quantizer.choices)
        if shift is not None:
            _add(reader, -_times(reader, reader.multiplied, shift))


def _times(reader: QuantizedLayer, weight: Tensor, shift: Tensor) -> Tensor:
    """What weights of a linear make of a vector [in], in float64."""
    return (weight if reader.weight_quantizer.axis == 0 else weight.T).double() @ shift


def _add(reader: QuantizedLayer, bias: Tensor) -> None:
    """Add a bias of float64 to what a layer gives."""
    layer = reader.layer
    if layer is None or not reader.own_forward:  # which may have a bias that no parameter is
        reader.add(bias.float())
    else:
        layer.bias = _parameter(bias if layer.bias is None else layer.bias.double() + bias)


def _target(quantizer: FakeQuantizer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The one step [1], the scale [channels] by which the layer norm is divided, what it is shifted by, zero point [1].

    With s, z the means of the steps s_c and zero points z_c of the channels, the scale is s_c / s and the shift
    s (z_c - z).
    """
    steps, zero_points = (each.double() for each in quantizer.present)
    live = _live(quantizer)
    step = steps[live].mean()
    zero_point = zero_points[live].mean().round()
    scale = torch.where(live, steps / step, 1.0)
    shift = torch.where(live, step * (zero_points - zero_point), 0.0)
    return step.float().reshape(1), scale, shift, zero_point.int().reshape(1)


def _live(quantizer: FakeQuantizer) -> Tensor:
    """[channels] bool: those that are zero throughout have a step of 1, whatever the others have."""
    live = (quantizer.step != 1).any(0)
    return live if bool(live.any()) else ~live


def _find_steps(
    network: QuantizedNetwork, left: Sequence[tuple[str, QuantizedLayer, int]], batches: Iterable[Inputs]
) -> None:
    """Steps of inputs as the float network produces them."""
    find = RANGES[network.recipe.activations]
    network.set_float()
    observe(network, [StepAverage(name, (bits,), reader.input_quantizer, find) for name, reader, bits in left], batches)


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float(), requires_grad=False)
