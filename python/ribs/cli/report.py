"""`ribs report`: a page of HTML about a saved result."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from torch import nn

from ribs.cli.output import print_json
from ribs.io.saved import read
from ribs.report.page import page
from ribs.select.files import write_file


def run(arguments: argparse.Namespace) -> None:
    """Write the page; it shows nothing of the network itself, which is not needed."""
    content = read(Path(arguments.saved))
    text = page(content.result(nn.Module()), dataclasses.asdict(content.versions)).encode()
    write_file(Path(arguments.out), text)
    if arguments.json:
        print_json({"page": arguments.out, "bytes": len(text)})
