"""`ribs export`: a saved result as a file for another runtime."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import ribs
from ribs.cli.models import input_size, load_data, load_model
from ribs.cli.output import print_json

SAMPLES = 16  # that the file is tried on


def run(arguments: argparse.Namespace) -> None:
    """Write the file, whose kind its name tells, and print what is in it."""
    out = Path(arguments.out)
    if out.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"{out} tells no kind of file; give a name that ends in .onnx or .pt2")
    model = load_model(arguments.model, checkpoint=None, pretrained=False)  # its weights are those saved
    result = ribs.load(arguments.saved, model)
    size = input_size(model, arguments.input_size)
    batch = next(iter(load_data(Path(arguments.data), model, size, batch_size=SAMPLES, seed=0, workers=0)))
    if out.suffix == ".onnx":
        exported = result.export_onnx(out, batch, arguments.packing, arguments.opset)
        found, said = dataclasses.asdict(exported), str(exported)
    else:
        result.export_pt2(out, batch)
        found, said = {"bytes": out.stat().st_size}, f"{out.stat().st_size:,} bytes"
    if arguments.json:
        print_json(found)
    else:
        print(said)
