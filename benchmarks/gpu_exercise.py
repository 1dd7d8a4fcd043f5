"""Calls every operator on small tensors of awkward sizes and compares it with the CPU; compute-sanitizer watches."""

import argparse
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ribs import ops
from ribs.ops import twin

# Around a warp, a block and a segment of a sum; channels last; one channel; no channels.
SHAPES = [(1,), (31,), (33, 2), (257,), (3, 5, 7), (2, 3, 64, 65), (65, 40), (1, 4097), (0, 3)]


def same(name: str, found: Tensor, wanted: Tensor, **tolerance: float) -> None:
    """Compare, to the last bit without a tolerance."""
    tolerance = tolerance or {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(found.cpu(), wanted, equal_nan=True, msg=lambda text: f"{name}: {text}", **tolerance)


def quantizations(device: torch.device) -> Iterator[tuple[str, Tensor, Tensor, tuple[Any, ...]]]:
    """Yield a name, a gradient, an x and the arguments after it, on the CPU, for each case a device has kernels for."""
    half = [torch.float16, torch.bfloat16] if device.type == "cuda" else []
    for dtype, shape in itertools.product([torch.float32, *half], SHAPES):
        for axis in [None, *range(len(shape))]:
            channels = () if axis is None else (shape[axis],)
            x, grad = torch.randn(shape), torch.randn(shape)
            x[x > 2] = torch.inf
            step, zero_point = torch.rand(channels) + 0.1, torch.full(channels, 7, dtype=torch.int32)
            yield f"{dtype} {shape} axis={axis}", grad.to(dtype), x.to(dtype), (step, zero_point, 0, 15, axis)


def on(device: torch.device, values: tuple[Any, ...]) -> list[Any]:
    return [value.to(device) if isinstance(value, Tensor) else value for value in values]


def shifted(x: Tensor) -> Tensor:
    """Copy to an address that a kernel must not read many elements at once from."""
    return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)


def fake_quantize(device: torch.device) -> None:
    for case, _, x, rest in quantizations(device):
        wanted = (ops if x.dtype == torch.float32 else twin).fake_quantize(x, *rest)
        there, arguments = x.to(device), on(device, rest)
        same(f"fake_quantize {case}", ops.fake_quantize(there, *arguments), wanted)
        same(f"fake_quantize {case}, misaligned", ops.fake_quantize(shifted(there), *arguments), wanted)
        same(f"fake_quantize {case}, in place", ops.fake_quantize(there, *arguments, out=there), wanted)


def fake_quantize_backward(device: torch.device) -> None:
    for case, grad, x, rest in quantizations(device):
        backward = (ops if x.dtype == torch.float32 else twin).fake_quantize_backward
        want_x, want_step = backward(grad, x, *rest)
        grad_there, there, *arguments = on(device, (grad, x, *rest))
        leaf, step = there.clone().requires_grad_(), arguments[0].clone().requires_grad_()
        ops.fake_quantize(leaf, step, *arguments[1:]).backward(grad_there)
        found = {
            "": ops.fake_quantize_backward(grad_there, there, *arguments),
            ", by autograd": (leaf.grad, step.grad),
            ", misaligned": ops.fake_quantize_backward(grad_there, shifted(there), *arguments),
            ", in place": ops.fake_quantize_backward(grad_there, there, *arguments, out=grad_there),
        }
        for how, (grad_x, grad_step) in found.items():
            same(f"fake_quantize_backward {case}{how}", grad_x, want_x)
            same(f"fake_quantize_backward {case}{how}, of the step", grad_step, want_step, rtol=1e-5, atol=1e-5)
    learned_steps(device)


