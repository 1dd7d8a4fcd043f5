"""ONNX files of networks beside the networks: their size, integer kernels, time, and top-1 in several runtimes.

Run: python benchmarks/export.py [--networks NAME ...] [--packing packed native] [--onnxruntime FOLDER ...]
    [--openvino FOLDER] [--steps 100]
A FOLDER holds another version, as `pip install --no-deps --target FOLDER onnxruntime==1.20.1` makes it. Networks are
trained once (see `ribs demo`), and below 8 bits for some steps of LSQ. Every line is checked: `export_onnx` itself
compares the file with the network; and each runtime gives the network's top-1 on every test sample that is clear of
noise: where none of 16 draws of the noise with which `export_onnx` compares files takes half of the distance between
the best two logits.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ribs
from ribs.cli import digits
from ribs.io.export.noise import under_noise
from ribs.io.export.sites import Packing
from ribs.io.export.versions import ONNX
from ribs.quant.inputs import as_inputs
from ribs.select.table import text_table

SAMPLES = 256
VERSION = "import {0}; print({0}.__version__.partition('-')[0])"
# Prints the milliseconds of the processor for loading the file and for a pass, the best of several.
RUN_ONNXRUNTIME = """
import sys, time, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
began = time.process_time()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
load = time.process_time() - began
feeds = dict(numpy.load(sys.argv[2]))
def once():
    began = time.process_time()
    found = session.run(None, feeds)[0]
    return time.process_time() - began, found
