"""Training at the bits of a search beside uniform bits, and a training step beside LSQ in plain torch.

Run: python benchmarks/qat.py [--network resnet18] [--bits 3/3 2/2*] [--methods uniform ribs pact fracbits] [--seeds 3]
    [--epochs 3] [--batches 100] [--updates 200] [--device cpu|cuda] [--rounds 5] [--compile]
     python benchmarks/qat.py --merge LOG...
Needs the extras `demo` and `train`; the network is trained once. All trainings have the same data, length and rates: of
LSQ, at uniform bits or those of ribs, and of PACT at uniform bits. FracBits and NIPQ learn their bits before, in a
training of so many updates (by default of the same length), and have LSQ at them. "2/2*" is the network of LSQ's paper,
whose first and last layers have 8 bits; its bit operations are then the budget, and all layers are free. Each training
prints a line of JSON, of which --merge makes one table where several processes have shared the work.
"""

import argparse
import copy
import functools
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from run import machine
from timing import interleave, medians
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ribs
from ribs.cli import digits
from ribs.qat import Training, fit, parameter_groups, prepare
from ribs.qat.rivals.learned_bits import learn_bits
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FakeQuantizer, code_range
from ribs.select.table import text_table

METHODS = ("uniform", "ribs", "pact", "fracbits", "nipq")
NO_WORK = ("detach", "view", "select", "t", "expand", "unsqueeze", "squeeze", "alias", "_unsafe_view", "as_strided",
           "transpose", "permute", "_reshape_alias", "empty", "empty_like")  # fmt: skip


class Stream:
    """Fresh canvases in every epoch, the same in every run of a seed."""

    def __init__(self, count: int, batches: int, size: int, seed: int) -> None:
        self.count, self.batches, self.size, self.seed, self.epoch = count, batches, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return digits.batches("train", self.count, self.size, self.batches, seed=1000 * (self.seed + 1) + self.epoch)


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def scale(quantizer: FakeQuantizer, x: Tensor) -> float:
    features = x.numel() if quantizer.symmetric else x[0].numel()
    return 1 / math.sqrt(features * code_range(quantizer.bits, quantizer.symmetric)[1])


def eager(quantizer: FakeQuantizer, x: Tensor) -> Tensor:
    """LSQ as its re-implementations have it."""
    qmin, qmax = code_range(quantizer.bits, quantizer.symmetric)
    factor, zero = scale(quantizer, x), quantizer.zero_point[0]
    step = (quantizer.step - quantizer.step * factor).detach() + quantizer.step * factor
    return Rounded.apply(torch.clamp(x / step, qmin - zero, qmax - zero)) * step


def learnable(quantizer: FakeQuantizer, x: Tensor) -> Tensor:
    """Torch's own operator, which multiplies by the inverse of the step."""
    qmin, qmax = code_range(quantizer.bits, quantizer.symmetric)
    zero = quantizer.zero_point.float()
    return torch._fake_quantize_learnable_per_tensor_affine(x, quantizer.step, zero, qmin, qmax, scale(quantizer, x))


def variant(network: nn.Module, function) -> nn.Module:
    """The network with other arithmetic in its quantizers."""
    made = copy.deepcopy(network)
    for layer in made.modules():
        if isinstance(layer, QuantizedLayer):
            for quantizer in (layer.weight_quantizer, layer.input_quantizer):
                quantizer.forward = functools.partial(function, quantizer)
    return made