def learned_steps(device: torch.device) -> None:
    """Steps below their floor, and channels turned around: one step for all of them, or one for each."""
    for case, grad, x, (step, zero_point, *codes) in quantizations(device):
        if codes[-1] is None or len(step) == 0:
            continue
        for count in (1, len(step)):
            signs, floor = torch.randn(len(step)), torch.full((count,), 0.3)
            rest = (step[:count] - 0.2, zero_point[:count], *codes)
            learned = {"floor": floor, "signs": signs}
            names, there = list(learned), on(device, (grad, x, *rest, floor, signs))
            arguments, named = there[1:-2], dict(zip(names, there[-2:], strict=True))
            wanted = twin.fake_quantize(x, *rest, **learned)
            same(f"fake_quantize {case}, {count} learned", ops.fake_quantize(*arguments, **named), wanted)
            want_x, want_step = twin.fake_quantize_backward(grad, x, *rest, **learned, scale=0.5)
            grad_x, grad_step = ops.fake_quantize_backward(there[0], *arguments, **named, scale=0.5)
            same(f"fake_quantize_backward {case}, {count} learned", grad_x, want_x)
            same(f"{case}, {count} learned, of the step", grad_step, want_step, rtol=1e-5, atol=1e-5)


def quantize(device: torch.device) -> None:
    for case, _, x, rest in quantizations(device):
        wanted = (ops if x.dtype == torch.float32 else twin).quantize(x, *rest)
        there, arguments = x.to(device), on(device, rest)
        same(f"quantize {case}", ops.quantize(there, *arguments), wanted)
        same(f"quantize {case}, misaligned", ops.quantize(shifted(there), *arguments), wanted)
        out = shifted(torch.zeros_like(there, dtype=torch.uint8))
        same(f"quantize {case}, out=", ops.quantize(there, *arguments, out=out), wanted)


def levels(device: torch.device) -> Iterator[tuple[str, Tensor, Tensor, str, tuple[Any, ...]]]:
    """The same for levels at unequal distances, with the name of the operator."""
    half = [torch.float16, torch.bfloat16] if device.type == "cuda" else []
    for dtype, shape, bits in itertools.product([torch.float32, *half], SHAPES, (1, 3, 8)):
        x, grad = torch.randn(shape).exp() - 0.3, torch.randn(shape)
        x[x > 3] = torch.inf
        for name, tail in (("nonuniform", (torch.rand(2**bits - 1) + 0.01,)), ("log_sqrt2", (torch.tensor(1.3), bits))):
            yield f"{name} {dtype} {shape} bits={bits}", grad.to(dtype), x.to(dtype), f"fake_quantize_{name}", tail


def fake_quantize_levels(device: torch.device) -> None:
    for case, grad, x, name, rest in levels(device):
        run, there, (steps, *bits) = getattr(ops, name), x.to(device), on(device, rest)
        wanted = (run if x.dtype == torch.float32 else getattr(twin, name))(x, *rest)
        same(case, run(there, steps, *bits), wanted)
        same(f"{case}, misaligned", run(shifted(there), steps, *bits), wanted)
        leaves = (there.clone().requires_grad_(), steps.requires_grad_())
        found = torch.autograd.grad(run(*leaves, *bits), leaves, grad.to(device))
        wants = on_the_cpu(getattr(torch.ops.ribs, f"{name}_backward"), grad, x, rest)
        same(f"{case}, gradient", found[0], wants[0])
        same(f"{case}, gradient of the steps", found[1], wants[1], rtol=1e-5, atol=1e-5)


