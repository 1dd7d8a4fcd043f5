"""Steps alone, AdaRound, BRECQ and QDrop on a trained network, and a step of QDrop beside plain torch.

Run: python benchmarks/reconstruction.py [--network resnet18] [--bits 4/4 3/3 2/4] [--methods QDrop] [--iterations N]
    [--samples N] [--recipe residual] [--device cuda]
Needs the extra `demo`; the network is trained once. The learning rates are those of 20,000 iterations times --faster.
"""

import argparse
import copy
import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import torch
from run import machine
from timing import interleave, medians
from torch import Tensor, nn

import ribs
from ribs import ops
from ribs.cli import digits
from ribs.ops import soft_twin
from ribs.quant.inputs import collect
from ribs.quant.layers import QuantizedLayer
from ribs.quant.network import Bits
from ribs.quant.redirect import call_alone
from ribs.recon.batches import Batches
from ribs.recon.captures import CAPTURES, LEAST, Captures
from ribs.recon.optimise import Optimisation
from ribs.recon.pieces import find_pieces
from ribs.recon.run import Reconstruction
from ribs.select.loss import kl_divergence
from ribs.select.result import Result
from ribs.select.table import text_table


def methods(iterations: int, faster: float) -> dict[str, ribs.AdaRound]:
    facts = {"iterations": iterations, "weight_lr": 1e-3 * faster}
    return {
        "AdaRound": ribs.AdaRound(**facts),
        "BRECQ": ribs.BRECQ(**facts, activation_lr=4e-4 * faster),
        "QDrop": ribs.QDrop(**facts, activation_lr=4e-5 * faster),
    }


def quality(model: nn.Module, logits: Tensor, images: Tensor, labels: Tensor) -> list[str]:
    """The task loss on images that nothing was learned from, its standard error, and top-1."""
    with torch.no_grad():
        losses = kl_divergence(logits, torch.cat([model(x) for x in images.split(250)])).cpu()
    error = float(losses.std()) / len(losses) ** 0.5
    return [f"{float(losses.mean()):.4f}", f"{error:.4f}", f"{digits.accuracy(model, images, labels):.2f}"]


class PlainStep:
    """A step of QDrop on one block as it is written down plainly: eager operators, and torch's default Adam."""

    def __init__(self, optimisation: Optimisation, module: nn.Module) -> None:
        self.method, self.module = optimisation.method, copy.deepcopy(module)
        self.alphas = [each.alpha.detach().clone().requires_grad_() for each in optimisation.roundings]
        self.steps = [each.step.detach().clone().requires_grad_() for each in optimisation.steps]
        self.adam = [torch.optim.Adam(self.alphas, self.method.weight_lr), torch.optim.Adam(self.steps)]
        layers = [module for module in self.module.modules() if isinstance(module, QuantizedLayer)]
        self.soft: list[Tensor] = []
        for layer, alpha, step in zip(layers, self.alphas, self.steps, strict=True):
            layer.weight_quantizer.forward = self.rounding(layer, alpha)
            layer.input_quantizer.forward = self.activation(layer, step)

    def rounding(self, layer: QuantizedLayer, alpha: Tensor):
        index = layer.weight_quantizer.choices.index(layer.weight_quantizer.bits)
        step = layer.weight_quantizer.step[index].view(-1, *[1] * (layer.weight.dim() - 1))
        high = 2 ** (layer.weight_quantizer.bits - 1)

        def forward(weight: Tensor) -> Tensor:
            h = torch.clamp(torch.sigmoid(alpha) * 1.2 - 0.1, 0, 1)
            self.soft.append(h)
            return torch.clamp(torch.floor(weight / step) + h, -high, high - 1) * step

        return forward

    def activation(self, layer: QuantizedLayer, step: Tensor):
        quantizer = layer.input_quantizer
        zero = quantizer.zero_point[quantizer.choices.index(quantizer.bits)]
        high = 2**quantizer.bits - 1

        def forward(x: Tensor) -> Tensor:
            scale = 1 / math.sqrt(x.numel() * high)
            scaled = step * scale + (step - step * scale).detach()
            u = x / scaled
            code = (u + (u.round() - u).detach() + zero).clamp(0, high)
            values = (code - zero) * scaled
            return torch.where(torch.rand_like(x) < self.method.keep, values, x)

        return forward

    def step(self, iteration: int, x: Tensor, target: Tensor) -> Tensor:
        self.soft.clear()
        cosine = (1 + math.cos(math.pi * iteration / self.method.iterations)) / 2
        self.adam[1].param_groups[0]["lr"] = self.method.step_lr * cosine
        error = (self.module(x) - target).abs().pow(2).sum(1).mean()
        loss, beta = error, self.method.beta_at(iteration)
        if beta > 0:
            loss = loss + sum(self.method.penalty * (1 - (2 * h - 1).abs().pow(beta)).sum() for h in self.soft)
        for adam in self.adam:
            adam.zero_grad()
        loss.backward()
        for adam in self.adam:
            adam.step()
        return error.detach()


