"""The flags of `ribs export`."""

import argparse

from ribs.cli.commands.shared import add_data, add_input_size, add_saved

HELP = "a saved result as a file for another runtime: ONNX, torch.export"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_saved(parser)
    parser.add_argument("model", help="the network it was made of: a timm name, or package.module:function")
    parser.add_argument("out", metavar="OUT", help="OUT.onnx, or OUT.pt2 for torch.export; a file there is replaced")
    add_data(parser)
    add_input_size(parser)
    parser.add_argument(
        "--packing", choices=("packed", "native"), default="packed", help="of weights in ONNX (default: %(default)s)"
    )
    parser.add_argument("--opset", type=int, default=21, help="of ONNX, 21 or 25 (default: %(default)s)")
