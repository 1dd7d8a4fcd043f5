"""The task loss of a quantized network on any inputs, such as some that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from ribs.quant.copies import unwrap
from ribs.quant.inputs import Inputs, read
from ribs.quant.skip import check_training
from ribs.select.loss import TaskLoss, check_loss, kl_divergence, measure
from ribs.select.result import Result
from ribs.select.sampling import standard_error


@dataclass(frozen=True)
class Evaluation:
    """loss: mean task loss.  standard_error: of that mean; NaN for one sample.  samples: how many."""

    loss: float
    standard_error: float
    samples: int

    def __str__(self) -> str:
        return f"task loss {self.loss:.6g} +- {self.standard_error:.2g} of {self.samples} samples"


def evaluate(
    model: nn.Module,
    quantized: nn.Module | Result,
    loader: Iterable[Any],
    *,
    loss: TaskLoss = kl_divergence,
    samples: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """How far a quantized network is from the float one on inputs of your own; no labels are needed.

    The loss of a result is that of the calibration set, on which its bits were chosen as the best of hundreds, and so
    lower than on other inputs. On inputs that were not in the calibration set this is what to expect.

    model: in float, in eval mode.  quantized: a result, its model, or any network with the same inputs and outputs.
    loader: as for `ribs.search`; batches are read one at a time, and not kept.
    loss: as for `ribs.search`.  samples: the first so many; all by default.  progress: show a bar.

    Raises: TypeError or ValueError for batches that cannot be read, no samples, fewer than one asked for, a network in
        training mode, networks on different devices, and float outputs of which the loss is not finite.
    """
    check_loss(loss)
    if samples is not None and samples < 1:
        raise ValueError(f"[evaluate] samples={samples} is not allowed; give at least 1, or None for all")
    networks = unwrap(model), unwrap(quantized.model if isinstance(quantized, Result) else quantized)
    for network in networks:
        check_training(network)
    reference, other = networks
    device = next(reference.parameters()).device
    # A network of integers, such as one from a file, may have no parameters.
    theirs = next((tensor.device for tensor in (*other.parameters(), *other.buffers())), device)
    if device != theirs:
        raise ValueError(f"[evaluate] the model is on {device} and the quantized one on {theirs}; move one with .to()")
    found = []
    with tqdm(total=samples, desc="evaluating", unit="sample", disable=not progress) as bar:
        for losses in losses_on(reference, other, read(reference, loader, samples), loss):
            found.append(losses)
            bar.update(len(losses))
    if not found:
        raise ValueError("[evaluate] the loader yielded no samples")
    each = np.concatenate(found)
    return Evaluation(float(each.mean()), standard_error(each), len(each))


@torch.no_grad()
def losses_on(
    model: nn.Module, quantized: nn.Module, batches: Iterable[Inputs], loss: TaskLoss
) -> Iterator[NDArray[np.float64]]:
    """[samples] task losses of each batch, measured on the device of the float model.

    Raises: ValueError for float outputs of which the loss is not finite.
    """
    device = next(model.parameters()).device
    for number, batch in enumerate(batches):
        inputs = batch.to(device)
        target = inputs.call(model)
        if not bool(measure(loss, target, target, inputs).isfinite().all()):
            raise ValueError(f"[ribs] the float model's output for batch {number} holds NaN or Inf")
        yield measure(loss, target, inputs.call(quantized), inputs).double().cpu().numpy()
