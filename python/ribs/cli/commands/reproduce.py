"""The flags of `ribs reproduce`."""

import argparse

from ribs.cli.commands.shared import add_batches, add_device, add_journal

HELP = "a row of the paper, beside its published figures"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("row", nargs="?", metavar="ROW", help="such as table1a/ribs-28.5")
    parser.add_argument("--list", action="store_true", help="list all rows")
    parser.add_argument("--data", metavar="IMAGENET", help="a folder that holds train/ and val/")
    parser.add_argument("--checkpoint", metavar="FILE", help="the network's weights (default: timm's, fetched)")
    add_device(parser)
    add_batches(parser)
    add_journal(parser)
    parser.add_argument("--seed", type=int, help="of the samples and the search (default: the row's)")
    parser.add_argument("--samples", type=int, help="calibration samples (default: the row's, 1024)")
    parser.add_argument("--iterations", type=int, help="of a search (default: the row's)")
    parser.add_argument(
        "--reconstruction-iterations", type=int, metavar="N", help="steps for each block, at most (default: the row's)"
    )
    parser.add_argument("--epochs", type=int, default=90, help="of training (default: %(default)s)")
    parser.add_argument("--augment", metavar="POLICY", help="in training, timm's, such as rand-m9-mstd0.5")
    parser.add_argument("--checkpoints", metavar="FOLDER", help="keep each epoch of training, to go on if interrupted")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate on N of the images in val/ (default: all)")
    parser.add_argument("--random-weights", action="store_true", help="do not fetch weights: to try the whole way")
