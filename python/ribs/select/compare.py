"""`ribs.compare`: ribs beside other ways to choose bits, with the same quantizers, budgets and accounting."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ribs.quant.network import Bits, calibrate, check_pooled
from ribs.quant.recipe import RecipeName
from ribs.quant.reparameterize import reparameterize, scale_norms
from ribs.quant.units import UnitScheme
from ribs.select.algorithm import Algorithm
from ribs.select.bars import Bars
from ribs.select.budget import Budget, in_words
from ribs.select.candidates import ActivationBits, Allowed, Pins, Ties
from ribs.select.cost import Configuration
from ribs.select.loss import TaskLoss, kl_divergence
from ribs.select.measurement import MIB, Losses
from ribs.select.plan import bit_widths
from ribs.select.result import Spending
from ribs.select.rivals.registry import RIVALS, Rival
from ribs.select.rivals.setting import Setting
from ribs.select.samples import Choice
from ribs.select.sampling import standard_error
from ribs.select.sensitivity import Sensitivity
from ribs.select.setup import set_up
from ribs.select.table import text_table

DEFAULT_METHODS = ("ribs", "uniform", "random", "kl")
WEIGHTS_SHARE = 0.5  # of the cache, for quantized weights of all bits; the rest is for outputs


@dataclass(frozen=True)
class Run:
    """What one method chose.

    budget: in words.  seed: the first of all where a method does not depend on it.
    loss: mean task loss on the calibration set.  standard_error: of that mean.
    metric: what `evaluate` gave, if anything.
    bops: bit operations of one sample.  size_mib: MiB of the weights; both in the accounting of the budget.
    spending: what is spent of everything that the budget bounds.
    forward_equivalents: work, in passes of the network over the calibration set.  seconds: wall time. Calibration and
        the measuring of what is reported here are in neither.
    bits: (weight bits, activation bits) of each unit.
    """

    method: str
    budget: str
    seed: int
    loss: float
    standard_error: float
    metric: float | None
    bops: int
    size_mib: float
    spending: tuple[Spending, ...]
    forward_equivalents: float
    seconds: float
    bits: Configuration


@dataclass(frozen=True)
class Average:
    """Means over the seeds of one method at one budget; standard errors of these means, 0 of a single seed.

    first_in_loss, first_in_metric: no other is better, or the best is by no more than the standard error of the
        difference. Less loss is better, and more of the metric.
    spent: of everything that the budget bounds, by name, in the unit of `Spending`.
    """

    method: str
    budget: str
    seeds: int
    loss: float
    loss_error: float
    metric: float | None
    metric_error: float
    bops: float
    size_mib: float
    spent: dict[str, float]
    forward_equivalents: float
    seconds: float
    first_in_loss: bool = False
    first_in_metric: bool = False


@dataclass(frozen=True)
class Comparison:
    """All runs, in the order of budgets, methods and seeds; print it for a table."""

    runs: tuple[Run, ...]

    def averages(self) -> tuple[Average, ...]:
        """One for each method at each budget, in order."""
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in self.runs:
            groups.setdefault((run.budget, run.method), []).append(run)
        averages = [_average(runs) for runs in groups.values()]
        return tuple(_placed(each, [o for o in averages if o.budget == each.budget]) for each in averages)

    def __str__(self) -> str:
        metric = any(run.metric is not None for run in self.runs)
        # What is bounded beside bit operations and size.
        others = {each.name: each.unit for run in self.runs for each in run.spending}
        others = {name: unit for name, unit in others.items() if name not in ("bops", "size")}
        header = ["budget", "method", "seeds", "task loss", *(["metric"] if metric else []), "GBOPs", "MiB"]
        header += [name.replace("_", " ") + (", MiB" if unit == "MiB" else "") for name, unit in others.items()]
        header += ["forward equivalents", "seconds"]
        rows = []
        for each in self.averages():
            cells = [each.budget, each.method, str(each.seeds), _cell(each.loss, each.loss_error, each.first_in_loss)]
            if metric:
                cells.append("" if each.metric is None else _cell(each.metric, each.metric_error, each.first_in_metric))
            cells += [f"{each.bops / 1e9:.4g}", f"{each.size_mib:.4g}"]
            cells += [f"{each.spent[name]:.4g}" if name in each.spent else "" for name in others]
            rows.append([*cells, f"{each.forward_equivalents:.1f}", f"{each.seconds:.1f}"])
        table = text_table(header, rows, right=range(2, len(header)))
        return f"{table}\n\n+- standard error over seeds; * first, or within one standard error of the first"


def compare(
    model: nn.Module,
    loader: Iterable[Any],
    budgets: Sequence[Budget],
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: Iterable[int] = range(3),
    evaluate: Callable[[nn.Module], float] | None = None,
    bits: Iterable[int] = range(2, 9),
    activation_bits: ActivationBits = None,
    units: UnitScheme = "layer",
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    update_size: int | None = None,
    iterations: int | None = None,
    calibration_samples: int = 1024,
    pool_batches: bool = False,
    pins: Pins | None = None,
    allowed: Allowed | None = None,
    ties: Ties | None = None,
    target: str | None = None,
    loss: TaskLoss = kl_divergence,
    cache_mib: float = 1024,
    progress: bool = True,
) -> Comparison:
    """Let several methods choose the bits of one network, calibrated once, and measure what they chose.

    budgets: each is met by every method.
    methods: "ribs" is what `ribs.search` does, "paper" is Algorithm 1 of the paper; the others are the names of
        `ribs.select.rivals.registry.RIVALS`, described in docs/rivals.md.
    seeds: every method that depends on chance runs once for each, the others once.
    evaluate: f(quantized network) -> a number of which more is better, such as accuracy on labelled data. It must leave
        the network as it is.
    The other arguments are as for `ribs.search`; `iterations` and `update_size` are for "ribs" and "paper" alone.

    Runs in this process alone. Raises: as `ribs.search`, and ValueError for a method that is not known, nothing to
    compare, the same budget twice, units without a choice, and what a method cannot do; all before any long work.
    """
    seeds, chosen = list(seeds), _check(methods, {**_own(iterations, update_size), **RIVALS})
    if not seeds or not budgets:
        raise ValueError(f"[compare] {len(budgets)} budgets and {len(seeds)} seeds; give at least one of each")
    words = [in_words(budget) for budget in budgets]
    if twice := [text for text in dict.fromkeys(words) if words.count(text) > 1]:
        raise ValueError(f"[compare] budgets {twice} are given more than once; give others, or other names to costs")
    setup = set_up(
        model,
        loader,
        budgets,
        units=units,
        recipe=recipe,
        skip=skip,
        calibration_samples=calibration_samples,
        bits=bits,
        activation_bits=activation_bits,
        pins=pins,
        allowed=allowed,
        ties=ties,
        target=target,
    )
    batches, network, plans = setup.batches, setup.network, setup.plans
    check_pooled(pool_batches, network.recipe)
    for plan in plans:
        if max(map(len, plan.candidates)) == 1:
            raise ValueError("[compare] every unit has only one candidate; allow more bits or pin fewer units")
        for rival in chosen.values():
            rival.check(plan)
    candidates = [
        list(dict.fromkeys(itertools.chain(*options)))
        for options in zip(*(plan.candidates for plan in plans), strict=True)
    ]
    runs: list[Run] = []
    with Bars(progress) as bars, network.keep_weights(int(cache_mib * MIB * WEIGHTS_SHARE)):
        widths = bit_widths(itertools.chain(*candidates))
        calibrate(network, batches, widths, pooled=pool_batches, progress=bars.calibration)
        scale_norms(network)
        measured = Sensitivity(network, batches, candidates, loss, cache_mib=0)
        known: dict[tuple[Bits, ...], tuple[Losses, float | None]] = {}
        for budget, plan in zip(words, plans, strict=True):
            for name, rival in chosen.items():
                for seed in seeds if rival.seeded else seeds[:1]:
                    setting = Setting(network, batches, plan, loss, seed, cache_mib * (1 - WEIGHTS_SHARE))
                    started = time.perf_counter()
                    configuration = plan.configuration(rival.choose(setting))
                    seconds = time.perf_counter() - started
                    chosen_bits = tuple(configuration.values())
                    if chosen_bits not in known:
                        made = copy.deepcopy(network)  # the end of a recipe changes weights
                        reparameterize(made, configuration, batches)
                        losses = measured.losses_of(made)
                        known[chosen_bits] = losses, None if evaluate is None else float(evaluate(made.model))
                    losses, metric = known[chosen_bits]
                    runs.append(
                        Run(
                            method=name,
                            budget=budget,
                            seed=seed,
                            loss=float(losses.mean()),
                            standard_error=standard_error(losses),
                            metric=metric,
                            bops=plan.table.bops(configuration),
                            size_mib=plan.table.size_mib(configuration),
                            spending=plan.spending(configuration),
                            forward_equivalents=setting.forward_equivalents,
                            seconds=seconds,
                            bits=configuration,
                        )
                    )
                    bars.say(f"{budget}, {name}, seed {seed}: task loss {runs[-1].loss:.4g}, {seconds:.1f} s")
    return Comparison(tuple(runs))


def _own(iterations: int | None, update_size: int | None) -> dict[str, Rival]:
    """Ribs itself, as two of the methods."""

    def searched_by(algorithm: Algorithm) -> Rival:
        def choose(setting: Setting) -> Choice:
            sensitivity = setting.measuring(setting.loss, setting.plan.candidates)
            named: set[tuple[str, Bits]] = set()
            trace = algorithm.run(
                setting.plan,
                sensitivity.measure,
                sensitivity.samples,
                seed=setting.seed,
                on_iteration=lambda iteration: setting.plan.name_non_finite(iteration, named),
            )
            return trace.best_choice

        return Rival(choose, seeded=True)

    return {
        "ribs": searched_by(Algorithm("adaptive", iterations, update_size)),
        "paper": searched_by(Algorithm("paper", iterations, update_size)),
    }


def _check(methods: Sequence[str], known: dict[str, Rival]) -> dict[str, Rival]:
    unknown = [name for name in methods if name not in known]
    if unknown or not methods or isinstance(methods, str):
        got = f"{unknown} in methods" if unknown else f"methods={methods!r}"
        raise ValueError(f"[compare] {got} is not supported; give some of {', '.join(known)}")
    return {name: known[name] for name in methods}


def _average(runs: Sequence[Run]) -> Average:
    losses, metrics = [run.loss for run in runs], [run.metric for run in runs if run.metric is not None]
    return Average(
        method=runs[0].method,
        budget=runs[0].budget,
        seeds=len(runs),
        loss=statistics.fmean(losses),
        loss_error=_error(losses),
        metric=statistics.fmean(metrics) if metrics else None,
        metric_error=_error(metrics),
        bops=statistics.fmean(run.bops for run in runs),
        size_mib=statistics.fmean(run.size_mib for run in runs),
        spent={
            each.name: statistics.fmean(float(run.spending[i].spent) for run in runs)
            for i, each in enumerate(runs[0].spending)
        },
        forward_equivalents=statistics.fmean(run.forward_equivalents for run in runs),
        seconds=statistics.fmean(run.seconds for run in runs),
    )


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _placed(own: Average, all_of_budget: Sequence[Average]) -> Average:
    """The same, told whether it is first."""
    # Not a number never comes first.
    best = min(all_of_budget, key=lambda each: each.loss if math.isfinite(each.loss) else math.inf)
    in_loss = own.loss - best.loss <= math.hypot(own.loss_error, best.loss_error)
    in_metric = False
    if own.metric is not None:
        measured = [(each.metric, each.metric_error) for each in all_of_budget if each.metric is not None]
        metric, error = max(measured, key=lambda each: each[0] if math.isfinite(each[0]) else -math.inf)
        in_metric = metric - own.metric <= math.hypot(own.metric_error, error)
    return dataclasses.replace(own, first_in_loss=in_loss, first_in_metric=in_metric)


def _cell(mean: float, error: float, first: bool) -> str:
    return f"{mean:.5g}{f' +- {error:.2g}' if error else ''} {'*' if first else ' '}"
