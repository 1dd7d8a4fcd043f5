"""The parameters of a network in training, as an optimizer takes them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ribs.qat.quantizers import Learned
from ribs.quant.quantizer import Quantizer


def parameter_groups(
    network: nn.Module, *, lr: float, step_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups for any optimizer of torch or timm: weights, norms and biases, steps, and steps of PACT; no empty ones.

    lr: of weights, norms and biases.  step_lr: of the steps and offsets of quantizers; by default lr as well.
    weight_decay: of weights, and of the steps of PACT. It would pull those of LSQ to zero, and norms and biases do
        without as in timm.
    """
    quantizers = [module for module in network.modules() if isinstance(module, Quantizer)]
    steps = {id(each) for module in quantizers for each in module.parameters()}
    decaying = {id(module.step) for module in quantizers if isinstance(module, Learned) and module.decays}
    trained = [each for each in network.parameters() if each.requires_grad]
    others = [each for each in trained if id(each) not in steps]
    step_lr = lr if step_lr is None else step_lr
    groups: list[dict[str, Any]] = [
        {"params": [each for each in others if each.dim() > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [each for each in others if each.dim() <= 1], "lr": lr, "weight_decay": 0.0},
        {
            "params": [each for each in trained if id(each) in steps - decaying],
            "lr": step_lr,
            "weight_decay": 0.0,
        },
        {
            "params": [each for each in trained if id(each) in decaying],
            "lr": step_lr,
            "weight_decay": weight_decay,
        },
    ]
    return [group for group in groups if group["params"]]
