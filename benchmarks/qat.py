"""Training at the bits of a search beside uniform bits, and a training step beside LSQ in plain torch.

Run: python benchmarks/qat.py [--network resnet18] [--bits 3/3 2/2] [--methods uniform ribs pact fracbits] [--seeds 3]
    [--epochs 3] [--batches 100] [--device cpu|cuda] [--rounds 5] [--compile]
Needs the extras `demo` and `train`; the network is trained once. All trainings have the same data, length and rates: of
LSQ, at uniform bits or those of ribs, and of PACT at uniform bits. FracBits and NIPQ learn their bits before, in a
training of the same length, and have LSQ at them.
"""

import argparse
import copy
import functools
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from run import machine
from timing import interleave, medians
from torch import Tensor, nn

import ribs
from ribs.cli import digits
from ribs.qat import Training, fit, parameter_groups, prepare
from ribs.qat.rivals.learned_bits import learn_bits
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FakeQuantizer, code_range
from ribs.select.table import text_table

METHODS = ("uniform", "ribs", "pact", "fracbits", "nipq")


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


def speed(model: nn.Module, count: int, options: argparse.Namespace) -> list[list[str]]:
    """Milliseconds of a training step at W4A4."""
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
    if options.compile:
        for name in ("ribs", "eager LSQ"):
            steps[f"{name}, compiled"] = Step(copy.deepcopy(networks[name]), x, labels, compiled=True)
    found = medians(interleave(steps, options.rounds))
    return [[name, f"{1e3 * found[name]:.1f}", f"{found[name] / found['ribs']:.2f}"] for name in steps]


def choose(name: str, model: nn.Module, calibration: list, bits: str, stream: Stream, training: Training) -> tuple:
    """The bits of a method at the BOPs of uniform bits, and how it trains."""
    budget = ribs.Budget(bops=bits)
    if name in ("fracbits", "nipq"):
        options = {"training": training, "calibration_samples": 512}
        return learn_bits(model, stream, budget, method=name, **options), "lsq"
    if name == "ribs":
        return ribs.search(model, calibration, budget, algorithm="paper", iterations=1, progress=False), "lsq"
    return tuple(map(int, bits.split("/"))), "pact" if name == "pact" else "lsq"


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
    parser.add_argument("--images", type=int, default=4000, help="to test on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing; 0 leaves it away")
    parser.add_argument("--compile", action="store_true", help="time compiled steps too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = digits.RECIPES[options.network].digits
    model = digits.trained(options.network).to(options.device)
    images, labels = (digits.one_digit if count == 1 else digits.two_digits)("test", options.images, 1)
    test = images.to(options.device), labels.to(options.device)
    print(f"{options.network}: {machine('cuda' if options.device.startswith('cuda') else 'cpu')}", flush=True)
    if options.rounds:
        print(f"\nA training step, batch {options.batch_size}, W4A4:\n")
        print(text_table(["step", "ms", "of ribs"], speed(model, count, options), right=(1, 2)), flush=True)
    print(
        f"\n{options.epochs} epochs of {options.batches} batches of {options.batch_size}, {options.seeds} seeds; float "
        f"{digits.accuracy(model, *test):.2f} % of {options.images} test images\n",
        flush=True,
    )
    calibration = list(digits.batches("train", count, 64, 8, seed=100))
    rows = []
    for bits in options.bits:
        for name in options.methods:
            training = Training(epochs=options.epochs, lr=options.lr, step_lr=options.step_lr)
            stream = Stream(count, options.batches, options.batch_size, 0)
            chosen, method = choose(name, model, calibration, bits, stream, training)
            before = ribs.quantize(model, calibration, getattr(chosen, "bits", chosen), progress=False)
            accuracies, started = [], time.perf_counter()
            for seed in range(options.seeds):
                training = replace(training, seed=seed)
                stream = Stream(count, options.batches, options.batch_size, seed)
                fitted = fit(
                    model, stream, chosen, training=training, method=method, calibration_samples=512, progress=False
                )
                accuracies.append(digits.accuracy(fitted.result.model, *test))
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan
            row = [bits, name, f"{before.bops / 1e9:.4f}", f"{digits.accuracy(before.model, *test):.2f}"]
            row += [f"{statistics.mean(accuracies):.2f}", f"{spread / math.sqrt(len(accuracies)):.2f}"]
            row += [" ".join(f"{each:.2f}" for each in accuracies)]
            rows.append([*row, f"{(time.perf_counter() - started) / options.seeds:.0f}"])
            print(rows[-1], flush=True)
    header = ["BOPs of", "method", "GBOPs", "before %", "trained %", "standard error", "by seed", "s each"]
    print(text_table(header, rows, right=(2, 3, 4, 5, 7)))


if __name__ == "__main__":
    main()
