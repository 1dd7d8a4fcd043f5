"""`ribs compare`: ribs beside other ways to choose bits, within the same budgets."""

from __future__ import annotations

import argparse
import dataclasses

import ribs
from ribs.cli.flags import budgets, candidates
from ribs.cli.models import load, load_loss
from ribs.cli.output import bars, print_json
from ribs.cli.search import spending_as_json
from ribs.select.compare import Run


def run(arguments: argparse.Namespace) -> None:
    """Run every method at every budget and print the table."""
    found, choices, loss = budgets(arguments), candidates(arguments), load_loss(arguments.loss)
    model, loader = load(arguments, seed=0)
    comparison = ribs.compare(
        model.to(arguments.device),
        loader,
        found,
        methods=arguments.methods.split(","),
        seeds=range(arguments.seeds),
        units=arguments.units,
        recipe=arguments.recipe,
        skip=arguments.skip,
        loss=loss,
        update_size=arguments.update_size,
        iterations=arguments.iterations,
        calibration_samples=arguments.samples,
        **choices,
        cache_mib=arguments.cache_mib,
        progress=bars(arguments),
    )
    if arguments.json:
        print_json([as_json(each) for each in comparison.runs])
    else:
        print(comparison)
    if arguments.plot:
        from ribs.report.plot import plot_comparison

        figure = plot_comparison(comparison, cost=comparison.runs[0].spending[0].name)
        figure.savefig(arguments.plot, dpi=130)


def as_json(run: Run) -> dict[str, object]:
    """A run for other programs."""
    fields = {each.name: getattr(run, each.name) for each in dataclasses.fields(run)}
    return {**fields, "spending": spending_as_json(run.spending)}
