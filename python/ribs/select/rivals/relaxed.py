"""Networks between candidates: every layer's output is a mix of what its candidates give, for learning the bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.running import Apart
from ribs.select.loss import measure
from ribs.select.rivals.setting import BACKWARD, Setting

Mix = list[tuple[int, Tensor]]  # (candidate, share), for one unit
BATCH = 32  # samples of an update
PRICE = 10.0
TINY = 1e-12  # a loss of 0 has no logarithm


@contextmanager
def relaxed(setting: Setting, mixes: Sequence[Mix]) -> Iterator[None]:
    """Within, each layer of unit i gives the sum of share x its output at the candidate, over mixes[i].

    So does what sums have of its input, where the recipe quantizes that.
    Gradients reach the shares, and through the quantizers as the straight-through estimator has it.
    """

    def mixed(
        layer: QuantizedLayer | QuantizedMatmul, unit: int, plain: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        def forward(*args: Tensor) -> Tensor:
            total: Tensor | None = None
            for candidate, share in mixes[unit]:
                layer.set_bits(*setting.plan.candidates[unit][candidate])
                part = share.to(args[0]) * plain(*args)
                with Apart():  # no sum of the network's
                    total = part if total is None else total + part
            assert total is not None
            return total

        return forward

    layers = list(setting.layers())
    try:
        for unit, _, layer in layers:
            layer.forward = mixed(layer, unit, layer.forward)  # type: ignore[method-assign]
            if isinstance(layer, QuantizedLayer):
                layer.again = mixed(layer, unit, layer.again)  # type: ignore[method-assign]
        yield
    finally:
        for _, _, layer in layers:
            layer.__dict__.pop("forward", None)
            layer.__dict__.pop("again", None)


def excess(setting: Setting, mixes: Sequence[Mix]) -> Tensor:
    """By how much the expected costs are over the budgets, as a share of each, added up: a scalar."""
    plan = setting.plan
    total = torch.zeros((), dtype=torch.float64)
    for budget, limit in enumerate(plan.available):
        terms = [
            share.double() * float(plan.costs[unit][candidate][budget])
            for unit, mix in enumerate(mixes)
            for candidate, share in mix
        ]
        total = total + torch.relu(torch.stack(terms).sum() - limit) / max(abs(limit), 1)
    return total


def objective(loss: Tensor, over: Tensor) -> Tensor:
    """log(task loss) + 10 x excess.

    Losses differ by orders of magnitude between networks and budgets; with the logarithm, the price of being over does
    not depend on that. It is above what is gained by being over: a bit more divides a squared error by about 4, so that
    twice the bit operations take log(loss) down by 2.3 from 4 bits on, and by 4.6 from 8.
    """
    return (loss.double() + TINY).log() + PRICE * over.to(loss.device)


def train(
    setting: Setting,
    variables: Tensor,
    mixes_of: Callable[[int], Sequence[Mix]],
    updates: int,
    rate: float,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Adam on `variables` for `objective`.

    mixes_of: f(number of the update) -> a mix for each unit, made of `variables`.
    after: called after every update, to keep `variables` where they belong.
    """
    optimizer = torch.optim.Adam([variables], rate)
    for update, (inputs, target) in enumerate(setting.training_batches(BATCH, updates)):
        mixes = mixes_of(update)
        with relaxed(setting, mixes):
            loss = measure(setting.loss, target, inputs.call(setting.network.model), inputs).mean()
        optimizer.zero_grad()
        torch.autograd.backward(objective(loss, excess(setting, mixes)))
        optimizer.step()
        with torch.no_grad():
            after()
        terms = max(map(len, mixes))
        setting.passes += terms * (1 + BACKWARD) * inputs.samples / setting.samples
