"""The tensors of a quantized network as they are saved: weights as packed codes, all others as they are.

Of a layer `name` with quantized weights there are `name.weight_packed`, int32 [1, words], its codes counted from the
smallest that its bits have, in one dense stream, the least significant bit first, filled up with zeros to whole words;
`name.weight_scale`, float32 [channels], its steps; and, where codes do not lie around zero, `name.weight_zero_point`,
uint8 [channels]. All others have the names that they have in the float model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ribs import ops
from ribs.io.content import SavedLayer, SavedWeight
from ribs.io.errors import FormatError
from ribs.io.quantizers import save_quantizer
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer, Steps, code_range
from ribs.quant.trace import Trace

WORD = 4  # bytes
Quantized = dict[str, QuantizedLayer | QuantizedMatmul]


def quantized_layers(network: nn.Module, seen: Trace) -> Quantized:
    """The quantized layers and matmuls by name, in the order in which they run."""
    modules = dict(network.named_modules())
    found: Quantized = {}
    for layer in seen.layers:
        module = modules[layer.name]
        assert isinstance(module, (QuantizedLayer, QuantizedMatmul))
        found[layer.name] = module
    return found


def save_layers(layers: Quantized, seen: Trace) -> tuple[dict[str, SavedLayer], dict[str, Tensor]]:
    """How each layer is quantized, and the packed weights by name, with those held in float.

    Raises: TypeError for quantizers that cannot be saved.
    """
    saved: dict[str, SavedLayer] = {}
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        weight = None
        if isinstance(layer, QuantizedLayer):
            held = not layer.has_own_weight or not set(seen.sources[name]).isdisjoint(seen.otherwise)
            weight, packed = _pack(layer, held)
            tensors |= {_tensor(name, part): tensor for part, tensor in packed.items()}
        saved[name] = SavedLayer(weight, tuple(map(save_quantizer, layer.activation_quantizers)))
    return saved, tensors


def packed_shapes(saved: Mapping[str, SavedLayer]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The types and shapes of the packed weights."""
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, layer in saved.items():
        if (weight := layer.packed) is not None:
            words = -(-math.prod(weight.shape) * weight.bits // (8 * WORD))
            channels = 1 if weight.axis is None else weight.shape[weight.axis]
            shapes[_tensor(name, "weight_packed")] = torch.int32, (1, words)
            shapes[_tensor(name, "weight_scale")] = torch.float32, (channels,)
            if not weight.symmetric:
                shapes[_tensor(name, "weight_zero_point")] = torch.uint8, (channels,)
        elif layer.weight is not None and layer.weight.held:
            shapes[_tensor(name, "held")] = torch.float32, layer.weight.shape
    return shapes


def unpack(
    layers: Quantized, saved: Mapping[str, SavedLayer], tensors: Mapping[str, Tensor], device: torch.device
) -> None:
    """Put packed weights in their places. Raises: FormatError for steps and codes that no quantizer gives."""
    for name, layer in layers.items():
        if not isinstance(layer, QuantizedLayer):
            continue
        described = saved[name].weight
        assert described is not None
        layer.weight_quantizer.symmetric = described.symmetric
        if (weight := saved[name].packed) is not None:
            step = tensors[_tensor(name, "weight_scale")]
            zero_point = tensors.get(_tensor(name, "weight_zero_point"), torch.zeros_like(step)).int()
            values = _values(name, weight, tensors[_tensor(name, "weight_packed")], (step, zero_point))
            _put_weight(layer, weight, values.to(device), (step.to(device), zero_point.to(device)))
            layer.rounded = True
        elif _tensor(name, "held") in tensors:
            layer.hold(tensors[_tensor(name, "held")].to(device))


def other_tensors(network: nn.Module, saved: Mapping[str, SavedLayer], seen: Trace) -> dict[str, Tensor]:
    """What is not packed, by the names of the float model: parameters and the buffers of its state_dict.

    Of a tensor with several names only the first is there; of those that packed weights were made of, only what
    something else reads.
    Raises: ValueError for a name that a packed tensor has.
    """
    packed = {name: weight for name, layer in saved.items() if (weight := layer.packed) is not None}
    replaced = {id(network.get_submodule(name)) for name, weight in packed.items() if not weight.held}
    found: dict[str, Tensor] = {}
    for name, tensor in _walk(network, replaced):
        found.setdefault(name, tensor)
    in_float = {source for name, sources in seen.sources.items() if name not in packed for source in sources}
    gone = {source for name in packed for source in seen.sources[name]} - in_float - set(seen.otherwise)
    done = {id(found[name]) for name in gone & found.keys()}
    others: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if id(tensor) not in done:
            others[name] = tensor
            done.add(id(tensor))
    added = {
        _tensor(name, "added"): layer.added
        for name, layer in network.named_modules()
        if isinstance(layer, QuantizedLayer) and layer.added is not None
    }
    if doubled := others.keys() & {**packed_shapes(saved), **added}.keys():
        raise ValueError(f"[save] the model's {min(doubled)!r} has the name of packed weights; rename it")
    return {**others, **added}


def empty_places(network: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The parameters that modules could have and do not, such as a bias, by their names in the float model.

    Where steps by channel were taken out of an input, the network that was saved may have got them. `added` of layers
    is among them.
    """
    added = {
        _tensor(name, "added"): (layer, "added")
        for name, layer in network.named_modules()
        if isinstance(layer, QuantizedLayer)
    }
    return added | {
        _tensor(path, name): (module, name)
        for path, module, _ in _modules(network, "")
        for name, parameter in module._parameters.items()
        if parameter is None
    }


def _walk(network: nn.Module, replaced: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network by their names in the float model, without those of quantizers and replaced weights."""
    for path, module, owner in _modules(network, ""):
        buffers = {
            name: each for name, each in module._buffers.items() if name not in module._non_persistent_buffers_set
        }
        for name, tensor in {**module._parameters, **buffers}.items():
            if tensor is not None and not (owner in replaced and name == "weight"):
                yield _tensor(path, name), tensor


def _modules(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module, int | None]]:
    """The modules of the float model by their names in it; of layers also the id of the quantized layer around it."""
    owner = None
    if isinstance(module, QuantizedLayer):
        if module.layer is None:
            return
        module, owner = module.layer, id(module)
    yield path, module, owner
    for name, child in module.named_children():
        if not isinstance(child, (Quantizer, QuantizedMatmul)):
            yield from _modules(child, _tensor(path, name))


def _pack(layer: QuantizedLayer, held: bool) -> tuple[SavedWeight, dict[str, Tensor]]:
    quantizer = layer.weight_quantizer
    if quantizer.bits == FLOAT_BITS and layer.held is None:
        return SavedWeight(FLOAT_BITS, False, quantizer.symmetric, quantizer.axis, (), ()), {}
    if quantizer.bits == FLOAT_BITS:
        weight = layer.multiplied.detach()
        shape, stride = tuple(weight.shape), weight.stride()
        return SavedWeight(FLOAT_BITS, True, quantizer.symmetric, quantizer.axis, shape, stride), {"held": weight}
    step, zero_point = quantizer.present
    if type(quantizer) is not FakeQuantizer or (quantizer.symmetric and bool(zero_point.any())):
        raise TypeError("[save] weights with levels of their own, or zero points of signed codes, cannot be saved")
    codes = quantizer.codes(layer.multiplied.detach())  # in memory they lie as quantized weights do
    least = code_range(quantizer.bits, quantizer.symmetric)[0]
    unsigned = (codes.to(torch.int16) - least).to(torch.uint8).reshape(1, -1)
    words = ops.pack_bits(unsigned, quantizer.bits, align=WORD).view(torch.int32)
    shape, stride = tuple(codes.shape), codes.stride()
    saved = SavedWeight(quantizer.bits, held, quantizer.symmetric, quantizer.axis, shape, stride)
    tensors = {"weight_packed": words, "weight_scale": step.detach().reshape(-1)}
    if not quantizer.symmetric:
        tensors["weight_zero_point"] = zero_point.to(torch.uint8).reshape(-1)
    return saved, tensors


def _values(name: str, saved: SavedWeight, packed: Tensor, steps: Steps) -> Tensor:
    """The values of packed codes, in memory as they were.

    Quantized again they are the same codes, and so the same values: the product of a code and its step is rounded by
    far less than half of a step.
    """
    try:
        codes = ops.unpack_bits(packed.view(torch.uint8), saved.bits, math.prod(saved.shape), align=WORD)
    except ValueError as error:
        raise FormatError(f"[load] the weights of {name!r} are damaged: {error}") from None
    least, most = code_range(saved.bits, saved.symmetric)
    along = [-1 if dim == saved.axis else 1 for dim in range(len(saved.shape))]
    step, zero_point = (each.reshape(along) for each in steps)
    signed = codes.reshape(saved.shape).float() + least - zero_point
    values = torch.empty_strided(saved.shape, saved.stride, dtype=torch.float32).copy_(signed * step)
    if bool((zero_point > most).any()):
        raise FormatError(f"[load] the zero points of the weights of {name!r} are not among their codes")
    if not bool((step > 0).all()) or not bool(step.isfinite().all()) or not bool(values.isfinite().all()):
        raise FormatError(f"[load] the steps of the weights of {name!r} are not positive and finite")
    return values


def _put_weight(layer: QuantizedLayer, saved: SavedWeight, values: Tensor, steps: Steps) -> None:
    if saved.held:
        layer.hold(values)
    else:
        assert layer.layer is not None
        layer.layer.weight = nn.Parameter(values, requires_grad=False)
    step, zero_point = (each.reshape(1, *([] if saved.axis is None else [-1])) for each in steps)
    layer.weight_quantizer.set_steps((saved.bits,), step, zero_point)
    layer.weight_quantizer.set_bits(saved.bits)


def _tensor(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
