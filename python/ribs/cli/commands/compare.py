"""The flags of `ribs compare`."""

import argparse

from ribs.cli.commands.shared import (
    add_batches,
    add_cache,
    add_device,
    add_samples,
    add_task,
)

HELP = "ribs beside other ways to choose bits, at the same budgets"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_task(parser, "; repeated, it makes several budgets")
    parser.add_argument("--methods", default="ribs,uniform,random,kl", help="by name (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="run seeds 0..N-1 (default: %(default)s)")
    parser.add_argument("--iterations", type=int, help="of ribs and paper (default: as for a search)")
    parser.add_argument("--update-size", type=int, metavar="M", help="of ribs and paper (default: as for a search)")
    add_samples(parser)
    add_batches(parser)
    add_device(parser)
    add_cache(parser)
    parser.add_argument("--plot", metavar="FILE", help="save a picture of loss over cost (.png, .svg)")
