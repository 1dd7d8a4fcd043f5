"""The report of a result: one page of HTML that needs no network and no scripts."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

import torch

import ribs
from ribs.report.data import iteration_table, printable, sensitivity_table, unit_table
from ribs.report.plot import plot_bits, plot_losses, plot_sensitivity
from ribs.report.svg import inline_svg
from ribs.select.result import Result, Spending

# A browser that knows this loads nothing and runs nothing, whatever the page would say.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(result: Result, versions: Mapping[str, str] | None = None) -> str:
    """The numbers, pictures and tables of a result as HTML.

    versions: of the programs that found it, by name; by default those that run.
    Raises: ImportError without matplotlib.
    """
    if versions is None:
        versions = {"ribs": ribs.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}
    title = f"{len(result.bits)} units at {result.bops / 1e9:.6g} GBOPs and {result.size_mib:.4g} MiB"
    sections = [
        ("Result", _facts(result)),
        ("Budget", _budget(result.spending)),
        ("Bits of each unit", _bits(result)),
        ("Sensitivities", _sensitivities(result)),
        ("Iterations", _iterations(result)),
        ("Integer linear programs", _programs(result)),
        ("To do it again", _again(result)),
        ("Versions", _table(("program", "version"), versions.items())),
    ]
    style = files("ribs.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(f"<section>\n<h2>{name}</h2>\n{content}\n</section>" for name, content in sections if content)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ribs: {title}</title>
<style>
{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def _facts(result: Result) -> str:
    cost = result.cost_of_search
    facts = {"task loss on the calibration set": f"{result.loss:.6g} ± {result.standard_error:.2g} (standard error)"}
    if result.loss_as_searched != result.loss:
        facts["task loss as searched"] = f"{result.loss_as_searched:.6g}"
    facts |= {
        "bit operations of one sample": f"{result.bops:,}",
        "weights": f"{result.size_mib:.6g} MiB",
        "recipe of the quantizers": result.recipe,
        "accounting": result.costs.accounting,
        "iterations": f"{len(result.history)}" + (" (out of time)" if result.stopped else ""),
        "work": f"{cost.forward_equivalents:,.1f} forward passes over the calibration set, {cost.seconds:,.1f} s",
    }
    return _table(None, facts.items())


def _budget(spending: Iterable[Spending]) -> str:
    """Empty where nothing is bounded."""
    rows = []
    for each in spending:
        bounds = ["" if bound is None else f"{float(bound):.6g}" for bound in (each.least, each.most)]
        part = "" if each.most is None else f"{float(100 * each.spent / each.most):.2f}"
        name = {"bops": "bit operations", "size": "weights"}.get(each.name, each.name.replace("_", " "))
        rows.append((name, each.unit, f"{float(each.spent):.6g}", *bounds, part))
    header = ("bounded", "unit", "spent", "at least", "at most", "% of the most")
    return _table(header, rows, numbers=(2, 3, 4, 5)) if rows else ""


def _bits(result: Result) -> str:
    table = unit_table(result)
    layers = {unit.name: ", ".join(unit.layers) for unit in result.costs.groups}
    several = any(unit != names for unit, names in layers.items())
    header = ["unit", "weight bits", "activation bits", "bit operations", "% of them", "bytes", "% of them"]
    rows = [
        [unit, weight, activation, f"{bops:,}", f"{100 * part:.2f}", f"{size:,.10g}", f"{100 * share:.2f}"]
        + [layers[unit]] * several
        for unit, weight, activation, bops, part, size, share in zip(*table.values(), strict=True)
    ]
    picture = inline_svg(plot_bits(result), "bits-", "Bits of each unit and its shares of the cost")
    note = "Bits of weights and activations, and what they are of the network's bit operations and bytes of weights."
    return _figure(picture, note) + _table(header + ["layers"] * several, rows, numbers=range(1, 7))


def _sensitivities(result: Result) -> str:
    """Empty without a history."""
    table = sensitivity_table(result)
    if not table["unit"]:
        return ""
    picture = inline_svg(plot_sensitivity(result), "sensitivity-", "Change of the loss by unit and bits")
    note = (
        "How the loss changes with the bits of one unit alone, as the last iteration has it. Dots: the bits chosen. "
        "Changes below a thousandth of the largest, negative ones too, have one colour."
    )
    pairs = list(zip(table["weight_bits"], table["activation_bits"], strict=True))
    candidates = sorted(set(pairs))
    cells = {unit: dict.fromkeys(candidates, "") for unit in table["unit"]}
    for unit, pair, change, error in zip(
        table["unit"], pairs, table["delta_loss"], table["standard_error"], strict=True
    ):
        cells[unit][pair] = f"{change:.3g} ± {error:.1g}"
    header = ["unit", *(f"{weight}/{activation}" for weight, activation in candidates)]
    numbers = _table(header, ([unit, *row.values()] for unit, row in cells.items()), range(1, len(header)))
    return f"{_figure(picture, note)}<details><summary>The numbers, ± standard errors</summary>{numbers}</details>"


def _iterations(result: Result) -> str:
    """Empty without a history."""
    table = iteration_table(result)
    if not table["iteration"]:
        return ""
    picture = inline_svg(plot_losses(result), "losses-", "Loss by iteration, measured and predicted")
    note = "The loss measured in each iteration, with its standard error, and the one that was predicted."
    columns = {
        "iteration": table["iteration"],
        "predicted": [f"{loss:.5g}" for loss in table["predicted"]],
        "measured": [f"{loss:.5g}" for loss in table["loss"]],
        "± standard error": [f"{error:.2g}" for error in table["standard_error"]],
        "measured - predicted": [f"{error:.2g}" for error in table["interaction_error"]],
        "GBOPs": [f"{bops / 1e9:.6g}" for bops in table["bops"]],
        "MiB": [f"{mib:.4g}" for mib in table["size_mib"]],
        "changed": table["changed"],
    }
    return _figure(picture, note) + _columns(columns, numbers=range(len(columns)))


def _programs(result: Result) -> str:
    """Empty where nothing is known of them."""
    table = iteration_table(result)
    if not any(table["programs"]):
        return ""
    columns = {
        "iteration": table["iteration"],
        "programs": table["programs"],
        "closest bound": table["bound"],
        "% of it spent": ["" if share is None else f"{100 * share:.2f}" for share in table["share"]],
        "optimum": [_optimum(gap) for gap in table["gap"]],
    }
    return (
        "<p>Each program chose the bits of all units that may change, within every bound of the budget in exact "
        "integers. Its optimum is proven where exact arithmetic shows that nothing within the budget has a smaller "
        "expected loss; elsewhere the solver bounds how far it can be.</p>\n" + _columns(columns, numbers=(0, 1, 3))
    )


def _optimum(gap: float | None) -> str:
    if gap is None:
        return ""
    return "proven" if gap == 0 else f"within {gap:.2g}"


def _again(result: Result) -> str:
    """The call of `ribs.quantize` that makes this network."""
    costs = result.costs
    bits = "".join(f"        {unit!r}: {pair},\n" for unit, pair in result.bits.items())
    arguments = f"    bits={{\n{bits}    }},\n"
    if any(unit.layers != (unit.name,) for unit in costs.groups):
        units = "".join(f"        {unit.name!r}: {list(unit.layers)},\n" for unit in costs.groups)
        arguments += f"    units={{\n{units}    }},\n"
    if costs.trace.skipped:
        arguments += f"    skip={[layer.name for layer in costs.trace.skipped]},\n"
    call = f"result = ribs.quantize(\n    model,\n    loader,\n{arguments}    recipe={result.recipe!r},\n)"
    return (
        "<p>With the model and the calibration set of the search, this quantizes the network at these bits, without a "
        f"search:</p>\n<pre><code>import ribs\n\n{escape(call)}\n</code></pre>"
    )


def _figure(picture: str, note: str) -> str:
    return f'<figure><div class="wide">{picture}</div><figcaption>{escape(note)}</figcaption></figure>\n'


def _columns(columns: Mapping[str, Sequence[object]], numbers: Collection[int]) -> str:
    return _table(list(columns), zip(*columns.values(), strict=True), numbers)


def _table(header: Sequence[str] | None, rows: Iterable[Sequence[object]], numbers: Collection[int] = ()) -> str:
    """A table of anything, escaped; the columns in `numbers` are right-aligned. Rows begin with their names."""

    def cell(column: int, value: object, tag: str = "td") -> str:
        text = escape(printable(str(value)))
        return f'<{tag} class="n">{text}</{tag}>' if column in numbers else f"<{tag}>{text}</{tag}>"

    head = "" if header is None else "".join(cell(column, name, "th") for column, name in enumerate(header))
    lines = "\n".join(
        f"<tr>{''.join(cell(k, value, 'th' if k == 0 else 'td') for k, value in enumerate(row))}</tr>" for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>\n" if head else ""
    return f'<div class="wide"><table>\n{top}<tbody>\n{lines}\n</tbody></table></div>'
