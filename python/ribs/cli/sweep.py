"""`ribs sweep`: the best bits of a network at many budgets."""

from __future__ import annotations

import argparse
from pathlib import Path

import ribs
from ribs.cli.flags import budgets, candidates
from ribs.cli.models import load, load_loss
from ribs.cli.output import bars, print_json
from ribs.cli.search import own_device, processes
from ribs.select.points import check_ending


def run(arguments: argparse.Namespace) -> None:
    """Sweep, and print and save the points; under torchrun, in all of its processes together."""
    found, choices, loss = budgets(arguments), candidates(arguments), load_loss(arguments.loss)
    if arguments.out is not None:
        check_ending(Path(arguments.out))
    model, loader = load(arguments, arguments.seed)
    with processes() as first:
        sweep = ribs.sweep(
            model.to(own_device(arguments.device)),
            loader,
            found,
            units=arguments.units,
            recipe=arguments.recipe,
            skip=arguments.skip,
            loss=loss,
            proposals=arguments.proposals,
            calibration_samples=arguments.samples,
            **choices,
            max_seconds=arguments.max_seconds,
            cache_mib=arguments.cache_mib,
            journal=arguments.journal,
            seed=arguments.seed,
            progress=bars(arguments),
        )
    if not first:
        return
    if arguments.out is not None:
        sweep.save(arguments.out)
    if arguments.plot is not None:
        from ribs.report.plot import plot_front

        plot_front(sweep, cost=sweep.points[0].spending[0].name).savefig(arguments.plot, dpi=130)
    if arguments.json:
        print_json(sweep.as_json())
    else:
        print(sweep)
