"""The squared error of each layer's output, weighted by the squared gradient of the loss.

Source: the "gradient" method of NVIDIA Model Optimizer's AutoQuantize: the score of a layer at a candidate is
sum (gradient x (Q(Y) - Y))^2 over its outputs, with the gradient of the float network, and an integer program chooses.

Without labels, the loss is the cross entropy to labels drawn from the float network's own output, whose mean squared
gradient is the diagonal of the Fisher matrix. The input of the layer is quantized too, and is otherwise in float.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.running import Apart
from ribs.select.loss import find_tensor
from ribs.select.rivals.setting import BACKWARD, FLOAT, Scores, Setting, best_by
from ribs.select.samples import Choice


def choose(setting: Setting) -> Choice:
    """The least sum of weighted errors. Costs 3 passes, and one for each candidate."""
    return best_by(setting, scores_of(setting))


def scores_of(setting: Setting) -> Scores:
    """Mean over samples, summed over the layers of each unit.

    Raises: TypeError for outputs that are not [samples, classes] logits.
    """
    setting.in_float()
    generator, scores = setting.generator(), setting.no_scores()
    zero = torch.zeros((), device=setting.network.device, requires_grad=True)

    def watch(unit: int) -> Any:
        def after(layer: QuantizedLayer | QuantizedMatmul, args: tuple[Any, ...], output: Tensor) -> Tensor:
            # What follows may work in place.
            args = tuple(each.detach().clone() if isinstance(each, Tensor) else each for each in args)
            expected = output.detach().clone()

            def add(gradient: Tensor) -> None:
                for candidate, bits in enumerate(setting.plan.candidates[unit]):
                    layer.set_bits(*bits)
                    with torch.no_grad():
                        error = layer.forward(*args).double() - expected
                    scores[unit, candidate] += float((gradient * error).square().sum()) / setting.samples
                layer.set_bits(*FLOAT)

            with Apart():  # no sum of the network's
                watched = output + zero  # gradients begin here, whether or not those of the input are recorded
            watched.register_hook(add)
            return watched

        return after

    handles = [layer.register_forward_hook(watch(unit)) for unit, _, layer in setting.layers()]
    try:
        for inputs in setting.batches():
            logits = find_tensor(inputs.call(setting.network.model), getattr(setting.loss, "at", None))
            loss = F.cross_entropy(logits, own_labels(logits, generator), reduction="sum")
            torch.autograd.grad(loss, zero)
    finally:
        for handle in handles:
            handle.remove()
    setting.passes += 1 + BACKWARD + max(map(len, setting.plan.candidates))
    return scores


def own_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """[samples] classes drawn from the softmax of [samples, classes] logits."""
    if logits.dim() != 2:
        raise TypeError(
            f"[fisher] the model's output is a {tuple(logits.shape)} tensor, not [samples, classes] logits; choose "
            "another method"
        )
    probabilities = logits.detach().double().softmax(dim=1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
