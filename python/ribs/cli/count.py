"""`ribs count`: MACs, bit operations and size of a network."""

from __future__ import annotations

import argparse

import torch

import ribs
from ribs.cli.models import input_size, load_model
from ribs.cli.output import print_json


def run(arguments: argparse.Namespace) -> None:
    """Print the table of a model's layers and what its uniform networks cost; weights are not needed."""
    model = load_model(arguments.model, checkpoint=arguments.checkpoint, pretrained=False)
    size = input_size(model, arguments.input_size)
    table = ribs.count(model, torch.empty(1, *size, device="meta"), units=arguments.units, skip=arguments.skip)
    if not arguments.json:
        print(f"{table}\n\n{len(table.units)} units, {table.macs / 1e9:.6g} GMACs, {table.parameters:,} parameters")
        return
    layers = [
        {"name": layer.name, "kind": layer.kind, "macs": layer.macs, "weights": layer.weights} for layer in table.layers
    ]
    print_json({"units": table.units, "macs": table.macs, "parameters": table.parameters, "layers": layers})
