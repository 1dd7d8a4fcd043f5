"""The flags of `ribs sweep`."""

import argparse

from ribs.cli.commands.shared import (
    add_batches,
    add_budget,
    add_cache,
    add_candidates,
    add_data,
    add_device,
    add_journal,
    add_loss,
    add_model,
    add_recipe,
    add_samples,
    add_units,
)

HELP = "the best bits of a network at each of many budgets"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser)
    add_budget(parser, "; repeated, it makes several budgets")
    add_candidates(parser)
    add_units(parser)
    add_recipe(parser)
    add_loss(parser)
    parser.add_argument("--proposals", type=int, metavar="N", help="configurations measured (default: 7.5 a unit)")
    add_samples(parser)
    add_batches(parser)
    add_device(parser)
    parser.add_argument("--max-seconds", type=float, metavar="S", help="return the best found in about this time")
    add_cache(parser)
    add_journal(parser)
    parser.add_argument("--out", metavar="FILE", help="save the points (.json, .csv)")
    parser.add_argument("--plot", metavar="FILE", help="save a picture of loss over cost (.png, .svg)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
