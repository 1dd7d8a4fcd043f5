"""What training minimises: the loss of labels, and the divergence from a teacher and from its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribs.qat.features import check_features, distance, seen
from ribs.qat.training import Training
from ribs.quant.inputs import Inputs, as_inputs
from ribs.select.loss import find_tensor

LABELS = ("labels", "label")  # by these names, in a dict


class Objective:
    """A mean over a batch of (1 - d) x cross entropy of the labels + d x T^2 x KL(teacher || network) at temperature T.

    d: the share of the teacher, `Training.distillation`; 0 without one.  T: `Training.temperature`.
    With `Training.features`, their weight x the mean distance to the teacher's besides, where the network is watched.
    """

    def __init__(self, training: Training, teacher: nn.Module | None) -> None:
        self.training, self.teacher = training, teacher
        self.share = 0.0 if teacher is None else training.distillation
        self._own: dict[str, Tensor] = {}

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[None]:
        """Within, features are those of the last forward pass of this network."""
        with seen(network, [own for own, _ in self.training.features]) as self._own:
            yield

    def __call__(self, output: Any, inputs: Inputs, labels: Tensor | None) -> Tensor:
        logits = find_tensor(output).float()
        loss = logits.new_zeros(())
        if self.share < 1:
            assert labels is not None
            loss = loss + (1 - self.share) * F.cross_entropy(
                logits, labels, label_smoothing=self.training.label_smoothing
            )
        pairs = self.training.features
        if self.share == 0 and not pairs:
            return loss
        assert self.teacher is not None
        with torch.no_grad(), seen(self.teacher, [other for _, other in pairs]) as theirs:
            target = find_tensor(inputs.call(self.teacher)).float()
        if self.share > 0:
            t = self.training.temperature
            own, others = F.log_softmax(logits / t, -1), F.log_softmax(target / t, -1)
            loss = loss + self.share * t**2 * F.kl_div(own, others, reduction="batchmean", log_target=True)
        if pairs:
            parts = [distance(self._own[own], theirs[other]) for own, other in pairs]
            loss = loss + self.training.feature_weight * torch.stack(parts).mean()
        return loss

    @torch.no_grad()
    def check(self, model: nn.Module, batch: Any) -> None:
        """Refuse what cannot be trained, by one batch and the float model.

        Raises: ValueError for labels that are missing or not those of the model's classes, and for a teacher of other
            classes or features; TypeError for outputs without [samples, classes] logits.
        """
        inputs = as_inputs(model, batch)
        few = inputs.head(2).to(next(model.parameters()).device)
        pairs = self.training.features
        with seen(model, [own for own, _ in pairs]) as own:
            logits = find_tensor(few.call(model))
        if logits.dim() != 2:
            raise TypeError(f"[fit] the model's output is {tuple(logits.shape)}, not [samples, classes] logits")
        if self.teacher is not None:
            with seen(self.teacher, [other for _, other in pairs]) as theirs:
                target = find_tensor(few.call(self.teacher))
            if target.shape != logits.shape:
                raise ValueError(
                    f"[fit] the teacher's output is {tuple(target.shape)} and the model's {tuple(logits.shape)}; give "
                    "a teacher of the same classes"
                )
            check_features(own, theirs, pairs)
        elif pairs:
            raise ValueError(f"[fit] features={pairs} are those of a teacher, and there is none; give a teacher")
        if self.share == 1:
            return
        labels = labels_of(batch)
        if labels is None:
            raise ValueError(
                "[fit] the loader yields no labels; give batches of (inputs, labels) or a dict with 'labels', or a "
                "teacher with distillation=1"
            )
        if labels.shape != (inputs.samples,) or labels.is_floating_point():
            raise ValueError(f"[fit] labels are {labels.dtype} {tuple(labels.shape)}; give one integer a sample")
        if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
            raise ValueError(
                f"[fit] labels lie in {int(labels.min())}..{int(labels.max())}, and the model has {logits.shape[1]} "
                "classes"
            )


def labels_of(batch: Any) -> Tensor | None:
    """The labels of a loader's batch: the second item of a tuple or list, or those of a dict."""
    found = None
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in LABELS if name in batch), None)
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        found = batch[1]
    return found if isinstance(found, Tensor) else None