def operators(rounds: int) -> list[list[str]]:
    """A forward and a backward pass of each operator beside plain torch, in ms."""
    weight, zero = 0.1 * torch.randn(512, 256, 3, 3), torch.zeros(512, dtype=torch.int32)
    alpha, step, beta = torch.randn_like(weight).requires_grad_(), torch.full((512,), 0.05), 10.0
    x, one = torch.randn(32, 64, 32, 32).requires_grad_(), torch.tensor(0.2, requires_grad=True)

    def soft_round() -> tuple[Tensor, ...]:
        values, penalty = ops.soft_round(weight, alpha, step, zero, -4, 3, 0, beta=beta)
        return torch.autograd.grad(values.sum() + penalty, alpha)

    def soft_round_plainly() -> tuple[Tensor, ...]:
        h = torch.clamp(torch.sigmoid(alpha) * 1.2 - 0.1, 0, 1)
        each = step.view(-1, 1, 1, 1)
        values = torch.clamp(torch.floor(weight / each) + h, -4, 3) * each
        return torch.autograd.grad(values.sum() + (1 - (2 * h - 1).abs().pow(beta)).sum(), alpha)

    def drop() -> tuple[Tensor, ...]:
        return torch.autograd.grad(ops.drop(x, one, zero[0], 0, 15, seed=1).sum(), (x, one))

    def drop_plainly(kept: Tensor | None = None) -> tuple[Tensor, ...]:
        kept = torch.rand_like(x) < 0.5 if kept is None else kept
        u = torch.clamp(x / one, 0, 15)
        values = (u + (u.round() - u).detach()) * one
        return torch.autograd.grad(torch.where(kept, values, x).sum(), (x, one))

    torch.testing.assert_close(soft_round(), soft_round_plainly(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drop(), drop_plainly(soft_twin.kept(x, 0.5, 1)), rtol=1e-3, atol=1e-3)
    found = medians(
        interleave({each.__name__: each for each in (soft_round, soft_round_plainly, drop, drop_plainly)}, rounds)
    )
    names = {"soft_round": f"{weight.numel():,} weights", "drop": f"{x.numel():,} values"}
    return [row(f"{name}, {size}", found[name], found[f"{name}_plainly"]) for name, size in names.items()]


def times(model: nn.Module, loader: list[Tensor], rounds: int) -> list[list[str]]:
    """Seconds of a step of QDrop, with the regulariser, of every block, beside the plain one.

    On a GPU ours is captured as a CUDA graph, as in a reconstruction.
    """
    device = next(model.parameters()).device
    result = ribs.quantize(model, loader, 4, progress=False)
    method = ribs.QDrop(iterations=10)
    [phase] = method.phases
    inputs = [each.to(device) for each in collect(model, loader, 64)]
    run = Reconstruction(result.model, result.costs.layers, inputs, method, loss=kl_divergence)
    rows, totals = [], [0.0, 0.0]
    for piece in find_pieces(run.reference, run.layers, phase.whole, inputs[0].head(2)):
        module = result.model.get_submodule(piece.name)
        call = functools.partial(call_alone, result.model, module)
        ours = Optimisation(method, phase, call, *run._softs(piece, phase))
        plain = PlainStep(ours, module)
        store = run._stored(piece, phase)
        ((x,), _), target, _ = Batches(store, phase.keep, method.batch_size, run.generator).present()
        repeated = Captures(device).repeated(lambda: ours.step(((x,), {}), target), LEAST)  # noqa: B023

        def step() -> None:
            ours.begin(5)  # noqa: B023
            repeated()  # noqa: B023

        want = plain.step(5, x, target)
        step()
        # Other values are quantized, so errors agree as the means of two random draws do.
        torch.testing.assert_close(ours.error, want, rtol=0.3, atol=1e-6)
        forms = {"ribs": step, "plain": lambda: plain.step(5, x, target)}  # noqa: B023
        found = medians(interleave({name: several(form, device) for name, form in forms.items()}, rounds))
        found = {name: seconds / steps_of(device) for name, seconds in found.items()}
        totals = [totals[0] + found["ribs"], totals[1] + found["plain"]]
        rows.append(row(piece.name, found["ribs"], found["plain"]))
    return [*rows, row("all", *totals)]


def plainly(quantized: Result, loader: list[Tensor], method: ribs.QDrop) -> Result:
    """What QDrop makes of a network with the plain steps above; inputs, targets and batches are drawn as ours are."""
    result = replace(quantized, model=copy.deepcopy(quantized.model))
    run = Reconstruction(
        result.model, result.costs.layers, collect(result.model, loader, 10**6), method, loss=kl_divergence
    )
    [phase] = method.phases
    for piece in run.pieces:
        roundings, steps = run._softs(piece, phase)
        module = result.model.get_submodule(piece.name)
        plain = PlainStep(Optimisation(method, phase, module, roundings, steps), module)
        batches = Batches(run._stored(piece, phase), phase.keep, method.batch_size, run.generator)
        for iteration in range(phase.iterations):
            batches.draw()
            ((x,), _), target, _ = batches.present()
            plain.step(iteration, x, target)
        for soft, found in zip([each.alpha for each in roundings], plain.alphas, strict=True):
            soft.data.copy_(found.data)
        for soft, found in zip([each.step for each in steps], plain.steps, strict=True):
            soft.data.copy_(found.data)
        for each in (*roundings, *steps):
            each.finish()
    return result


def beside_plain(model: nn.Module, loader: list[Tensor], method: ribs.QDrop, test: tuple[Tensor, ...]) -> str:
    """Ours and the plain loop at W3A3, as many steps of either: the loss on test images, and seconds."""
    quantized = ribs.quantize(model, loader, 3, progress=False)
    rows = []
    for name, run in {
        "ribs": lambda: ribs.reconstruct(quantized, loader, method=method, progress=False),
        "plain torch": lambda: plainly(quantized, loader, method),
    }.items():
        started = time.perf_counter()
        found = run()
        shown = quality(found.model, *test)  # which waits for a GPU
        rows.append([name, *shown, f"{time.perf_counter() - started:.1f}"])
        print(rows[-1], flush=True)
    return text_table(["loop", "task loss", "standard error", "top-1 %", "seconds"], rows, right=(1, 2, 3, 4))


def check_captured(model: nn.Module, loader: list[Tensor]) -> str:
    """Whether steps captured as a CUDA graph leave the bits that the loop leaves, and how long either takes."""
    method = ribs.QDrop(iterations=100, weight_lr=0.02, activation_lr=1e-3)
    states, seconds = [], []
    torch.backends.cudnn.deterministic = True
    for captures in ({}, dict(CAPTURES)):
        with mock.patch.dict(CAPTURES, captures, clear=True):
            started = time.perf_counter()
            found = ribs.reconstruct(model, loader, 3, method=method, progress=False)
            seconds.append(time.perf_counter() - started)
        states.append(found.model.state_dict())
    torch.backends.cudnn.deterministic = False
    loop, captured = states
    differ = [name for name, value in loop.items() if not torch.equal(value, captured[name])]
    return (
        f"100 steps of QDrop for each piece: {seconds[0]:.1f} s one by one, {seconds[1]:.1f} s captured; tensors that "
        f"differ: {len(differ)} of {len(loop)}"
    )


def steps_of(device: torch.device) -> int:
    """How many steps are timed together: a single one on a GPU is mostly waiting for it."""
    return 1 if device.type == "cpu" else 50


def several(step: Callable[[], object], device: torch.device) -> Callable[[], None]:
    def run() -> None:
        for _ in range(steps_of(device)):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def row(name: str, ours: float, plain: float) -> list[str]:
    return [name, f"{ours * 1e3:.2f}", f"{plain * 1e3:.2f}", f"{plain / ours:.2f}"]


def as_bits(text: str) -> Bits:
    weight, activation = map(int, text.split("/"))
    return weight, activation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--bits", nargs="*", type=as_bits, default=[(4, 4), (3, 3), (2, 4)])
    parser.add_argument("--methods", nargs="*", default=["AdaRound", "BRECQ", "QDrop"])
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--faster", type=float, default=20)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--recipe", help="of the quantizers; by default the one that ribs chooses")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing; 0 leaves it away")
    parser.add_argument("--beside-plain", action="store_true", help="also reconstruct with a loop in plain torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ribs").setLevel(logging.INFO)  # it says where steps cannot be captured
    model, count = digits.trained(options.network), digits.RECIPES[options.network].digits
    loader = [x for x, _ in digits.batches("train", count, 64, math.ceil(options.samples / 64), seed=100)]
    images, labels = (digits.one_digit if count == 1 else digits.two_digits)("test", 2000, 1)
    print(f"{options.network}: {machine(options.device)}; 1 thread", flush=True)
    model, images, labels = model.to(options.device), images.to(options.device), labels.to(options.device)
    if options.rounds:
        if options.device == "cpu":
            print("\nForward and backward passes of the operators, ms:\n")
            print(text_table(["operator", "ribs", "plain torch", "ratio"], operators(options.rounds), right=(1, 2, 3)))
        else:
            print(check_captured(model, loader), flush=True)
        table = times(model, loader, options.rounds)
        print("\nA step of QDrop with the regulariser, batch 32, W4A4, ms:\n")
        print(text_table(["piece", "ribs", "plain torch", "ratio"], table, right=(1, 2, 3)), flush=True)
    with torch.no_grad():
        test = torch.cat([model(x) for x in images.split(250)]), images, labels
    if options.beside_plain:
        print(f"\n{options.iterations} steps of QDrop for each block at W3A3, learning rates x {options.faster:g}:\n")
        method = methods(options.iterations, options.faster)["QDrop"]
        print(beside_plain(model, loader, method, test), flush=True)
    print(f"\n{options.iterations} iterations, {options.samples} samples, learning rates x {options.faster:g}")
    print(f"float: {digits.accuracy(model, images, labels):.2f} % of {len(labels)} test images\n", flush=True)
    header = ["bits", "method", "task loss", "standard error", "top-1 %", "CPU seconds"]
    rows = []
    for bits in options.bits:
        quantized = ribs.quantize(model, loader, bits, recipe=options.recipe, progress=False)
        rows.append([f"W{bits[0]}A{bits[1]}", "steps only", *quality(quantized.model, *test), ""])
        print(rows[-1], flush=True)
        for name in options.methods:
            method = methods(options.iterations, options.faster)[name]
            started = time.process_time()
            found = ribs.reconstruct(quantized, loader, method=method, progress=False)
            seconds = time.process_time() - started
            rows.append([f"W{bits[0]}A{bits[1]}", name, *quality(found.model, *test), f"{seconds:.0f}"])
            print(rows[-1], flush=True)
    print(text_table(header, rows, right=range(2, len(header))))


if __name__ == "__main__":
    main()
