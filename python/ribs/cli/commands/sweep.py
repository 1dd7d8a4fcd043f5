"""The flags of `ribs sweep`."""

import argparse

from ribs.cli.commands.shared import (
    add_batches,
    add_cache,
    add_device,
    add_journal,
    add_samples,
    add_task,
)

HELP = "the best bits of a network at each of many budgets"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_task(parser, "; repeated, it makes several budgets")
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
