"""ONNX files of networks beside the networks: their size, integer kernels, and top-1 in several runtimes.

Run: python benchmarks/export.py [--networks NAME ...] [--packing native] [--onnxruntime FOLDER ...] [--openvino FOLDER]
A FOLDER holds another version, as `pip install --no-deps --target FOLDER onnxruntime==1.20.1` makes it. The networks of
the digits are trained once (see `ribs demo`), the others have random weights. Every line is checked: `export_onnx`
itself compares the file with the network; and each runtime gives the network's top-1 on every sample whose two best
logits are further apart than twice what the noise of rounding moves them.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ribs
from ribs.select.table import text_table

SAMPLES = 256
RUN_ONNXRUNTIME = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {name: numpy.load(sys.argv[2])[name] for name in numpy.load(sys.argv[2])}
numpy.save(sys.argv[3], session.run(None, feeds)[0])
print(onnxruntime.__version__)
"""
RUN_OPENVINO = """
import sys, numpy, openvino
core = openvino.Core()
model = core.compile_model(core.read_model(sys.argv[1]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
feeds = {name: numpy.load(sys.argv[2])[name] for name in numpy.load(sys.argv[2])}
numpy.save(sys.argv[3], model(feeds)[0])
print(openvino.__version__.partition("-")[0])
"""


def digits(name: str) -> tuple[nn.Module, Any]:
    from ribs.cli.digits import RECIPES, one_digit, trained, two_digits

    draw = two_digits if RECIPES[name].digits == 2 else one_digit
    return trained(name), draw("test", SAMPLES, 7)[0]


def deit_tiny() -> tuple[nn.Module, Any]:
    import timm

    torch.manual_seed(0)
    return timm.create_model("deit_tiny_patch16_224", img_size=64).eval(), torch.randn(SAMPLES, 3, 64, 64)


def small_bert() -> tuple[nn.Module, Any]:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=1000
    )
    ids = torch.randint(1000, (SAMPLES, 16))
    return transformers.BertForSequenceClassification(config).eval(), {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


NETWORKS = {
    "resnet18": lambda: digits("resnet18"),
    "mobilenetv2_050": lambda: digits("mobilenetv2_050"),
    "vit": lambda: digits("vit"),
    "deit_tiny": deit_tiny,
    "small bert": small_bert,
}


def part(batch: Any, samples: slice) -> Any:
    return {name: each[samples] for name, each in batch.items()} if isinstance(batch, dict) else batch[samples]


def quantized(model: nn.Module, batch: Any, bits: int | None) -> ribs.Result:
    """At these bits, or random ones."""
    choose = random.Random(0)
    units = ribs.count(model, part(batch, slice(1))).units
    mixed = {unit: (choose.randint(2, 8), choose.randint(2, 8)) for unit in units}
    return ribs.quantize(model, [part(batch, slice(64))], bits or mixed, progress=False)


def logits(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.logits


class Runtimes:
    """Versions of runtimes, each in a process of its own."""

    def __init__(self, onnxruntime: list[str], openvino: str | None) -> None:
        self.programs = [(folder, RUN_ONNXRUNTIME, "onnxruntime") for folder in ("", *onnxruntime)]
        self.programs += [(openvino, RUN_OPENVINO, "OpenVINO")] if openvino else []

    def run(self, file: Path, feeds: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        found = {}
        inputs, outputs = file.with_suffix(".npz"), file.with_suffix(".npy")
        np.savez(inputs, **feeds)
        for folder, program, name in self.programs:
            paths = [each for each in (folder, os.environ.get("PYTHONPATH")) if each]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            command = [sys.executable, "-c", program, file, inputs, outputs]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} of {folder or 'here'}:\n{done.stderr}")
            found[f"{name} {done.stdout.split()[-1]}"] = torch.from_numpy(np.load(outputs))
        return found


@torch.no_grad()
def rows(name: str, runtimes: Runtimes, packing: str) -> list[list[str]]:
    model, batch = NETWORKS[name]()
    found = []
    for bits in (2, 8, None):
        result = quantized(model, batch, bits)
        expected = logits(result.model(**batch) if isinstance(batch, dict) else result.model(batch))
        with tempfile.TemporaryDirectory() as folder:
            file, began = Path(folder) / "a.onnx", time.perf_counter()
            exported = result.export_onnx(file, part(batch, slice(16)), packing)
            seconds = time.perf_counter() - began
            feeds = batch if isinstance(batch, dict) else {"x": batch}
            outputs = runtimes.run(file, {key: each.numpy() for key, each in feeds.items()})
        verified, best = exported.verified, expected.topk(2).values
        outside = best[:, 0] - best[:, 1] > 4 * verified.optimised_floor
        same = {runtime: output.argmax(1) == expected.argmax(1) for runtime, output in outputs.items()}
        wrong = {runtime: int((~each[outside]).sum()) for runtime, each in same.items()}
        assert not any(wrong.values()), f"{name}, {bits} bits: {wrong} of {int(outside.sum())} differ"
        claimed = result.size_mib * 2**20
        layers = sum(layer.weights > 0 for layer in result.costs.layers)
        products = len(result.costs.layers)
        found.append(
            [
                *(name, str(bits or "mixed")),
                *(f"{each:,.0f}" for each in (claimed, exported.weight_bytes, exported.bytes)),
                f"{verified.exact:.1g} / {verified.exact_floor:.1g}",
                f"{verified.optimised:.1g} / {verified.optimised_floor:.1g}",
                f"{sum(verified.kernels.values())} of {products}",
                f"{int(outside.sum())}",
                *(f"{int(each.sum())}" for each in same.values()),
                f"{seconds:.0f}",
            ]
        )
        assert packing == "native" or exported.weight_bytes - claimed < 8 * layers
        runtimes.names = list(outputs)
        print(*found[-1], sep="  ", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--packing", default="packed", choices=["packed", "native"])
    parser.add_argument("--onnxruntime", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--openvino", metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runtimes = Runtimes(arguments.onnxruntime, arguments.openvino)
    found = [row for name in arguments.networks for row in rows(name, runtimes, arguments.packing)]
    head = ["network", "bits", "claimed", "weights", "file", "differs", "optimised", "integer", "clear"]
    print(
        f"Bytes; largest difference of outputs / that of noise; products in integers; of {SAMPLES} samples those that"
    )
    print("are clear of noise, and those with the network's top-1 by runtime; seconds of the export.\n")
    print(text_table([*head, *runtimes.names, "s"], found, right=range(2, len(head) + len(runtimes.names) + 1)))


if __name__ == "__main__":
    main()