def on_the_cpu(backward: Callable[..., Any], grad: Tensor, x: Tensor, rest: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Give gradients computed on the CPU, whose kernels take float32 only; the gradient of x has its dtype."""
    grad_x, grad_steps = backward(grad.float(), x.float(), *rest)
    return grad_x.to(x.dtype), grad_steps


def soft_round(device: torch.device) -> None:
    for case, grad, x, rest in quantizations(device):
        if x.dtype != torch.float32:
            continue
        for beta in (0.0, 7.5):
            found = []
            for there in (torch.device("cpu"), device):
                alpha = (grad * 4).to(there).requires_grad_()
                values, penalty = ops.soft_round(x.to(there), alpha, *on(there, rest), beta=beta)
                gradient = torch.autograd.grad((values * x.to(there).nan_to_num(posinf=3.0)).sum() + penalty, alpha)
                found.append((values.detach(), *gradient, penalty.detach()))
            (values, gradient, penalty), there = found[0], found[1]
            same(f"soft_round {case}", there[0], values)
            same(f"soft_round {case}, gradient", there[1], gradient)
            same(f"soft_round {case}, penalty", there[2], penalty, rtol=1e-6, atol=1e-6)


def drop(device: torch.device) -> None:
    for case, grad, x, rest in quantizations(device):
        if x.dtype != torch.float32 or rest[-1] is not None:
            continue
        found = []
        for there in (torch.device("cpu"), device):
            leaf, step, *codes = on(there, (x, *rest[:-1]))
            leaf, step = leaf.clone().requires_grad_(), step.clone().requires_grad_()
            y = ops.drop(leaf, step, *codes, keep=0.5, seed=2**40 + 7)
            found.append((y.detach(), *torch.autograd.grad(y, (leaf, step), grad.to(there))))
        for part, want in zip(found[1][:2], found[0][:2], strict=True):
            same(f"drop {case}", part, want)
        same(f"drop {case}, gradient of the step", found[1][2], found[0][2], rtol=1e-5, atol=1e-5)


def search_steps(device: torch.device) -> None:
    # Every vector of codes, a fine grid, a histogram of the row, and a sketch.
    for rows, n in [(1, 1), (3, 27), (2, 64), (2, 1025), (2, 20001)]:
        for symmetric in (True, False):
            x = torch.randn(rows, n)
            found = ops.search_steps(x.to(device), [2, 4], symmetric=symmetric, axis=0)
            wanted = ops.search_steps(x, [2, 4], symmetric=symmetric, axis=0)
            for part, want in zip(found, wanted, strict=True):
                same(f"search_steps [{rows}, {n}] symmetric={symmetric}", part, want)


def searches_of_levels(device: torch.device) -> None:
    x = torch.randn(3, 2001).softmax(1)
    for name in ("search_levels", "search_log_sqrt2"):
        found, wanted = getattr(ops, name)(x.to(device), [3, 4]), getattr(ops, name)(x, [3, 4])
        for part, want in zip((*found[0], found.mse), (*wanted[0], wanted.mse), strict=True):
            same(name, part, want)


def sketch(device: torch.device) -> None:
    for n in (1, 1025, 20001):
        x = torch.randn(n).relu() - 0.1
        for name, part in vars(ops.sketch(x.to(device))).items():
            same(f"sketch [{n}].{name}", part, getattr(ops.sketch(x), name))


def config_cost(device: torch.device) -> None:
    for configs, layers in [(1, 1), (257, 21), (1000, 3), (0, 4), (4, 0)]:
        bits = torch.randint(1, 9, (configs, layers, 2))
        macs, weights = torch.randint(0, 10**12, (2, layers))
        found = ops.config_cost(bits.to(device), macs.to(device), weights.to(device))
        for part, wanted in zip(found, ops.config_cost(bits, macs, weights), strict=True):
            same(f"config_cost [{configs}, {layers}]", part, wanted)


def packed(device: torch.device) -> None:
    for bits in range(1, 9):
        for shape in [(1,), (33,), (3, 257), (2, 0)]:
            codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
            found = ops.pack_bits(codes.to(device), bits)
            same(f"pack_bits {shape} bits={bits}", found, ops.pack_bits(codes, bits))
            same(f"unpack_bits {shape} bits={bits}", ops.unpack_bits(found, bits, shape[-1]), codes)


EXERCISES: dict[str, Callable[[torch.device], None]] = {
    "drop": drop,
    "fake_quantize": fake_quantize,
    "fake_quantize_backward": fake_quantize_backward,
    "quantize": quantize,
    "fake_quantize_log_sqrt2": fake_quantize_levels,
    "fake_quantize_nonuniform": fake_quantize_levels,
    "search_levels": searches_of_levels,
    "search_log_sqrt2": searches_of_levels,
    "search_steps": search_steps,
    "soft_round": soft_round,
    "sketch": sketch,
    "config_cost": config_cost,
    "pack_bits": packed,
    "unpack_bits": packed,
}
NOT_OPERATORS = {"build_info"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and not ops.build_info()["cuda"]:
        raise SystemExit("ribs was built without CUDA: this would exercise plain torch")
    present = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))} - NOT_OPERATORS
    if missing := sorted(present - set(EXERCISES)):
        raise SystemExit(f"no exercise for {', '.join(missing)}; add one to EXERCISES")
    torch.manual_seed(0)
    for exercise in dict.fromkeys(EXERCISES[name] for name in sorted(present)):
        exercise(device)
        print(f"{exercise.__name__}: as on the CPU", flush=True)


if __name__ == "__main__":
    main()
