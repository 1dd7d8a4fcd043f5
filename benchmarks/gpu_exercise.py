"""Calls every operator on small tensors of awkward sizes and compares it with the CPU; compute-sanitizer watches."""

import argparse
import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from ribs import ops

# Around a warp, a block and a segment of a sum; channels last; one channel; no channels.
SHAPES = [(1,), (31,), (33, 2), (257,), (3, 5, 7), (2, 3, 64, 65), (65, 40), (1, 4097), (0, 3)]


def same(name: str, found: Tensor, wanted: Tensor, **tolerance: float) -> None:
    """Compare, to the last bit without a tolerance."""
    tolerance = tolerance or {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(found.cpu(), wanted, equal_nan=True, msg=lambda text: f"{name}: {text}", **tolerance)


def fake_quantize(device: torch.device) -> None:
    def run(x: Tensor, step: Tensor, zero_point: Tensor, grad: Tensor, axis: int | None) -> tuple[Tensor, ...]:
        x, step = x.detach().requires_grad_(), step.detach().requires_grad_()
        out = ops.fake_quantize(x, step, zero_point, 0, 15, axis)
        out.backward(grad)
        return out.detach(), x.grad, step.grad

    for shape in SHAPES:
        for axis in [None, *range(len(shape))]:
            channels = () if axis is None else (shape[axis],)
            x, grad = torch.randn(shape), torch.randn(shape)
            x[x > 2] = torch.inf
            values = (x, torch.rand(channels) + 0.1, torch.full(channels, 7, dtype=torch.int32), grad)
            name = f"fake_quantize {shape} axis={axis}"
            out, grad_x, grad_step = run(*(value.to(device) for value in values), axis)
            want, want_x, want_step = run(*values, axis)
            same(name, out, want)
            same(f"{name}, gradient", grad_x, want_x)
            same(f"{name}, gradient of the step", grad_step, want_step, rtol=1e-5, atol=1e-5)


def search_steps(device: torch.device) -> None:
    # Every vector of codes, a fine grid, a histogram of the row, and a sketch.
    for rows, n in [(1, 1), (3, 27), (2, 64), (2, 1025), (2, 20001)]:
        for symmetric in (True, False):
            x = torch.randn(rows, n)
            found = ops.search_steps(x.to(device), [2, 4], symmetric=symmetric, axis=0)
            wanted = ops.search_steps(x, [2, 4], symmetric=symmetric, axis=0)
            for part, want in zip(found, wanted, strict=True):
                same(f"search_steps [{rows}, {n}] symmetric={symmetric}", part, want)


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


def gradients(device: torch.device) -> None:
    for shape in [(33, 2), (2, 3, 64, 65)]:
        x, grad = torch.randn(shape), torch.randn(shape)
        values = (grad, x, torch.tensor(0.1), torch.tensor(7, dtype=torch.int32))
        found = ops.fake_quantize_backward(*(value.to(device) for value in values), 0, 15)
        wanted = ops.fake_quantize_backward(*values, 0, 15)
        same(f"fake_quantize_backward {shape}", found[0], wanted[0])
        same(f"fake_quantize_backward {shape}, step", found[1], wanted[1], rtol=1e-5, atol=1e-5)


def sketch(device: torch.device) -> None:
    for n in (1, 1025, 20001):
        x = torch.randn(n).relu() - 0.1
        for name, part in vars(ops.sketch(x.to(device))).items():
            same(f"sketch [{n}].{name}", part, getattr(ops.sketch(x), name))


EXERCISES: dict[str, Callable[[torch.device], None]] = {
    "fake_quantize": fake_quantize,
    "fake_quantize_backward": gradients,
    "search_steps": search_steps,
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
