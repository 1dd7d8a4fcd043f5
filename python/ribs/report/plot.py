"""Pictures of a search's result and of comparisons, drawn with matplotlib (the extra `plot`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ribs.select.compare import Average, Comparison
from ribs.select.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_result(result: Result, *, uniform: Result | None = None, title: str = "") -> Figure:
    """Draw the bits of each unit beside the loss by iteration, measured and predicted.

    uniform: a uniformly quantized network to compare with; its loss is a line in the right panel.
    Raises: ImportError without matplotlib.
    """
    figure = _figure(10, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _bits(left, result)
    _losses(right, result, uniform)
    if title:
        figure.suptitle(title)
    return figure


def plot_comparison(comparison: Comparison, *, cost: str = "bops", title: str = "") -> Figure:
    """Draw the task loss of each method over what its networks cost, and the metric beside it where there is one.

    Points are means over seeds, bars their standard errors.
    cost: "bops", "size", or the name of something else that all budgets bound.
    Raises: ImportError without matplotlib; ValueError for a cost that a budget does not bound.
    """
    averages = comparison.averages()
    if cost not in ("bops", "size") and not all(cost in each.spent for each in averages):
        raise ValueError(f'[plot] cost={cost!r} is not bounded by every budget; give "bops", "size" or what is')
    label = {"bops": "GBOPs", "size": "MiB of weights"}.get(cost, cost.replace("_", " "))

    def costs(each: Average) -> float:
        return {"bops": each.bops / 1e9, "size": each.size_mib, **each.spent}[cost]

    panels = ["loss"] + ["metric"] * any(each.metric is not None for each in averages)
    figure = _figure(5.5 * len(panels), 4)
    for axes, value in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for method in dict.fromkeys(each.method for each in averages):
            own = [each for each in averages if each.method == method and getattr(each, value) is not None]
            own.sort(key=costs)
            axes.errorbar(
                [costs(each) for each in own],
                [getattr(each, value) for each in own],
                [getattr(each, f"{value}_error") for each in own],
                fmt="o-",
                markersize=4,
                capsize=2,
                label=method,
            )
        axes.set_xlabel(label)
        axes.set_ylabel("task loss" if value == "loss" else value)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title)
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "ribs-quant[plot]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def _bits(axes: Axes, result: Result) -> None:
    names = list(result.bits)
    pairs = list(result.bits.values())
    positions = range(len(names))
    tied = all(weight == activation for weight, activation in pairs)
    width = 0.7 if tied else 0.38
    shift = 0.0 if tied else 0.2
    bars = axes.bar([p - shift for p in positions], [pair[0] for pair in pairs], width, color="#2f6db5")
    axes.bar_label(bars, fontsize=8)
    if not tied:
        others = axes.bar([p + shift for p in positions], [pair[1] for pair in pairs], width, color="#e08a2e")
        axes.bar_label(others, fontsize=8)
        axes.legend([bars, others], ["weights", "activations"], frameon=False)
    axes.set_xticks(list(positions), names, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("bits of weights and activations" if tied else "bits")
    axes.spines[["top", "right"]].set_visible(False)


def _losses(axes: Axes, result: Result, uniform: Result | None) -> None:
    iterations = range(1, len(result.history) + 1)
    measured = [record.loss for record in result.history]
    axes.plot(iterations, measured, "o-", color="#2f6db5", label="measured")
    axes.plot(
        iterations,
        [max(record.predicted, 0.0) for record in result.history],
        "x:",
        color="#888888",
        label="predicted",
    )
    axes.axhline(result.loss, color="#2f6db5", linewidth=0.8, linestyle="--", label="best measured")
    if uniform is not None:
        weight, activation = next(iter(uniform.bits.values()))
        axes.axhline(uniform.loss, color="#c23b3b", label=f"uniform {weight}/{activation}")
    axes.set_xlabel("iteration")
    axes.set_ylabel("task loss")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
