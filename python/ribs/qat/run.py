"""The loop of `ribs.qat.fit`: steps, epochs, and what it takes to go on from one."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ribs.qat.checkpoint import Epoch, Folder
from ribs.qat.groups import parameter_groups
from ribs.qat.objective import Objective, labels_of
from ribs.qat.oscillation import Freezing, dampening
from ribs.qat.prepare import find_origin
from ribs.qat.recalibrate import choose_bits, recalibrate
from ribs.quant.inputs import as_inputs
from ribs.quant.network import Bits
from ribs.select.loss import find_tensor

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def import_accelerate() -> Any:
    """Raises: ImportError that says how to install it."""
    try:
        return import_module("accelerate")
    except ImportError as error:
        raise ImportError('training needs accelerate: pip install "ribs-quant[train]"') from error


def seed_all(loader: Any, seed: int, epoch: int) -> None:
    """Have all that is random in an epoch depend on nothing but the seed and its number.

    Processes share the order of samples, and but for epoch -1, before training, nothing else.
    """
    value = (seed * 0x9E3779B1 + epoch) % 2**31  # a process adds its number
    import_accelerate().utils.set_seed(value, device_specific=epoch >= 0)
    batches = getattr(loader, "batch_sampler", None)
    for part in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        if isinstance(generator := getattr(part, "generator", None), torch.Generator):
            generator.manual_seed(value)
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(epoch)


class Run:
    """A network in training.

    model: the float network, which tells what of a batch the network takes.
    history: the epochs so far.
    best: the state of the network after the best of them, on the CPU; None without a validation set.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        loader: Iterable[Any],
        objective: Objective,
        accelerator: Any,
        make_optimizer: MakeOptimizer | None,
        *,
        calibration_samples: int,
    ) -> None:
        self.model, self.network, self.objective, self.accelerator = model, network, objective, accelerator
        self.training = facts = objective.training
        groups = parameter_groups(network, lr=facts.lr, step_lr=facts.step_lr, weight_decay=facts.weight_decay)
        made = make_optimizer(groups) if make_optimizer else torch.optim.SGD(groups, momentum=facts.momentum)
        self._rates = [group["lr"] for group in made.param_groups]
        self.average = None
        if facts.ema is not None:
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(facts.ema))
        self.wrapped, self.optimizer = accelerator.prepare(network, made)
        self.freezing = None if facts.freezing is None else Freezing(network, facts.freezing)
        self.calibration, self.calibration_samples = loader, calibration_samples
        self.loader = self._share(loader)
        self.history: list[Epoch] = []
        self.best: dict[str, Any] | None = None
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self._statistics = [each for norm in norms for each in norm.buffers()]

    @property
    def kept(self) -> nn.Module:
        """The network that is evaluated and returned: the average, where there is one."""
        return self.network if self.average is None else self.average.module

    def resume(self, folder: Folder) -> None:
        """Go on from the last state of a folder, if it has one."""
        state = folder.read()
        if state is None:
            return
        self.history = [Epoch(**each) for each in state["history"]]
        for network in self._networks():
            choose_bits(network, self._bits(len(self.history) - 1))
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.freezing is not None:
            self.freezing.load_state_dict(state["freezing"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.best = folder.read_best() if self._ranked() else None

    def train(self, folder: Folder, validation: Iterable[Any] | None, *, progress: bool) -> None:
        """Make the epochs that are left; raises ValueError where too many steps in a row are skipped."""
        validation = None if validation is None else self._share(validation)
        for number in range(len(self.history), self.training.epochs):
            if self.training.least_bits(number) != (self.training.least_bits(number - 1) if number else 1):
                self._begin_stage(number)
            seed_all(self.loader, self.training.seed, number)
            loss, skipped = self._epoch(number, progress)
            self._agree_on_statistics()
            accuracy = None if validation is None else self._accuracy(validation)
            reached = max(self._ranked(), default=-1.0)
            self.history.append(Epoch(number, loss, skipped, accuracy))
            better = max(self._ranked(), default=-1.0) > reached
            if better:
                self.best = {name: each.detach().cpu().clone() for name, each in self.kept.state_dict().items()}
            if self.accelerator.is_main_process:
                folder.write(self._state(), self.history, best=self.best if better else None)
            self.accelerator.wait_for_everyone()

    def finished(self) -> nn.Module:
        """The best network, or the last."""
        network = self.accelerator.unwrap_model(self.wrapped)
        # Autocast, which accelerate's own way of removing leaves a method where the forward was none.
        if (forward := network.__dict__.pop("_original_forward", None)) is not None:
            network.forward = forward
        if self.best is not None:
            self.kept.load_state_dict(self.best)
        return self.kept

    def _ranked(self) -> list[float]:
        """The accuracies of the epochs at the bits of the end."""
        last = [each for each in self.history if self.training.least_bits(each.number) == 1]
        return [each.accuracy for each in last if each.accuracy is not None]

    def _networks(self) -> list[nn.Module]:
        return [self.network] if self.average is None else [self.network, self.average.module]

    def _bits(self, epoch: int) -> dict[str, Bits]:
        """Those of every unit in an epoch."""
        least = self.training.least_bits(epoch)
        bits = find_origin("fit", self.network).bits
        return {unit: (max(weight, least), max(activation, least)) for unit, (weight, activation) in bits.items()}

    def _begin_stage(self, epoch: int) -> None:
        """Go to the bits of an epoch; what is known of codes and averages begins anew."""
        seed_all(self.calibration, self.training.seed, -1)  # all processes see the same samples
        bits = self._bits(epoch)
        recalibrate(self.network, self.calibration, bits, calibration_samples=self.calibration_samples)
        if self.average is not None:
            choose_bits(self.average.module, bits)
            self.average.module.load_state_dict(self.network.state_dict())
        if self.freezing is not None:
            self.freezing = Freezing(self.network, self.freezing.threshold)

    def _epoch(self, number: int, progress: bool) -> tuple[float, int]:
        """The mean loss of the steps made, and how many were not."""
        self.wrapped.train()
        total, made, skipped, in_a_row = 0.0, 0, 0, 0
        label = f"epoch {number + 1} of {self.training.epochs}"
        bar = tqdm(self.loader, label, unit="batch", disable=not progress, file=sys.stderr)
        with self.objective.watch(self.network), bar:
            for index, batch in enumerate(bar):
                done = (number + index / len(self.loader)) / self.training.epochs
                self._set_rates(done)
                loss, good = self._step(batch, done)
                if good:
                    total, made, in_a_row = total + loss, made + 1, 0
                    bar.set_postfix_str(f"loss {total / made:.4g}", refresh=False)
                    continue
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if in_a_row > self.training.most_skipped:
                    raise ValueError(
                        f"[fit] the gradients of {in_a_row} steps in a row are NaN or infinite, in epoch {number}; "
                        "give a lower learning rate, or clip=1.0 (a folder keeps the state before the epoch)"
                    )
        return total / max(made, 1), skipped

    def _step(self, batch: Any, done: float) -> tuple[float, bool]:
        """The loss, and whether the step was made."""
        before = [each.clone() for each in self._statistics]
        device = self.accelerator.device
        inputs, labels = as_inputs(self.model, batch).to(device), labels_of(batch)
        loss = self.objective(inputs.call(self.wrapped), inputs, None if labels is None else labels.to(device))
        if self.training.dampening > 0:
            rising = self.training.dampening * (1 - math.cos(math.pi * done)) / 2
            loss = loss + rising * dampening(self.network)
        self.accelerator.backward(loss)
        # The gradients are those of all processes, so that all decide alike.
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.training.clip or math.inf)
        good = bool(norm.isfinite())
        if good or self.accelerator.scaler is not None:  # which skips the step as well, and scales less
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not good:
            for each, old in zip(self._statistics, before, strict=True):
                each.copy_(old)
            return loss.item(), False
        if self.freezing is not None:
            self.freezing.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.item(), True

    def _agree_on_statistics(self) -> None:
        """Have all processes take the statistics of batch norms that the first has seen."""
        if self.accelerator.num_processes == 1:
            return
        for each in self._statistics:
            torch.distributed.broadcast(each, 0)
        if self.average is not None:
            for mine, each in zip(self.average.module.buffers(), self.network.buffers(), strict=True):
                mine.copy_(each)

    def _set_rates(self, done: float) -> None:
        """done: the share of the training that lies behind."""
        epochs, warm_up = self.training.epochs, self.training.warm_up
        factor = (1 + math.cos(math.pi * done)) / 2
        if done * epochs < warm_up:
            factor = done * epochs / warm_up
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    @torch.no_grad()
    def _accuracy(self, validation: Iterable[Any]) -> float:
        """Top-1 in percent."""
        self.kept.eval()
        device = self.accelerator.device
        right = []
        for batch in validation:
            inputs, labels = as_inputs(self.model, batch).to(device), labels_of(batch)
            if labels is None:
                raise ValueError("[fit] validation yields no labels; give batches of (inputs, labels)")
            found = find_tensor(inputs.call(self.kept)).argmax(-1) == labels.to(device)
            right.append(self.accelerator.gather_for_metrics(found).float())
        return 100 * float(torch.cat(right).mean())

    def _state(self) -> dict[str, Any]:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(each) for each in self.history],
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.freezing is not None:
            state["freezing"] = self.freezing.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def _share(self, loader: Iterable[Any]) -> Any:
        """What this process reads of a loader."""
        if isinstance(loader, DataLoader):
            return self.accelerator.prepare(loader)
        if self.accelerator.num_processes > 1:
            raise ValueError(f"[fit] a {type(loader).__name__} cannot be shared by processes; give a DataLoader")
        return loader
