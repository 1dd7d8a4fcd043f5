"""`ribs.search` and `ribs.quantize`: the whole way from a float model to a quantized one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ribs.quant.inputs import collect
from ribs.quant.network import calibrate, prepare
from ribs.quant.units import UnitScheme
from ribs.select.bars import Bars
from ribs.select.budget import Budget
from ribs.select.cost import AnyBits, CostTable
from ribs.select.loss import TaskLoss, kl_divergence
from ribs.select.plan import Pins, bit_choices, bit_widths, make_plan
from ribs.select.result import Result, SearchCost
from ribs.select.search import Choice, Iteration, repeated_ilp
from ribs.select.sensitivity import Sensitivity


def search(
    model: nn.Module,
    loader: Iterable[Any],
    budget: Budget,
    *,
    bits: Iterable[int] = range(2, 9),
    activation_bits: int | None = None,
    units: UnitScheme = "block",
    update_size: int | None = None,
    iterations: int = 10,
    calibration_samples: int = 1024,
    pool_batches: bool = False,
    pins: Pins | None = None,
    loss: TaskLoss = kl_divergence,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Choose the bits of every unit of a trained network that lose the least within a budget (RIBS, Algorithm 1).

    model: float32, in eval mode; it is never changed.
    loader: yields batches of inputs, no labels needed: tensors, tuples led by the input, or dicts of tensors.
    budget: bit operations, MiB of weights, or both.
    bits: candidate bit-widths, 1..8; the weights and activations of a unit share one, unless `activation_bits` fixes
        those of the activations.
    units: "block", "layer", or a dict of layer patterns by unit name.
    update_size: units changed in each iteration after the first, which changes all (the paper's M); by default half.
    iterations: number of integer linear programs solved (the paper's N_iter).
    calibration_samples: how many of the loader's samples are used.
    pool_batches: fit the steps of activations to all batches together; by default each batch has its own, and these
        are averaged, as in the paper.
    pins: {unit name, "first" or "last": bits or (weight bits, activation bits)} that stay as given; 32 is float.
    loss: f(float_output, quantized_output) -> [samples] losses; by default the KL divergence of softmax outputs.
    seed: of the random choice of units. The same call on the same device gives the same result.
    progress: show bars.

    Raises: InfeasibleBudgetError naming the least reachable cost; ValueError or TypeError for bad input, all before
        any long work. The model stays as it is whatever happens.
    """
    started = time.perf_counter()
    choices = bit_choices(bits, activation_bits)
    for name, value in (("iterations", iterations), ("update_size", update_size)):
        if value is not None and value < 1:
            raise ValueError(f"[search] {name}={value} is not allowed; give at least 1")
    batches = collect(model, loader, calibration_samples)
    network = prepare(model, batches[0], units)
    plan = make_plan(CostTable.of(network.trace, network.units), budget, choices, activation_bits, pins)
    n = len(network.units)
    sizes = [n] + [min(update_size or max(1, n // 2), n)] * (iterations - 1)
    with Bars(progress) as bars:
        bars.say(
            f"ribs: {n} units, {iterations} iterations, {plan.probes(sizes)} probes on "
            f"{sum(batch.samples for batch in batches)} samples: about {plan.forward_equivalents(sizes):.0f} "
            "forward passes of the calibration set"
        )
        calibrate(network, batches, plan.bit_widths, pooled=pool_batches, progress=bars.calibration)
        bars.start_search(plan.probes(sizes))
        sensitivity = Sensitivity(network, batches, plan.candidates, loss, progress=bars.probed)

        def profile(reference: Choice, selected: Sequence[int]) -> NDArray[np.float64]:
            losses = sensitivity.profile(reference, selected)
            plan.name_non_finite(losses, selected)
            return losses

        def report(iteration: Iteration) -> None:
            bars.measured(iteration.loss)

        trace = repeated_ilp(
            plan.start,
            plan.costs,
            plan.available,
            profile=profile,
            evaluate=sensitivity.evaluate,
            update_sizes=sizes,
            allowed=plan.allowed,
            seed=seed,
            on_iteration=report,
        )
    best = plan.configuration(trace.best_choice)
    network.configure(best)
    return Result(
        bits=best,
        model=network.model,
        loss=trace.best_loss,
        bops=plan.table.bops(best),
        size_mib=plan.table.size_mib(best),
        limits=plan.limits,
        history=tuple(map(plan.record, trace.iterations)),
        cost_of_search=SearchCost(sensitivity.forward_equivalents, time.perf_counter() - started),
        costs=plan.table,
    )


def quantize(
    model: nn.Module,
    loader: Iterable[Any],
    bits: AnyBits,
    *,
    units: UnitScheme = "block",
    calibration_samples: int = 1024,
    pool_batches: bool = False,
    loss: TaskLoss = kl_divergence,
    progress: bool = True,
) -> Result:
    """Quantize a network at a given configuration.

    bits: an int for all units, a (weight bits, activation bits) pair for all, or a dict of these by unit; 32 is float.
    The other arguments, and what is raised, are as for `ribs.search`.
    """
    started = time.perf_counter()
    batches = collect(model, loader, calibration_samples)
    network = prepare(model, batches[0], units)
    table = CostTable.of(network.trace, network.units)
    configuration = table.configuration(bits)
    with Bars(progress) as bars:
        widths = bit_widths(configuration.values())
        calibrate(network, batches, widths, pooled=pool_batches, progress=bars.calibration)
    sensitivity = Sensitivity(network, batches, [[configuration[name]] for name in table.units], loss)
    measured = sensitivity.evaluate((0,) * len(network.units))
    return Result(
        bits=configuration,
        model=network.model,
        loss=measured,
        bops=table.bops(configuration),
        size_mib=table.size_mib(configuration),
        limits={},
        history=(),
        cost_of_search=SearchCost(sensitivity.forward_equivalents, time.perf_counter() - started),
        costs=table,
    )
