"""The flags of `ribs search`."""

import argparse

from ribs.cli.commands.shared import (
    add_batches,
    add_cache,
    add_device,
    add_journal,
    add_samples,
    add_task,
)

HELP = "find the best bits of a network within a budget"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    parser.add_argument(
        "--algorithm", choices=("adaptive", "paper"), default="adaptive", help="paper: Algorithm 1 of RIBS as written"
    )
    parser.add_argument("--iterations", type=int, help="programs solved (default: 2 a unit; 10 of paper)")
    parser.add_argument("--update-size", type=int, metavar="M", help="units changed at first (paper: after the first)")
    add_samples(parser)
    parser.add_argument(
        "--held-out", type=int, metavar="N", help="also say the loss on N more samples, which nothing is chosen on"
    )
    add_batches(parser)
    add_device(parser)
    parser.add_argument(
        "--profile", choices=("full", "race"), default="full", help="race: measure hopeless candidates on fewer samples"
    )
    parser.add_argument(
        "--execution", choices=("float32", "int8"), default="float32", help="int8: products of integers, on CPUs"
    )
    parser.add_argument(
        "--reconstruct", choices=("adaround", "brecq", "qdrop"), help="every configuration, before its loss is measured"
    )
    parser.add_argument(
        "--reconstruct-iterations",
        type=int,
        default=200,
        metavar="N",
        help="steps for each block (default: %(default)s)",
    )
    parser.add_argument(
        "--finish-iterations",
        type=int,
        default=20_000,
        metavar="N",
        help="the same, of the configuration found (default: %(default)s)",
    )
    parser.add_argument("--max-seconds", type=float, metavar="S", help="return the best found in about this time")
    add_cache(parser)
    parser.add_argument(
        "--store-mib", type=float, default=1024, metavar="MIB", help="for the samples of one block under reconstruction"
    )
    add_journal(parser)
    parser.add_argument("--out", metavar="FOLDER", help="save the result: bits, packed weights, history")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
