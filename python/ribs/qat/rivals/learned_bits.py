"""Bits that are learned together with the weights, as real numbers between neighbouring bit-widths.

Source: Yang and Jin, FracBits: Mixed Precision Quantization via Fractional Bit-Widths, AAAI 2021; and for noise in the
place of rounding NIPQ, `ribs.qat.rivals.nipq`.

As in `ribs.select.rivals.fracbits`, the output of a layer lies between its outputs at the two candidates nearest to its
bits, and 10 times the share by which the interpolated cost is over the budget is added to the loss. Here that is the
cross entropy of the labels, and weights and norms are trained at the same time, over as many epochs as are given. Steps
stay the calibrated ones. Of what was learned the bits are kept; the papers go on from the weights, and here they are
trained from the float ones, by LSQ, as at all other bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ribs.qat.groups import parameter_groups
from ribs.qat.objective import Objective, labels_of
from ribs.qat.prepare import train_what_trained
from ribs.qat.rivals.nipq import Noise
from ribs.qat.run import import_accelerate, seed_all
from ribs.qat.training import Training
from ribs.quant.copies import unwrap
from ribs.quant.inputs import Inputs, as_inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.budget import Budget
from ribs.select.cost import Configuration
from ribs.select.loss import kl_divergence
from ribs.select.rivals.fracbits import RATE, between, first_positions, keep_inside, take
from ribs.select.rivals.relaxed import PRICE, Mix, excess, relaxed
from ribs.select.rivals.setting import Setting
from ribs.select.setup import set_up

BitsMethod = Literal["fracbits", "nipq"]
Between = Callable[[Sequence[Mix]], AbstractContextManager[None]]
RANGE_RATE = 0.005  # of the logarithms of ranges


def learn_bits(
    model: nn.Module,
    loader: Iterable[Any],
    budget: Budget,
    *,
    method: BitsMethod = "fracbits",
    training: Training | None = None,
    bits: Iterable[int] = range(2, 9),
    calibration_samples: int = 1024,
) -> Configuration:
    """Learn the bits of every layer within a budget while the network trains, by SGD for weights and Adam for bits.

    model, loader: as for `ribs.qat.fit`, with labels.
    budget, bits, calibration_samples: as for `ribs.search`.
    method: what a network has at real numbers of bits: "fracbits", what lies between its outputs, or "nipq", noise.
    training: its epochs, lr, momentum, weight_decay, label_smoothing and seed are used; by default `Training()`.

    Returns: {layer: (weight bits, activation bits)} for `ribs.qat.fit`: the candidates nearest to what was learned, by
    an integer program.

    Runs in this process alone. Raises: as `ribs.search` and `ribs.qat.fit`; ValueError for a loss that is NaN or
    infinite.
    """
    if method not in get_args(BitsMethod):
        raise ValueError(f"[learn_bits] method={method!r} is not supported; give one of {get_args(BitsMethod)}")
    training, model = Training() if training is None else training, unwrap(model)
    objective = Objective(replace(training, features=()), None)
    import_accelerate().Accelerator(cpu=next(model.parameters()).device.type == "cpu")  # which seeding asks for
    seed_all(loader, training.seed, -1)
    objective.check(model, next(iter(loader)))
    setting = trainable(model, loader, budget, bits, calibration_samples)
    positions = first_positions(setting).requires_grad_()
    noise = Noise(setting) if method == "nipq" else None
    within: Between = functools.partial(relaxed, setting) if noise is None else noise.within
    groups = parameter_groups(setting.network.model, lr=training.lr, weight_decay=training.weight_decay)
    optimizers = torch.optim.SGD(groups, momentum=training.momentum), torch.optim.Adam([positions], RATE)
    if noise is not None:
        optimizers[1].add_param_group({"params": noise.parameters, "lr": RANGE_RATE})
    for epoch in range(training.epochs):
        seed_all(loader, training.seed, epoch)
        for batch in loader:
            inputs, labels = as_inputs(model, batch).to(setting.network.device), labels_of(batch)
            assert labels is not None
            loss = loss_between(setting, positions, within, objective, inputs, labels.to(setting.network.device))
            if not bool(loss.isfinite()):
                raise ValueError(f"[learn_bits] the loss is {loss.item()} in epoch {epoch}; give a lower learning rate")
            for optimizer in optimizers:
                optimizer.zero_grad()
            torch.autograd.backward(loss)
            for optimizer in optimizers:
                optimizer.step()
            keep_inside(setting, positions)
    return setting.plan.configuration(take(setting, positions.detach()))


def trainable(
    model: nn.Module, loader: Iterable[Any], budget: Budget, bits: Iterable[int], calibration_samples: int
) -> Setting:
    """A choice to be made for a network in training mode, with live batch norms."""
    setup = set_up(
        model,
        loader,
        [budget],
        units="layer",
        calibration_samples=calibration_samples,
        bits=bits,
        activation_bits=None,
        pins=None,
        allowed=None,
        ties=None,
        target=None,
    )
    [plan] = setup.plans
    network = prepare(model, setup.batches[0], "layer", training=True)
    calibrate(network, setup.batches, plan.bit_widths)
    train_what_trained(network.model, model)
    network.model.train()
    return Setting(network, setup.batches, plan, kl_divergence)


def loss_between(
    setting: Setting, positions: Tensor, within: Between, objective: Objective, inputs: Inputs, labels: Tensor
) -> Tensor:
    """Cross entropy between candidates + 10 x excess over the budget, of which bits and weights have gradients."""
    mixes = between(setting, positions)
    with within(mixes):
        loss = objective(inputs.call(setting.network.model), inputs, labels)
    return loss + PRICE * excess(setting, mixes).to(loss)
