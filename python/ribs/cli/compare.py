"""`ribs compare`: ribs beside other ways to choose bits, within the same budgets."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import ribs
from ribs.cli.models import input_size, load_data, load_model


def run(arguments: argparse.Namespace) -> None:
    """Run every method at every budget and print the table."""
    budgets = [ribs.Budget(bops=_bound(text)) for text in arguments.budget_bops]
    budgets += [ribs.Budget(size_mib=_bound(text)) for text in arguments.budget_size]
    bits = _bits(arguments.bits)
    model = load_model(arguments.model, checkpoint=arguments.checkpoint, pretrained=not arguments.random_weights)
    size = input_size(model, arguments.input_size)
    loader = load_data(
        Path(arguments.data), model, size, batch_size=arguments.batch_size, seed=0, workers=arguments.workers
    )
    comparison = ribs.compare(
        model.to(arguments.device),
        loader,
        budgets,
        methods=arguments.methods.split(","),
        seeds=range(arguments.seeds),
        bits=bits,
        activation_bits=arguments.activation_bits,
        units=arguments.units,
        update_size=arguments.update_size,
        iterations=arguments.iterations,
        calibration_samples=arguments.samples,
        cache_mib=arguments.cache_mib,
        progress=not arguments.no_progress,
    )
    if arguments.json:
        print(json.dumps([dataclasses.asdict(each) for each in comparison.runs], indent=2))
    else:
        print(comparison)
    if arguments.plot:
        from ribs.report.plot import plot_comparison

        figure = plot_comparison(comparison, cost="bops" if arguments.budget_bops else "size_mib")
        figure.savefig(arguments.plot, dpi=130)


def _bound(text: str) -> float | str:
    if "/" in text:
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'budget {text!r} cannot be read; give a number or "W/A" such as "4/4"') from None


def _bits(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--bits {text!r} cannot be read; give numbers such as 2,3,4,8") from None