times, outputs = zip(*(once() for _ in range(7)))
numpy.save(sys.argv[3], outputs[0])
print(1e3 * load, 1e3 * min(times))
"""
RUN_OPENVINO = """
import sys, numpy, openvino
core = openvino.Core()
model = core.compile_model(core.read_model(sys.argv[1]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(sys.argv[3], model(dict(numpy.load(sys.argv[2])))[0])
"""


@dataclass(frozen=True)
class Task:
    """A trained network and its data: draw(split, count, seed) -> (batch, labels)."""

    model: nn.Module
    draw: Callable[[str, int, int], tuple[Any, Tensor]]


def of_digits(name: str) -> Task:
    return Task(digits.trained(name), digits.two_digits if digits.RECIPES[name].digits == 2 else digits.one_digit)


def deit_tiny() -> Task:
    import timm

    def build() -> nn.Module:
        return timm.create_model("deit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1, num_classes=10)

    rest = {"lr": 5e-4, "weight_decay": 0.05, "optimizer": "adamw"}
    digits.RECIPES["deit_tiny"] = digits.Recipe(build, digits=1, batches=500, batch_size=64, **rest)
    return of_digits("deit_tiny")


def small_bert() -> Task:
    """It says whether most words of a sentence are in the first half of the vocabulary."""
    import transformers

    def draw(split: str, count: int, seed: int) -> tuple[Any, Tensor]:
        generator = torch.Generator().manual_seed(seed + (split == "test") * 10**6)
        ids = torch.randint(1000, (count, 15), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ((ids < 500).sum(1) > 7).long()

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=1000
    )
    task = Task(transformers.BertForSequenceClassification(config), draw)
    train(task.model, task, torch.optim.AdamW(task.model.parameters(), lr=1e-3), steps=300)
    return task


NETWORKS = {
    "resnet18": lambda: of_digits("resnet18"),
    "mobilenetv2_050": lambda: of_digits("mobilenetv2_050"),
    "deit_tiny": deit_tiny,
    "small bert": small_bert,
}


def train(network: nn.Module, task: Task, optimizer: torch.optim.Optimizer, steps: int) -> None:
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for step in range(steps):
        batch, labels = task.draw("train", 64, step)
        loss = F.cross_entropy(logits(network, batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def quantized(task: Task, bits: int | None, steps: int) -> ribs.Result:
    """At these bits, or random ones, trained where they are below 8."""
    loader = [task.draw("train", 64, 10**5 + number)[0] for number in range(4)]
    choose = random.Random(0)
    units = ribs.count(task.model, part(loader[0], slice(1))).units
    chosen = bits or {unit: (choose.randint(2, 8), choose.randint(2, 8)) for unit in units}
    if bits == 8:
        return ribs.quantize(task.model, loader, bits, progress=False)
    network = ribs.qat.prepare(task.model, loader, chosen)
    train(network, task, torch.optim.AdamW(ribs.qat.parameter_groups(network, lr=1e-3)), steps)
    return ribs.qat.finish(network, task.model, loader)


def part(batch: Any, samples: slice) -> Any:
    return {name: each[samples] for name, each in batch.items()} if isinstance(batch, dict) else batch[samples]


def logits(network: nn.Module, batch: Any) -> Tensor:
    return network(**batch).logits if isinstance(batch, dict) else network(batch)


def margins(found: Tensor, best: Tensor) -> Tensor:
    """What the logits at `best` are above all others."""
    best = best[:, None]
    return (found.gather(1, best) - found.scatter(1, best, -torch.inf).amax(1, keepdim=True))[:, 0]


def clear(result: ribs.Result, batch: Any, expected: Tensor, file: Path) -> Tensor:
    """The samples whose best logit noise does not bring half of the way down to the second."""
    nodes = [node for node in onnx.load(file).graph.node if node.op_type == "DequantizeLinear"]
    integer = [node.input[1] for node in nodes if node.input[1].endswith(".weight/step")]
    integer = [f"{name.removesuffix('/step')}_quantizer" for name in integer]
    best = expected.argmax(1)
    moved = [margins(each[0], best) for each in under_noise(result.model, as_inputs(result.model, batch), integer)]
    return torch.stack(moved).amin(0) > margins(expected, best) / 2


class Runtimes:
    """Versions of runtimes, each in a process of its own."""

    def __init__(self, onnxruntime: list[str], openvino: str | None) -> None:
        folders = [("onnxruntime", each) for each in ("", *onnxruntime)] + [("openvino", openvino)] * bool(openvino)
        self.folders = {}
        for name, folder in folders:
            self.folders[f"{name} {self._python(folder, VERSION.format(name)).strip()}"] = folder

    def run(self, file: Path, batch: Any, packing: str) -> tuple[dict[str, Tensor], list[float]]:
        """The outputs by runtime, of those that read such files; milliseconds of loading and of a pass in the first."""
        feeds = batch if isinstance(batch, dict) else {"x": batch}
        inputs, outputs = file.with_suffix(".npz"), file.with_suffix(".npy")
        np.savez(inputs, **{name: each.numpy() for name, each in feeds.items()})
        found, times = {}, []
        for name, folder in self.folders.items():
            package, version = name.split()
            if package == "onnxruntime" and tuple(map(int, version.split(".")[:2])) < ONNX[packing, 21][package]:
                continue
            program = RUN_ONNXRUNTIME if package == "onnxruntime" else RUN_OPENVINO
            printed = self._python(folder, program, file, inputs, outputs)
            times = times or [float(each) for each in printed.split()]
            found[name] = torch.from_numpy(np.load(outputs))
        return found, times

    def _python(self, folder: str, program: str, *arguments: Path) -> str:
        paths = [each for each in (folder, os.environ.get("PYTHONPATH")) if each]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{folder or 'here'}:\n{done.stderr}")
        return done.stdout


def rows(
    label: list[str], result: ribs.Result, data: tuple[Any, Tensor], runtimes: Runtimes, packings: list[Packing]
) -> Iterator[list[str]]:
    batch, labels = data
    expected, outside = logits(result.model, batch), None
    best, claimed = expected.argmax(1), result.size_mib * 2**20
    layers = sum(layer.weights > 0 for layer in result.costs.layers)
    for packing in packings:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "a.onnx"
            exported = result.export_onnx(file, part(batch, slice(16)), packing)
            outputs, times = runtimes.run(file, batch, packing)
            outside = clear(result, batch, expected, file) if outside is None else outside
        same = {runtime: output.argmax(1) == best for runtime, output in outputs.items()}
        wrong = {runtime: int((~each[outside]).sum()) for runtime, each in same.items()}
        assert not any(wrong.values()), f"{label}, {packing}: {wrong} of {int(outside.sum())} differ"
        assert packing == "native" or 0 <= exported.weight_bytes - claimed < 8 * layers
        verified = exported.verified
        yield [
            *(*label, packing, f"{100 * float((best == labels).float().mean()):.1f}"),
            *(f"{each:,.0f}" for each in (claimed, exported.weight_bytes, exported.bytes)),
            f"{verified.exact:.1g} / {verified.exact_floor:.1g}",
            f"{verified.optimised:.1g} / {verified.optimised_floor:.1g}",
            f"{sum(verified.kernels.values())} of {len(result.costs.layers)}",
            *(f"{each:.0f}" for each in times),
            f"{int(outside.sum())}",
            *(f"{int(same[runtime].sum())}" if runtime in same else "-" for runtime in runtimes.folders),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--packing", nargs="+", default=["packed", "native"], choices=["packed", "native"])
    parser.add_argument("--onnxruntime", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--openvino", metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=100, help="of training below 8 bits, of 64 samples")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runtimes, found = Runtimes(arguments.onnxruntime, arguments.openvino), []
    for name in arguments.networks:
        task = NETWORKS[name]()
        for bits in (2, 8, None):
            result = quantized(task, bits, arguments.steps)
            data = task.draw("test", SAMPLES, 7)
            with torch.no_grad():
                for each in rows([name, str(bits or "mixed")], result, data, runtimes, arguments.packing):
                    found.append(each)
                    print(*each, sep="  ", file=sys.stderr, flush=True)
    head = ["network", "bits", "packing", "top-1", "claimed", "weights", "file", "differs", "optimised", "integer"]
    head += ["load", "run", "clear", *runtimes.folders]
    print(
        f"Percent of {SAMPLES} test samples; bytes; largest difference of outputs / that of noise; integer products;\n"
        "milliseconds of one core to load the file and for all samples; samples that are clear of noise, and those\n"
        "with the network's top-1 by runtime. Integers and milliseconds are those of the first.\n"
    )
    print(text_table(head, found, right=range(3, len(head))))


if __name__ == "__main__":
    main()
