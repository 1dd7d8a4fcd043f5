"""Task losses between the float and the quantized network's outputs: no labels needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TaskLoss = Callable[[Any, Any], Tensor]


def kl_divergence(reference: Any, output: Any) -> Tensor:
    """KL(float || quantized) of softmax outputs at temperature 1 for each sample (RIBS, section 4).

    reference, output: [samples, classes] logits.
    Returns: [samples] float64.
    Raises: TypeError for outputs that are not such tensors.
    """
    for logits in (reference, output):
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
            got = f"a {tuple(logits.shape)} tensor" if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"[kl_divergence] the model's output is {got}, not [samples, classes] logits; pass loss=f where "
                "f(float_output, quantized_output) returns the [samples] losses"
            )
    log_p = torch.log_softmax(reference.double(), dim=1)
    log_q = torch.log_softmax(output.double(), dim=1)
    return torch.sum(log_p.exp() * (log_p - log_q), dim=1)
