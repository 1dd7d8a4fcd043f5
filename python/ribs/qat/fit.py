"""`ribs.qat.fit`: a ready training loop, for those who have none."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ribs.qat.checkpoint import Epoch, Folder
from ribs.qat.finish import finish
from ribs.qat.objective import Objective
from ribs.qat.prepare import Method, find_origin, prepare
from ribs.qat.run import MakeOptimizer, Run, import_accelerate, seed_all
from ribs.qat.training import Training
from ribs.quant.copies import unwrap
from ribs.select.cost import AnyBits
from ribs.select.result import Result


@dataclass(frozen=True)
class Fitted:
    """What training gave.

    result: the network of the best epoch on the validation set, or of the last without one.
    history: by epoch.
    """

    result: Result
    history: tuple[Epoch, ...]


def fit(
    model: nn.Module,
    loader: Iterable[Any],
    bits: Result | AnyBits | str | os.PathLike[str],
    *,
    training: Training | None = None,
    teacher: nn.Module | None = None,
    validation: Iterable[Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    method: Method = "lsq",
    per_channel: bool = False,
    calibration_samples: int = 1024,
    optimizer: MakeOptimizer | None = None,
    accelerator: Any = None,
    progress: bool = True,
) -> Fitted:
    """Train a network of a float model at given bits, with the labels of a loader, a teacher, or both.

    model: float32, in eval mode, on the device to train on; it is never changed.
    loader: of batches as for `ribs.search`, with labels: (inputs, labels), or a dict with "labels". It is read once an
        epoch, so it must be a DataLoader or a list. Its first samples show the steps to begin with.
    bits: a `Result`, or as for `ribs.quantize`.
    training: how long and how fast; by default `Training()`, 90 epochs of SGD as in LSQ.
    teacher: a float network of the same classes, whose outputs are the labels, in the share `training.distillation`.
    validation: like the loader; after each epoch top-1 is measured on it, and the best epoch's network is returned.
    folder: where the last state and the best network are kept, each epoch, with a history. The same call goes on from
        there, after an interruption at any moment, and on a CPU ends with the same network to the last bit.
    method, per_channel, calibration_samples: as for `ribs.qat.prepare`.
    optimizer: f(parameter groups) -> optimizer, in the place of SGD; the groups have learning rates and weight decay.
    accelerator: an `accelerate.Accelerator`, for half precision and the like; by default one for the device of the
        model. Under torchrun all processes make the same call and each trains on its share of a DataLoader.
    progress: show bars.

    A step whose gradients are NaN or infinite is left out and counted, and statistics of batch norms are as before it.
    The random generators of Python, numpy and torch are seeded at the start of each epoch.

    Returns: a `Fitted`; all processes get it.

    Raises: ImportError without accelerate (the extra `train`); ValueError or TypeError for bad input, before training:
        bits that do not fit, labels missing where they are needed, a teacher of other classes, a folder of another run;
        ValueError for more than `training.most_skipped` steps in a row that are left out.
    """
    training = Training() if training is None else training
    model = unwrap(model)
    if accelerator is None:
        accelerator = import_accelerate().Accelerator(cpu=next(model.parameters()).device.type == "cpu")
    if not isinstance(loader, Sized) or len(loader) == 0:
        raise ValueError(f"[fit] the loader, a {type(loader).__name__}, has no length; give a DataLoader or a list")
    if next(model.parameters()).device != accelerator.device:  # as of each process but the first, by default
        model = copy.deepcopy(model).to(accelerator.device)
    objective = Objective(training, _frozen(teacher, accelerator.device))
    seed_all(loader, training.seed, -1)
    objective.check(model, next(iter(loader)))
    network = prepare(
        model, loader, bits, method=method, per_channel=per_channel, calibration_samples=calibration_samples
    )
    run = Run(model, network, loader, objective, accelerator, optimizer, calibration_samples=calibration_samples)
    facts = {
        "bits": find_origin("fit", network).bits,
        "method": method,
        "per_channel": per_channel,
        "training": training,
        "teacher": type(teacher).__name__,
        "batches": len(loader),
        "processes": accelerator.num_processes,
    }
    kept = Folder(folder, {name: str(value) for name, value in facts.items()})
    run.resume(kept)
    run.train(kept, validation, progress=progress and accelerator.is_main_process)
    result = finish(run.finished(), model, loader, calibration_samples=calibration_samples)
    return Fitted(result, tuple(run.history))


def _frozen(teacher: nn.Module | None, device: torch.device) -> nn.Module | None:
    """A copy of the teacher, in eval mode and without gradients."""
    return None if teacher is None else copy.deepcopy(unwrap(teacher)).eval().requires_grad_(False).to(device)