class Step:
    """A training step; waits for the device."""

    def __init__(self, network: nn.Module, x: Tensor, labels: Tensor, *, compiled: bool = False) -> None:
        self.network, self.x, self.labels = network.train(), x, labels
        self.optimizer = torch.optim.SGD(parameter_groups(network, lr=1e-4), momentum=0.9)
        self.run = torch.compile(network) if compiled else network

    def __call__(self) -> Tensor:
        loss = F.cross_entropy(self.run(self.x), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.x.is_cuda:
            torch.cuda.synchronize()
        return loss.detach()


class Operators(TorchDispatchMode):
    """Counts the operators of torch that run and move data; on a GPU each is a kernel or more."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ not in NO_WORK
        return func(*args, **(kwargs or {}))


def operators(step: Step) -> int:
    with Operators() as mode:
        step()
    return mode.count


def speed(model: nn.Module, count: int, options: argparse.Namespace) -> list[list[str]]:
    """Milliseconds of a training step at W4A4, and its operators for each quantizer."""
    model = copy.deepcopy(model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.abs_()  # plain LSQ does not know of channels whose sign folding turns
    loader = list(digits.batches("train", count, options.batch_size, 2, seed=5))
    x, labels = (each.to(options.device) for each in loader[0])
    network = prepare(model, loader, 4)
    networks = {"ribs": network, "eager LSQ": variant(network, eager), "torch's learnable": variant(network, learnable)}
    want = Step(copy.deepcopy(network), x, labels)()
    for name, each in networks.items():
        torch.testing.assert_close(Step(copy.deepcopy(each), x, labels)(), want, rtol=5e-2, atol=0, msg=name)
    steps = {name: Step(each, x, labels) for name, each in networks.items()}
    steps["float"] = Step(copy.deepcopy(model), x, labels)
    quantizers = sum(isinstance(each, FakeQuantizer) for each in network.modules())
    counts = {name: (operators(step) - operators(steps["float"])) / quantizers for name, step in steps.items()}
    if options.compile:
        for name in ("ribs", "eager LSQ"):
            steps[f"{name}, compiled"] = Step(copy.deepcopy(networks[name]), x, labels, compiled=True)
    found = medians(interleave(steps, options.rounds))
    per_quantizer = {name: 1e6 * (found[name] - found["float"]) / quantizers for name in steps}
    return [
        [
            name,
            f"{1e3 * found[name]:.1f}",
            f"{found[name] / found['ribs']:.2f}",
            f"{per_quantizer[name]:.0f}",
            f"{counts[name]:.1f}" if name in counts else "",
        ]
        for name in steps
    ]


def uniform(bits: str, model: nn.Module, calibration: list) -> tuple[int, int] | dict[str, tuple[int, int]]:
    """The same bits for all layers, or for "2/2*" 8 for the first and the last."""
    weight, activation = map(int, bits.removesuffix("*").split("/"))
    if not bits.endswith("*"):
        return weight, activation
    layers = list(ribs.quantize(model, calibration, 8, progress=False).bits)
    return {layer: (weight, activation) for layer in layers} | {layers[0]: (8, 8), layers[-1]: (8, 8)}


def choose(name: str, model: nn.Module, calibration: list, bits: str, options: argparse.Namespace) -> tuple:
    """The bits of a method at the BOPs of a uniform network, and how it trains."""
    given = uniform(bits, model, calibration)
    budget = ribs.Budget(bops=ribs.quantize(model, calibration, given, progress=False).bops)
    if name in ("fracbits", "nipq"):
        stream = Stream(digits.RECIPES[options.network].digits, options.batches, options.batch_size, 0)
        training = training_of(options, 0)
        if options.updates is not None:
            training = replace(training, epochs=-(-options.updates // options.batches))
        return learn_bits(model, stream, budget, method=name, training=training, calibration_samples=512), "lsq"
    if name == "ribs":
        return ribs.search(model, calibration, budget, algorithm="paper", iterations=1, progress=False), "lsq"
    return given, "pact" if name == "pact" else "lsq"


def training_of(options: argparse.Namespace, seed: int) -> Training:
    return Training(epochs=options.epochs, lr=options.lr, step_lr=options.step_lr, seed=seed)


def trainings(model: nn.Module, test: tuple, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Train by all methods with one seed after the other, so that a run that is cut short compares as well."""
    count = digits.RECIPES[options.network].digits
    calibration = list(digits.batches("train", count, 64, 8, seed=100))
    for bits in options.bits:
        chosen, before = {}, {}
        for name in options.methods:
            started = time.perf_counter()
            chosen[name] = choose(name, model, calibration, bits, options)
            before[name] = ribs.quantize(
                model, calibration, getattr(chosen[name][0], "bits", chosen[name][0]), progress=False
            )
            print(f"{bits}, {name}: bits in {time.perf_counter() - started:.0f} s: {before[name].bits}", flush=True)
        for seed, name in itertools.product(range(options.seeds), options.methods):
            started, (given, method) = time.perf_counter(), chosen[name]
            stream = Stream(count, options.batches, options.batch_size, seed)
            arguments = {"method": method, "calibration_samples": 512, "progress": False}
            fitted = fit(model, stream, given, training=training_of(options, seed), **arguments)
            row = {"network": options.network, "bits": bits, "method": name, "seed": seed}
            row |= {"gbops": before[name].bops / 1e9, "before": digits.accuracy(before[name].model, *test)}
            row |= {"trained": digits.accuracy(fitted.result.model, *test), "seconds": time.perf_counter() - started}
            print(json.dumps(row), flush=True)
            yield row


def summary(rows: list[dict]) -> str:
    """A table with a row for each network, budget and method."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["bits"], row["method"]), []).append(row)
    lines = []
    for group, runs in groups.items():
        found = [run["trained"] for run in runs]
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        line = [*group, f"{runs[0]['gbops']:.4f}", f"{runs[0]['before']:.2f}", f"{statistics.mean(found):.2f}"]
        line += [f"{error:.2f}", " ".join(f"{each:.2f}" for each in found)]
        lines.append([*line, f"{statistics.mean(run['seconds'] for run in runs):.0f}"])
    header = ["network", "BOPs of", "method", "GBOPs", "before %", "trained %", "standard error", "by seed", "s each"]
    return text_table(header, lines, right=(3, 4, 5, 6, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--bits", nargs="*", default=["3/3", "2/2"])
    parser.add_argument("--methods", nargs="*", default=["uniform", "ribs"], choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, default=100, help="of an epoch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--step-lr", type=float, default=0.01)
    parser.add_argument("--updates", type=int, help="of the bits, by FracBits and NIPQ")
    parser.add_argument("--images", type=int, default=4000, help="to test on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing; 0 leaves it away")
    parser.add_argument("--compile", action="store_true", help="time compiled steps too")
    parser.add_argument("--merge", type=Path, nargs="+", help="outputs of this script, to be made one table")
    options = parser.parse_args()
    if options.merge:
        lines = [line for path in options.merge for line in path.read_text().splitlines() if line.startswith("{")]
        print(summary([json.loads(line) for line in lines]))
        return
    torch.set_num_threads(1)
    count = digits.RECIPES[options.network].digits
    model = digits.trained(options.network).to(options.device)
    images, labels = (digits.one_digit if count == 1 else digits.two_digits)("test", options.images, 1)
    test = images.to(options.device), labels.to(options.device)
    print(f"{options.network}: {machine('cuda' if options.device.startswith('cuda') else 'cpu')}", flush=True)
    if options.rounds:
        print(f"\nA training step, batch {options.batch_size}, W4A4:\n")
        header = ["step", "ms", "of ribs", "us a quantizer", "operators a quantizer"]
        print(text_table(header, speed(model, count, options), right=(1, 2, 3, 4)), flush=True)
    print(
        f"\n{options.epochs} epochs of {options.batches} batches of {options.batch_size}, {options.seeds} seeds; float "
        f"{digits.accuracy(model, *test):.2f} % of {options.images} test images\n",
        flush=True,
    )
    print(summary(list(trainings(model, test, options))))


if __name__ == "__main__":
    main()
