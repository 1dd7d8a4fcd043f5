"""Pictures of a search's result, of sweeps and of comparisons, drawn with matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ribs.quant.quantizer import FakeQuantizer, code_range
from ribs.report.data import front_table, printable, sensitivity_table, step_table, unit_table
from ribs.select.compare import Average, Comparison
from ribs.select.points import Sweep
from ribs.select.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PAIR = "#2f6db5", "#e08a2e"
_ROW = 0.24  # inches for a unit
_LONGEST = 48  # letters of a unit's name


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


def plot_sensitivity(result: Result) -> Figure:
    """Draw how the loss changes with the bits of each unit, as the last iteration has it; the bits chosen have a dot.

    Rows are units, columns candidates; cells without a number are empty. Colours are on a scale of logarithms, as the
    changes differ by orders of magnitude; all below a thousandth of the largest, negative ones too, have one colour,
    and infinite ones that of the largest.
    `ribs.report.data.sensitivity_table` has the numbers.
    Raises: ImportError without matplotlib; ValueError for a result without a history.
    """
    table = sensitivity_table(result)
    if not table["unit"]:
        raise ValueError("[plot] the result has no history, as that of a search has; its sensitivities are not known")
    units = result.costs.units
    bits = list(zip(table["weight_bits"], table["activation_bits"], strict=True))
    candidates = sorted(set(bits))
    cells = np.full((len(units), len(candidates)), np.nan)
    chosen = []
    for unit, pair, change, dot in zip(table["unit"], bits, table["delta_loss"], table["chosen"], strict=True):
        row, column = units.index(unit), candidates.index(pair)
        cells[row, column] = change
        if dot:
            chosen.append((column, row))
    figure = _figure(3 + 0.45 * len(candidates), 1.2 + _ROW * len(units))
    axes = figure.subplots()
    positive = cells[np.isfinite(cells) & (cells > 0)]
    largest = float(positive.max()) if positive.size else 1.0
    cells = np.clip(cells, largest / 1000, largest)
    image = axes.imshow(cells, norm="log", vmin=largest / 1000, vmax=largest, aspect="auto", interpolation="none")
    if chosen:
        columns, rows = zip(*chosen, strict=True)
        axes.scatter(columns, rows, s=22, color="white", edgecolor="#222222")
    tied = all(weight == activation for weight, activation in candidates)
    names = [str(weight) if tied else f"{weight}/{activation}" for weight, activation in candidates]
    axes.set_xticks(range(len(candidates)), names, rotation=0 if tied else 90, fontsize=8)
    axes.set_xlabel("bits of weights and activations" if tied else "bits of weights / activations")
    _name_rows(axes, units)
    figure.colorbar(image, ax=axes, extend="min", label="change of the loss", location="bottom", aspect=40)
    axes.spines[:].set_visible(False)
    return figure


def plot_bits(result: Result) -> Figure:
    """Draw the bits of weights and activations of each unit, beside its share of the bit operations and of the bytes.

    `ribs.report.data.unit_table` has the numbers.
    Raises: ImportError without matplotlib.
    """
    table = unit_table(result)
    figure = _figure(8, 1.2 + _ROW * len(table["unit"]))
    panels = figure.subplots(1, 2, sharey=True)
    bits = {"weights": table["weight_bits"], "activations": table["activation_bits"]}
    shares = {name: [100 * share for share in table[f"{name}_share"]] for name in ("bops", "bytes")}
    for axes, columns, label in zip(panels, (bits, shares), ("bits", "% of the network"), strict=True):
        for shift, color, (name, values) in zip((-0.2, 0.2), _PAIR, columns.items(), strict=True):
            rows = [row + shift for row in range(len(values))]
            name = {"bops": "bit operations", "bytes": "bytes of weights"}.get(name, name)
            axes.barh(rows, values, 0.38, color=color, label=name)
        axes.set_xlabel(label)
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    _name_rows(panels[0], table["unit"])
    return figure


def plot_losses(result: Result) -> Figure:
    """Draw the loss that was measured in each iteration, with its standard error, beside the one that was predicted.

    `ribs.report.data.iteration_table` has the numbers.
    Raises: ImportError without matplotlib; ValueError for a result without a history.
    """
    if not result.history:
        raise ValueError("[plot] the result has no history, as that of a search has")
    figure = _figure(8, 3.6)
    _losses(figure.subplots(), result, None)
    return figure


def plot_steps(x: Tensor, quantizer: FakeQuantizer, *, title: str = "") -> Figure:
    """Draw the histogram of a tensor over the grid of its quantizer at the chosen bits, in codes.

    Lines are the levels that values are rounded to; values in the other colour are beyond the grid and get its last
    level. `ribs.report.data.step_table` has the numbers, and says what `x` may be.
    Raises: ImportError without matplotlib; ValueError at 32 bits.
    """
    table = step_table(x, quantizer)
    width = table["high"][1] - table["low"][1]
    left = [table["high"][0] - width, *table["low"][1:]]  # the open bins are drawn as wide as the others
    least, most = code_range(quantizer.bits, quantizer.symmetric)
    figure = _figure(8, 3.6)
    axes = figure.subplots()
    total = max(1, sum(table["count"]))
    for clipped, color in zip((False, True), _PAIR, strict=True):
        counts = [n if beyond is clipped else 0 for n, beyond in zip(table["count"], table["clipped"], strict=True)]
        label = f"{'clipped' if clipped else 'on the grid'}: {100 * sum(counts) / total:.4g} %"
        axes.bar(left, counts, width, align="edge", color=color, label=label)
    axes.vlines(range(least, most + 1), 0, 1, transform=axes.get_xaxis_transform(), color="#888888", linewidth=0.5)
    axes.set_xlabel(f"code before rounding, {quantizer.bits} bits")
    axes.set_ylabel("values")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    if title:
        axes.set_title(title, parse_math=False)
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


def plot_front(sweep: Sweep, *, cost: str = "bops", title: str = "") -> Figure:
    """Draw the task loss of a sweep's points over what they cost, and that of uniform networks, with standard errors.

    cost: "bops", "size", or the name of something else that all budgets bound; this shows no uniform networks.
    `ribs.report.data.front_table` has the numbers.
    Raises: ImportError without matplotlib; ValueError for a cost that no budget bounds.
    """
    table = front_table(sweep)
    column = {"size": "size_mib"}.get(cost, cost)
    if column not in table or column in ("budget", "uniform", "loss", "standard_error"):
        raise ValueError(f'[plot] cost={cost!r} is not bounded by every budget; give "bops", "size" or what is')
    figure = _figure(5.5, 4)
    axes = figure.subplots()
    for uniform, color, form, label in ((False, _PAIR[0], "o-", "ribs"), (True, _PAIR[1], "s:", "uniform")):
        rows = zip(table["uniform"], table[column], table["loss"], table["standard_error"], strict=True)
        own = sorted(row[1:] for row in rows if row[0] == uniform and row[1] is not None)
        spent = [row[0] / (1e9 if cost == "bops" else 1) for row in own]
        losses, errors = [row[1] for row in own], [row[2] for row in own]
        axes.errorbar(spent, losses, errors, fmt=form, color=color, markersize=4, capsize=2, label=label)
    axes.set_yscale("log")
    axes.set_xlabel({"bops": "GBOPs", "size": "MiB of weights"}.get(cost, cost.replace("_", " ")))
    axes.set_ylabel("task loss")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "ribs-quant[plot]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def _name_rows(axes: Axes, units: Sequence[str]) -> None:
    """Label rows with units, the first on top. Names are the user's: no formulas, and not endless."""
    names = [name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}" for name in map(printable, units)]
    axes.set_yticks(range(len(units)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(units) - 0.5, -0.5)


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
    errors = [record.standard_error for record in result.history]
    axes.errorbar(iterations, measured, errors, fmt="o-", color="#2f6db5", markersize=4, capsize=2, label="measured")
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
