"""Fake quantization against copying the same tensor, and against what torch has; of softmax outputs, against the twin.

Run: python benchmarks/quantize.py [threads ...]
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import Case, interleave, medians, table
from torch import Tensor

from ribs import ops
from ribs.ops import twin, twin_levels

QMIN, QMAX = 0, 15
SHAPE = (64, 64, 56, 56)
HEADS = (32, 3, 197, 197)  # attention of DeiT-T
Run = Callable[[], object]


def check(x: Tensor, grad: Tensor, step: Tensor, zero_point: Tensor, axis: int | None) -> None:
    """Compare with the definition in float64, but for the division, whose float32 result decides about ties."""
    wide = along(step, x, axis)
    u = (x / wide).double()
    code, inside = u.round().clamp(QMIN, QMAX), (u >= QMIN) & (u <= QMAX)
    share = torch.where(inside, code - u, code) * grad.double()
    want_step = share.sum() if axis is None else share.sum([d for d in range(x.dim()) if d != axis])
    got = ops.fake_quantize(x, step, zero_point, QMIN, QMAX, axis)
    got_x, got_step = ops.fake_quantize_backward(grad, x, step, zero_point, QMIN, QMAX, axis)
    torch.testing.assert_close(got.double(), code * wide.double(), rtol=1e-6, atol=0)
    assert torch.equal(got_x, torch.where(inside, grad, 0.0))
    codes = ops.quantize(x, step, zero_point, QMIN, QMAX, axis)
    assert torch.equal(codes.float() * wide, got)
    assert ((got_step.double() - want_step).abs() < 1e-6 * share.abs().sum()).all()


def along(step: Tensor, x: Tensor, axis: int | None) -> Tensor:
    return step if axis is None else step.view([-1 if d == axis else 1 for d in range(x.dim())])


def eager(x: Tensor, step: Tensor, axis: int | None) -> Tensor:
    """LSQ with a straight-through round, in torch operators."""
    step = along(step, x, axis)
    u = (x / step).clamp(QMIN, QMAX)
    return (u + (u.round() - u).detach()) * step


def measure(name: str, x: Tensor, axis: int | None, rounds: int = 15) -> list[Case]:
    """Time forward and backward passes, and peers, in the same interleaved rounds."""
    grad, out, grad_x = torch.randn_like(x), torch.empty_like(x), torch.empty_like(x)
    codes = torch.empty_like(x, dtype=torch.uint8)
    channels = () if axis is None else (x.shape[axis],)
    step, zero_point = torch.rand(channels) * 0.1 + 0.1, torch.zeros(channels, dtype=torch.int32)
    check(x, grad, step, zero_point, axis)
    tail = (step, zero_point, QMIN, QMAX, axis)
    functions: dict[str, Run] = {
        "copy_": lambda: out.copy_(x),
        "forward, out=": lambda: ops.fake_quantize(x, *tail, out=out),
        "codes, out=": lambda: ops.quantize(x, *tail, out=codes),
        "forward, in place": lambda: ops.fake_quantize(out, *tail, out=out),
        "both, out=": lambda: (
            ops.fake_quantize(x, *tail, out=out),
            ops.fake_quantize_backward(grad, x, *tail, out=grad_x),
        ),
        "clone": lambda: x.clone(),  # from here on, fresh pages
        "forward, new": lambda: ops.fake_quantize(x, *tail),
    }
    functions |= peers(x, grad, step, axis)
    took = medians(interleave(functions, rounds))
    own = {"torch forward": "forward, new", "torch both": "both, out=", "eager LSQ both": "both, out="}
    rows = []
    for key, seconds in took.items():
        ratios = {"/ copy_": seconds / took["copy_"], "/ clone": seconds / took["clone"]}
        if key in own:
            ratios["/ ribs"] = seconds / took[own[key]]
        rows.append(Case(f"{name}: {key}", "x".join(map(str, x.shape)), torch.get_num_threads(), seconds, ratios))
    return rows


def peers(x: Tensor, grad: Tensor, step: Tensor, axis: int | None) -> dict[str, Run]:
    """What torch offers: its operator, the one that learns the step, and LSQ from its operators."""
    value, scale = x.detach().clone().requires_grad_(), step.detach().clone().requires_grad_()

    def both(y: Tensor) -> object:
        return torch.autograd.grad(y, (value, scale), grad)

    found: dict[str, Run] = {"eager LSQ both": lambda: both(eager(value, scale, axis))}
    if axis is None:
        scale = step.reshape(1).clone().requires_grad_()
        zero = torch.zeros(1)
        found["torch forward"] = lambda: torch.fake_quantize_per_tensor_affine(x, float(step), 0, QMIN, QMAX)
        found["torch both"] = lambda: both(
            torch._fake_quantize_learnable_per_tensor_affine(value, scale, zero, QMIN, QMAX, 1.0)
        )
    return found


def check_levels(x: Tensor, grad: Tensor, kind: str, tail: tuple[Any, ...]) -> None:
    """Compare values with the twin's bits and with the nearest level, gradients with the twin's."""
    got = getattr(ops, f"fake_quantize_{kind}")(x, *tail)
    assert torch.equal(got, getattr(twin, f"fake_quantize_{kind}")(x, *tail))
    native = getattr(torch.ops.ribs, f"fake_quantize_{kind}_backward")(grad, x, *tail)
    for part, want in zip(native, getattr(twin_levels, f"fake_quantize_{kind}_backward")(grad, x, *tail), strict=True):
        torch.testing.assert_close(part, want, rtol=1e-5, atol=1e-4)
    if kind == "nonuniform":
        levels = torch.nn.functional.pad(tail[0].double().cumsum(0).float(), (1, 0))
        few = x.flatten()[:10_000].double()
        nearest = (few[:, None] - levels.double()).abs().min(1).values
        assert torch.equal((few - got.flatten()[:10_000].double()).abs(), nearest)


def measure_levels(kind: str, bits: int, rounds: int = 9) -> list[Case]:
    """Time nuLSQ or log-sqrt2 on softmax outputs, and the fit of its levels for 2 to 8 bits."""
    x = (2 * torch.randn(HEADS)).softmax(-1)
    grad, out = torch.randn_like(x), torch.empty_like(x)
    search = ops.search_levels if kind == "nonuniform" else ops.search_log_sqrt2
    found = search(x, [bits])[0][0]
    tail = (found,) if kind == "nonuniform" else (found, bits)
    check_levels(x, grad, kind, tail)
    backward = f"fake_quantize_{kind}_backward"
    functions: dict[str, Run] = {
        "copy_": lambda: out.copy_(x),
        "clone": lambda: x.clone(),
        "forward": lambda: getattr(ops, f"fake_quantize_{kind}")(x, *tail),
        "backward": lambda: getattr(torch.ops.ribs, backward)(grad, x, *tail),
        "twin forward": lambda: getattr(twin, f"fake_quantize_{kind}")(x, *tail),
        "twin backward": lambda: getattr(twin_levels, backward)(grad, x, *tail),
        "fit, 2 to 8 bits": lambda: search(x),
    }
    took = medians(interleave(functions, rounds))
    rows = []
    for key, seconds in took.items():
        ratios = {"/ copy_": seconds / took["copy_"], "/ clone": seconds / took["clone"]}
        if key.startswith("twin "):
            ratios["/ ribs"] = seconds / took[key.removeprefix("twin ")]
        name = f"{kind}, {bits} bits: {key}"
        rows.append(Case(name, "x".join(map(str, HEADS)), torch.get_num_threads(), seconds, ratios))
    return rows


def main() -> None:
    x = torch.randn(SHAPE).relu()
    for threads in [int(each) for each in sys.argv[1:]] or [1]:
        torch.set_num_threads(threads)
        rows = measure("per tensor", x, None)
        rows += measure("per channel", x, 1)
        rows += measure("channels last", x.to(memory_format=torch.channels_last), 1)
        for n in (64, 10_000):
            rows += measure("small", torch.randn(n), None, rounds=200)
        for kind, bits in (("nonuniform", 4), ("nonuniform", 8), ("log_sqrt2", 4)):
            rows += measure_levels(kind, bits)
        print(table(rows), end="\n\n")


if __name__ == "__main__":
    main()
