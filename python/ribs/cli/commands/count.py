"""The flags of `ribs count`."""

import argparse

from ribs.cli.commands.shared import add_model, add_units

HELP = "MACs, bit operations and size of a network"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_units(parser)
