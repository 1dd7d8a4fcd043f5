"""The flags of `ribs report`."""

import argparse

from ribs.cli.commands.shared import add_saved

HELP = "a page of HTML about a saved result"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_saved(parser)
    parser.add_argument("out", metavar="OUT.html", help="the page; a file that is there is replaced")
