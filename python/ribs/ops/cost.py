"""What configurations cost in bit operations and in bits of weights."""

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check, twin
from ribs.ops.build import is_native, on, place
from ribs.ops.twin import ConfigCost


def config_cost(bits: Tensor, macs: Tensor, weights: Tensor) -> ConfigCost:
    """Add up what every configuration costs, exactly.

    Args:
        bits: [configs, layers, 2] of any integer dtype: weight bits and activation bits of each layer.
        macs: [layers], integer: multiply-accumulates of each layer.
        weights: [layers], integer: weights of each layer.

    Returns: `ConfigCost(bops, weight_bits)`, each int64 [configs]: the sum of macs x weight bits x activation
    bits (bit operations), and the sum of weights x weight bits (bits).

    Raises:
        TypeError: a dtype is not an integer one.
        ValueError: shapes or devices do not fit, or a number is negative.
        OverflowError: the total of the layers could exceed int64.
    """
    check.cost_arguments("config_cost", bits, macs, weights)
    if not is_native(bits.device):
        return twin.config_cost(bits, macs, weights)
    configs, layers, _ = bits.shape
    bits, macs, weights = (each.to(torch.int64).contiguous() for each in (bits, macs, weights))
    bops = torch.empty(configs, dtype=torch.int64, device=bits.device)
    weight_bits = torch.empty_like(bops)
    with on(bits.device):
        _core.config_cost(
            bits.data_ptr(),
            macs.data_ptr(),
            weights.data_ptr(),
            bops.data_ptr(),
            weight_bits.data_ptr(),
            configs,
            layers,
            *place(bits.device),
        )
    return ConfigCost(bops, weight_bits)
