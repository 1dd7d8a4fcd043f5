"""The flags of `ribs evaluate`."""

import argparse

from ribs.cli.commands.shared import add_batches, add_device, add_input_size, add_saved

HELP = "top-1 accuracy of a saved result on labelled images"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_saved(parser)
    parser.add_argument("model", help="the network it was made of: a timm name, or package.module:function")
    parser.add_argument("--data", required=True, help="images with those of each class in a folder of their own")
    add_input_size(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate on N of the images (default: all)")
    add_batches(parser)
    add_device(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the images that are taken (default: %(default)s)")
