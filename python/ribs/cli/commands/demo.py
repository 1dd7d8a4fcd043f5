"""The flags of `ribs demo`."""

import argparse

HELP = "the main job on a small network and real digits, offline"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of the search (default: %(default)s)")
    parser.add_argument("--seeds", type=int, metavar="N", help="run seeds 0..N-1 and print a table for each")
    parser.add_argument("--picture", metavar="FILE", help="save a picture of the result (.png, .svg)")
