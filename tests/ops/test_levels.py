"""Rounding to levels at unequal distances: nuLSQ and log-sqrt2."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ribs import ops
from ribs.ops import twin
from ribs.ops.twin_levels import fake_quantize_log_sqrt2_backward, fake_quantize_nonuniform_backward
from samples import LAYOUTS, SPECIALS, same_bits

BITS = pytest.mark.parametrize("bits", range(1, 9))
KINDS = pytest.mark.parametrize("kind", ["nonuniform", "log_sqrt2"])


def steps_of(bits: int, device: torch.device | str = "cpu") -> Tensor:
    """Steps that are small near zero and add up to about one, as softmax wants."""
    steps = torch.rand(2**bits - 1, device=device) + 0.01
    return steps * torch.linspace(0.1, 1, 2**bits - 1, device=device) / steps.sum()


def operator(kind: str, bits: int, device: torch.device | str = "cpu") -> tuple[Callable, Callable, tuple]:
    """Give an operator, its twin, and the arguments after x."""
    tail = (steps_of(bits, device),) if kind == "nonuniform" else (torch.tensor(0.9, device=device), bits)
    return getattr(ops, f"fake_quantize_{kind}"), getattr(twin, f"fake_quantize_{kind}"), tail


def backward(kind: str) -> tuple[Callable, Callable]:
    if kind == "nonuniform":
        return torch.ops.ribs.fake_quantize_nonuniform_backward, fake_quantize_nonuniform_backward
    return torch.ops.ribs.fake_quantize_log_sqrt2_backward, fake_quantize_log_sqrt2_backward


@KINDS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_twin(layout: str, kind: str, device: torch.device) -> None:
    run, slow, tail = operator(kind, 3, device)
    x = LAYOUTS[layout]().to(device)
    out = run(x, *tail)
    same_bits(out.contiguous(), slow(x, *tail).contiguous())
    assert out.stride() == torch.empty_like(x).stride()


@BITS
@KINDS
def test_values_and_gradients_are_those_of_the_twin(kind: str, bits: int, device: torch.device) -> None:
    run, slow, tail = operator(kind, bits, device)
    x = (torch.rand(70_001, device=device) * 4 - 3).exp() - 0.06  # several pieces, below zero and above the top
    x[: len(SPECIALS)] = torch.tensor(SPECIALS, device=device)
    same_bits(run(x, *tail), slow(x, *tail))
    grad, x = torch.randn_like(x), x.nan_to_num(0.5)
    native, plain = backward(kind)
    (grad_x, grad_steps), (want_x, want_steps) = native(grad, x, *tail), plain(grad, x, *tail)
    same_bits(grad_x, want_x)
    assert grad_steps.shape == tail[0].shape and grad_steps.dtype == torch.float32
    torch.testing.assert_close(grad_steps, want_steps, rtol=1e-6, atol=1e-6)


@BITS
@pytest.mark.parametrize("step", [2.0**-6, 0.25, 16.0])
def test_equal_steps_are_fake_quantize_to_the_last_bit(step: float, bits: int, device: torch.device) -> None:
    """Sums of a power of two are exact, so midpoints are those of rint, which go to the even code."""
    top = 2**bits - 1
    x = torch.randn(5000, device=device) * step * top / 2
    x[:1030] = (torch.arange(1030, device=device) - 2) * step / 2  # every level, every tie, and a few outside
    x[1030 : 1030 + len(SPECIALS)] = torch.tensor(SPECIALS, device=device)
    steps, one = torch.full((top,), step, device=device), torch.tensor(step, device=device)
    zero = torch.tensor(0, dtype=torch.int32, device=device)
    same_bits(ops.fake_quantize_nonuniform(x, steps), ops.fake_quantize(x, one, zero, 0, top))
    grad, x = torch.randn_like(x), x.nan_to_num(0.5)
    want_x, want_step = ops.fake_quantize_backward(grad, x, one, zero, 0, top)
    grad_x, grad_steps = torch.ops.ribs.fake_quantize_nonuniform_backward(grad, x, steps)
    same_bits(grad_x, want_x)
    torch.testing.assert_close(grad_steps.sum(), want_step, rtol=1e-5, atol=1e-4)


@BITS
def test_nonuniform_goes_to_the_nearest_level(bits: int) -> None:
    steps, x = steps_of(bits), torch.rand(3000) * 1.3 - 0.1
    levels = torch.cat([torch.zeros(1), steps.double().cumsum(0).float()]).double()
    distance = (x.double()[:, None] - levels).abs()
    got = ops.fake_quantize_nonuniform(x, steps).double()
    assert torch.isin(got, levels).all()
    assert torch.equal((x.double() - got).abs(), distance.min(1).values)


@BITS
def test_log_sqrt2_is_the_formula_of_repq(bits: int) -> None:
    x = torch.cat([torch.rand(4000) ** 30, torch.rand(500) * 2, -torch.rand(20), torch.zeros(1)])
    code = (-2 * (x.double().clamp(min=0) / 0.7).log2()).round().clamp(min=0)
    root = torch.where(code % 2 == 1, math.sqrt(2.0), 1.0).double()
    want = torch.where(code < 2**bits, 0.7 * 2.0 ** -(code / 2).ceil() * root, 0.0)
    got = ops.fake_quantize_log_sqrt2(x, torch.tensor(0.7), bits)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)


def nulsq(x: Tensor, steps: Tensor) -> Tensor:
    """nuLSQ of torch operators with a straight-through round: in each interval LSQ between its two ends."""
    ends = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    i = (torch.bucketize(x.detach(), ends) - 1).clamp(0, len(steps) - 1)
    u = ((x - ends[i]) / steps[i]).clamp(0, 1)
    y = ends[i] + (u + (u.round() - u).detach()) * steps[i]
    # The lower end of an interval moves its values and their rounding alike; above all of them every step counts.
    return torch.where(x > ends[-1], ends[-1], y)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gradients_are_those_of_eager_nulsq(bits: int, device: torch.device) -> None:
    x, steps = (torch.rand(6, 500, device=device) * 1.4 - 0.2).requires_grad_(), steps_of(bits, device).requires_grad_()
    grad = torch.randn_like(x)
    got = torch.autograd.grad(ops.fake_quantize_nonuniform(x, steps), (x, steps), grad)
    want = torch.autograd.grad(nulsq(x.double(), steps.double()), (x, steps), grad.double())
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=1e-4, atol=1e-4)


def test_gradients_of_log_sqrt2_are_straight_through() -> None:
    x = torch.tensor([-0.1, 0.0, 0.01, 0.3, 0.9, 1.0, 5.0], requires_grad=True)
    step = torch.tensor([0.9], requires_grad=True)
    y = ops.fake_quantize_log_sqrt2(x, step, 3)
    grad_x, grad_step = torch.autograd.grad(y.sum(), (x, step))
    assert grad_x.tolist() == [0, 1, 1, 1, 1, 0, 0]
    inside = (x >= 0) & (x <= 0.9)
    want = ((y - x) / 0.9)[inside].sum() + (x > 0.9).sum()
    torch.testing.assert_close(grad_step, want.detach().reshape(1))


@KINDS
def test_nan_gives_no_gradient_of_x_and_nan_for_steps(kind: str, device: torch.device) -> None:
    _, _, tail = operator(kind, 2, device)
    x = torch.tensor([0.2, math.nan], device=device)
    for run in backward(kind):
        grad_x, grad_steps = run(torch.ones_like(x), x, *tail)
        assert grad_x.tolist() == [1, 0] and grad_steps.isnan().all()


@KINDS
def test_float64_runs_in_torch(kind: str) -> None:
    run, _, (steps, *bits) = operator(kind, 4)
    x = torch.rand(50, dtype=torch.float64, requires_grad=True)
    y = run(x, steps.double(), *bits)
    assert y.dtype == torch.float64 and torch.autograd.grad(y.sum(), x)[0].eq(x <= y.max()).float().mean() > 0.9
    torch.testing.assert_close(y.float(), run(x.detach().float(), steps, *bits))


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_is_rounded_once_and_refused_on_the_cpu(dtype: torch.dtype, kind: str) -> None:
    run, _, tail = operator(kind, 4)
    x = torch.rand(3000).to(dtype)
    with pytest.raises(TypeError, match=rf"x dtype={dtype} is not supported; .* or move it to CUDA"):
        run(x, *tail)
    if torch.cuda.is_available():
        there = run(x.cuda(), *[each.cuda() if isinstance(each, Tensor) else each for each in tail])
        same_bits(there.cpu(), run(x.float(), *tail).to(dtype))


@KINDS
def test_threads_do_not_matter(kind: str) -> None:
    run, _, tail = operator(kind, 5)
    x, before, found = torch.rand(700_001), torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append((run(x, *tail), *backward(kind)[0](x, x, *tail)))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@KINDS
def test_opcheck(kind: str, device: torch.device) -> None:
    _, _, (steps, *bits) = operator(kind, 2, device)
    x = LAYOUTS["strided"]().to(device)
    checked = (torch.randn_like(x), x.clone(), steps.clone(), *bits)
    torch.library.opcheck(backward(kind)[0].default, checked)
    forward = getattr(torch.ops.ribs, f"fake_quantize_{kind}").default
    torch.library.opcheck(forward, (x.requires_grad_(), steps.requires_grad_(), *bits))


X = torch.ones(2, 3)
THREE, ONE = torch.ones(3), torch.tensor(1.0)
REFUSED = {
    "length": ("nonuniform", (X, torch.ones(4)), ValueError, r"steps shape=\[4\] .* must be \[2\*\*bits - 1\]"),
    "none": ("nonuniform", (X, torch.ones(0)), ValueError, r"steps shape=\[0\] is not supported"),
    "scalar": ("nonuniform", (X, ONE), ValueError, r"steps shape=\[\] is not supported"),
    "per_head": ("nonuniform", (X, torch.ones(2, 3)), ValueError, r"steps shape=\[2, 3\] is not supported"),
    "too_many": ("nonuniform", (X, torch.ones(511)), ValueError, r"steps shape=\[511\] is not supported"),
    "x_dtype": ("nonuniform", (X.long(), THREE), TypeError, "x dtype=torch.int64 is not supported"),
    "steps_dtype": ("nonuniform", (X, THREE.double()), TypeError, "steps dtype=torch.float64 is not supported"),
    "device": ("nonuniform", (X, THREE.to("meta")), ValueError, "steps is on meta but x is on cpu"),
    "negative": ("nonuniform", (X, -THREE), ValueError, "steps=-1.0 is not supported; every step must be positive"),
    "zero": ("nonuniform", (X, torch.tensor([1.0, 0, 1])), ValueError, "steps=0.0 is not supported"),
    "nan": ("nonuniform", (X, THREE * math.nan), ValueError, "steps=nan is not supported"),
    "sum": ("nonuniform", (X, THREE * 3e38), ValueError, "the sum of steps=inf is not supported"),
    "log_shape": ("log_sqrt2", (X, THREE, 4), ValueError, r"step shape=\[3\] is not supported; .* a scalar or \[1\]"),
    "log_bits": ("log_sqrt2", (X, ONE, 9), ValueError, "bits=9 is not supported; supported bits are 1..8"),
    "log_zero": ("log_sqrt2", (X, ONE * 0, 4), ValueError, "step=0.0 is not supported"),
    "log_inf": ("log_sqrt2", (X, ONE * math.inf, 4), ValueError, "step=inf is not supported"),
    "log_dtype": ("log_sqrt2", (X, ONE.half(), 4), TypeError, "step dtype=torch.float16 is not supported"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case: tuple) -> None:
    kind, arguments, error, message = case
    with pytest.raises(error, match=rf"\[fake_quantize_{kind}\] " + message):
        getattr(ops, f"fake_quantize_{kind}")(*arguments)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 3e38])
def test_the_twin_makes_all_nan_of_a_bad_step(bad: float) -> None:
    """What CUDA does, where nobody reads the steps; the emulated kernels are held against the same."""
    x = torch.tensor([0.0, 0.1, -1.0, 5.0])
    assert twin.fake_quantize_nonuniform(x, torch.tensor([3e38, bad, 0.3])).isnan().all()
    if bad != 3e38:
        assert twin.fake_quantize_log_sqrt2(x, torch.tensor(bad), 2).isnan().all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=40),
    st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=7, max_size=7),
    st.integers(1, 8),
)
def test_twin_for_any_values(values: list[float], steps: list[float], bits: int) -> None:
    x, wide = torch.tensor(values), torch.tensor(steps)
    same_bits(ops.fake_quantize_nonuniform(x, wide), twin.fake_quantize_nonuniform(x, wide))
    same_bits(ops.fake_quantize_log_sqrt2(x, wide[0], bits), twin.fake_quantize_log_sqrt2(x, wide[0], bits))
