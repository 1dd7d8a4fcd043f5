"""Linear layers in the forms of compressed-tensors and torchao, which have places for weights of 1 to 8 bits."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ribs import ops
from ribs.io.errors import ExportError
from ribs.io.export.sites import Weights, find_sites
from ribs.io.tensors import WORD, other_tensors, quantized_layers
from ribs.quant.copies import copy_model, unwrap
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import code_range
from ribs.select.result import Result


@torch.no_grad()
def compressed_tensors(result: Result, model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint in compressed-tensors' format "pack-quantized".

    Layers of type `nn.Linear` are packed, unless something else reads their weights. All else is in float, activations
    too; weights of other quantized layers have their quantized values.
    model: the float model that was searched. It is not changed.
    Returns: (config, tensors). config: the `quantization_config` of the model's config.json, with a group of layers for
        each bit-width. tensors: the checkpoint, on the CPU. Of a packed layer `name` it has `name.weight_packed`, int32
        [out, words], each row a dense stream, the least significant bit first, filled up with zeros to whole words;
        `name.weight_scale`, float32 [out, 1]; and `name.weight_shape`, int64 [2]. All else is there by the names of
        `model.state_dict()`.
    Raises: ExportError for a network without such layers, and for one whose other parameters are not those of the
        model: norms that were folded into layers, outputs that a recipe adds to, weights that are held in the place of
        computed ones.
    """
    linears, tensors = _state("compressed_tensors", result, model)
    groups: dict[int, list[str]] = {}
    for name, site in linears.items():
        unsigned = (site.codes.to(torch.int16) - code_range(site.bits, True)[0]).to(torch.uint8)
        del tensors[site.name]
        tensors[f"{site.name}_packed"] = ops.pack_bits(unsigned, site.bits, align=WORD).view(torch.int32)
        tensors[f"{site.name}_scale"] = site.step.reshape(-1, 1).clone()
        tensors[f"{site.name}_shape"] = torch.tensor(site.codes.shape)
        groups.setdefault(site.bits, []).append(name)
    in_float = [name for name, module in unwrap(model).named_modules() if isinstance(module, nn.Linear)]
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {f"int{bits}": _group(bits, names) for bits, names in sorted(groups.items())},
        "ignore": [name for name in in_float if name not in linears],
    }
    return config, tensors


@torch.no_grad()
def torchao_model(result: Result, model: nn.Module) -> nn.Module:
    """A copy of the model whose linear layers have torchao's integer weights, `IntxUnpackedToInt8Tensor`.

    Their codes and steps are the network's, so that they dequantize to its weights to the last bit. The layers are
    those that `compressed_tensors` packs; all else is in float as there.
    model: the float model that was searched. It is not changed.
    Returns: the copy, on the CPU, in eval mode.
    Raises: ExportError as `compressed_tensors`; ImportError without torchao (the extra `torchao`).
    """
    try:
        integers = import_module("torchao.quantization").IntxUnpackedToInt8Tensor
    except ImportError:
        raise ImportError('[torchao_model] needs torchao: pip install "ribs-quant[torchao]"') from None
    linears, tensors = _state("torchao_model", result, model)
    for site in linears.values():
        step = site.step.reshape(-1, 1).clone()
        tensors[site.name] = integers(
            qdata=site.codes,
            scale=step,
            zero_point=torch.zeros_like(step, dtype=torch.int8),
            target_dtype=getattr(torch, f"int{site.bits}"),
            block_size=(1, site.codes.shape[1]),
            dtype=step.dtype,
            activation_quantization=None,
        )
    copy = copy_model(unwrap(model))[0].cpu().eval()
    copy.load_state_dict(tensors, assign=True)
    return copy


def _group(bits: int, names: list[str]) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    return {"targets": names, "weights": weights}


def _state(function: str, result: Result, model: nn.Module) -> tuple[dict[str, Weights], dict[str, Tensor]]:
    """The linear layers by name, and the state of the model with the values of the network."""
    network, seen = result.model, result.costs.trace
    sites = find_sites(network)
    layers = {n: each for n, each in quantized_layers(network, seen).items() if isinstance(each, QuantizedLayer)}
    state = unwrap(model).state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    values = other_tensors(network, {}, seen)
    # Of a tensor with several names only one is there.
    same = {name: values[known] for group in names.values() for known in group if known in values for name in group}
    values = {name: tensor.detach().cpu().clone() for name, tensor in (same | values).items()}
    _check_same(function, values, state)
    weights = {f"{name}.weight" if name else "weight" for name in layers}
    linears: dict[str, Weights] = {}
    for name, layer in layers.items():
        path = f"{name}.weight_quantizer" if name else "weight_quantizer"
        site = sites.get(path)
        read = set(seen.sources[name]) & set(seen.otherwise)
        # Weights that are read elsewhere too must have another name there, as an embedding's in a last layer have.
        free = layer.layer is not None and all(set(names[id(state[each])]) - weights for each in read & state.keys())
        if isinstance(site, Weights) and free and layer.plain and type(layer.layer) is nn.Linear:
            linears[name] = site
        elif layer.held is not None:
            raise ExportError(
                f"[{function}] the network holds weights of {name!r} that no parameter of the model is; skip that "
                'layer, or give the result of a search with recipe="mse", not a loaded one'
            )
        elif isinstance(site, Weights) and free and layer.has_own_weight:
            values[site.name] = layer.quantized_weight().detach().cpu().clone()
    if not linears:
        raise ExportError(f"[{function}] the network has no linear layers whose weights are quantized; nothing to pack")
    return linears, values


def _check_same(function: str, values: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Raise unless what the network has is what the model has."""
    if unknown := sorted(state.keys() ^ values.keys()):
        owner = "model" if unknown[0] in state else "network"
        raise ExportError(
            f"[{function}] only the {owner} has {unknown[0]!r}; give the model that was searched, without batch norms "
            'that are folded into layers, and a result of recipe="mse" where another one adds biases'
        )
    for name, tensor in state.items():
        if values[name].shape != tensor.shape:
            raise ExportError(
                f"[{function}] {name!r} is {list(tensor.shape)} in the model and {list(values[name].shape)} in the "
                "network; give the model that was searched"
            )
