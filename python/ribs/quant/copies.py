"""Copies of a caller's model, which is never changed itself."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ribs.quant.skip import Reasons
from ribs.quant.tree import tensors

OF_TORCH = frozenset(vars(nn.Module())) - {"training"}  # parameters, buffers, submodules and hooks


def unwrap(model: nn.Module) -> nn.Module:
    """The model within `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Where only parts of it are wrapped, a copy without these wrappers that shares the parameters and buffers.
    """
    while (inner := _within(model)) is not None:
        model = inner
    wrappers = [module for module in model.modules() if _within(module) is not None]
    if not wrappers:
        return model
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    for wrapper in reversed(wrappers):  # the inner ones first
        memo[id(wrapper)] = copy.deepcopy(_within(wrapper), memo)
    return copy.deepcopy(model, memo)


def _within(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps."""
    name = "module" if isinstance(module, (DataParallel, DistributedDataParallel)) else "_orig_mod"
    return module._modules.get(name)


def copy_model(model: nn.Module, *, data: bool = True) -> tuple[nn.Module, Reasons]:
    """A deep copy without gradients, and the modules that hold what cannot be copied, which the copy shares.

    data: False puts it on the meta device, and never copies a tensor.
    """

    def place(tensor: Tensor) -> Tensor:
        return tensor.detach().clone() if data else tensor.detach().to("meta")

    held = {name: {k: v for k, v in vars(m).items() if k not in OF_TORCH} for name, m in model.named_modules()}
    # Weights that torch.nn.utils.weight_norm and the like make of parameters and keep, which deepcopy refuses.
    memo: dict[int, Any] = {id(each): place(each) for each in tensors(list(held.values())) if not each.is_leaf}
    if not data:
        memo.update((id(each), nn.Parameter(place(each), requires_grad=False)) for each in model.parameters())
        memo.update((id(each), place(each)) for each in model.buffers())
    try:
        return copy.deepcopy(model, dict(memo)).requires_grad_(False), {}
    except Exception:
        reasons: Reasons = {}
        apart = memo | {id(each): each for each in (*model.modules(), *model.parameters(), *model.buffers())}
        for name, attributes in held.items():
            for attribute, value in attributes.items():
                try:
                    copy.deepcopy(value, dict(apart))
                except Exception as error:
                    reasons[name] = f"its {attribute} cannot be copied ({error})"
                    memo[id(value)] = value
        if not reasons:
            raise
        return copy.deepcopy(model, memo).requires_grad_(False), reasons
