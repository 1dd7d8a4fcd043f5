"""Codes against the twin, against the values of fake_quantize, and against torch's own quantized tensors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ribs import ops
from ribs.ops import twin
from samples import DENSE, LAYOUTS, SPECIALS, quantizer, same_bits

RANGES = [(0, 2**bits - 1) for bits in range(1, 9)]
RANGES += [(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in range(1, 9)]
RANGES += [(7, 7), (-128, 0), (-1, 127), (200, 255)]
AXES = pytest.mark.parametrize("axis", [None, 0, 1, -1])


def check(x, step, zero_point, qmin, qmax, axis=None):
    """Codes are those of the twin, in their range, and make the values of fake_quantize."""
    codes = ops.quantize(x, step, zero_point, qmin, qmax, axis)
    assert codes.dtype == (torch.uint8 if qmin >= 0 else torch.int8) and codes.device == x.device
    assert codes.stride() == torch.empty_like(x).stride()
    assert torch.equal(codes, twin.quantize(x, step, zero_point, qmin, qmax, axis))
    assert ((codes.int() >= qmin) & (codes.int() <= qmax)).all()
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    values = (codes.float() - zero_point.reshape(shape)) * step.reshape(shape)
    same_bits(values + 0.0, ops.fake_quantize(x, step, zero_point, qmin, qmax, axis) + 0.0)  # no sign of zero


@AXES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    check(x, *quantizer(x, axis), 0, 15, axis)
    check(x, *quantizer(x, axis, -2), -8, 7, axis)


@pytest.mark.parametrize("codes", RANGES, ids=str)
@pytest.mark.parametrize("zero", [-300, -1, 0, 3, 128, 255, 300, 2**23])
def test_every_range(codes: tuple[int, int], zero: int, device: torch.device) -> None:
    for x, axis in ((torch.randn(5003), None), (torch.randn(70, 12), 1), (torch.randn(3, 500), 0)):
        there = (x * 20).to(device)
        there.flatten()[:2] = torch.tensor([math.inf, -math.inf])
        check(there, *quantizer(there, axis, zero), *codes, axis)


@pytest.mark.parametrize("zero", [2**31 - 1, -(2**31), 2**27 + 1], ids=str)
def test_codes_stay_in_range_whatever_the_zero_point(zero: int, device: torch.device) -> None:
    x = torch.tensor([value for value in SPECIALS if not math.isnan(value)], device=device)
    zero_point = torch.tensor(zero, dtype=torch.int32, device=device)
    found = ops.quantize(x, torch.tensor(1e-3, device=device), zero_point, 3, 12)
    assert ((found >= 3) & (found <= 12)).all()
    assert torch.equal(found, twin.quantize(x, torch.tensor(1e-3, device=device), zero_point, 3, 12))


@pytest.mark.parametrize("step", [2.0**-149, 1e-38, 1.0, 3e38], ids=str)
def test_hostile_values(step: float, device: torch.device) -> None:
    x = torch.tensor([value for value in SPECIALS if not math.isnan(value)], device=device)
    zero_point = torch.tensor(7, dtype=torch.int32, device=device)
    check(x, torch.tensor(step, device=device), zero_point, 0, 255)
    check(x, torch.tensor(step, device=device), zero_point, -128, 127)


@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.quint8, 0, 255), (torch.qint8, -128, 127)], ids=str)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:.*[Qq]uantized tensor")
def test_torch_gives_the_same_where_the_step_is_a_power_of_two(dtype: torch.dtype, low: int, high: int) -> None:
    x = torch.randn(5000) * 20  # torch multiplies by the reciprocal, which is exact here
    want = torch.quantize_per_tensor(x, 0.125, 11, dtype).int_repr()
    assert torch.equal(ops.quantize(x, torch.tensor(0.125), torch.tensor(11, dtype=torch.int32), low, high), want)


def test_scalar_tensor(device: torch.device) -> None:
    step, zero_point = torch.tensor(0.5, device=device), torch.tensor(1, dtype=torch.int32, device=device)
    found = ops.quantize(torch.tensor(0.8, device=device), step, zero_point, -4, 3)
    assert found.shape == () and found.item() == 3


def test_float64_goes_through_the_twin() -> None:
    x = torch.randn(2, 50, dtype=torch.float64)
    check(x, torch.tensor(0.1, dtype=torch.float64), torch.tensor(3, dtype=torch.int32), 0, 15)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_nan_is_refused(axis: int | None) -> None:
    for size in (1, 17, 5000):
        x = torch.randn(3, size)
        arguments = (*quantizer(x, axis), 0, 15, axis)
        x[2, size // 2] = math.nan
        for side in (ops, twin):
            with pytest.raises(ValueError, match=r"\[quantize\] x holds NaN"):
                side.quantize(x, *arguments)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_cuda_gives_the_smallest_code_for_nan_and_bad_steps(dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, device="cuda").to(dtype)
    x[1, 1] = math.nan
    step, zero_point = quantizer(x.float(), 1, 5)
    step[3] = math.nan
    found = ops.quantize(x, step, zero_point, 2, 15, 1)
    assert found[1, 1] == 2 and (found[:, 3] == 2).all()
    assert torch.equal(found, twin.quantize(x, step, zero_point, 2, 15, 1))


@AXES
@pytest.mark.parametrize("layout", DENSE)
def test_out(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    arguments = (x, *quantizer(x, axis), 0, 15, axis)
    out = torch.empty_strided(x.shape, x.stride(), dtype=torch.uint8, device=device).fill_(77)
    assert ops.quantize(*arguments, out=out) is out
    assert torch.equal(out, ops.quantize(*arguments))


def test_threads_and_streams_do_not_matter() -> None:
    before = torch.get_num_threads()
    for shape, axis in (((17_000_003,), None), ((70_001, 5, 13), 1)):  # the first goes past a cache of 32 MiB
        x = torch.randn(shape)
        x.flatten()[-1] = 0.3
        arguments = (*quantizer(x, axis), 0, 15, axis)
        want = twin.quantize(x, *arguments)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(ops.quantize(x, *arguments), want)
            out = torch.empty(x.numel() + 1, dtype=torch.uint8)[1:].view(shape)  # at no address for 16 bytes
            assert torch.equal(ops.quantize(x, *arguments, out=out), want)
        x.flatten()[-1] = math.nan
        with pytest.raises(ValueError, match="holds NaN"):
            ops.quantize(x, *arguments)
        torch.set_num_threads(before)


X, ONE, ZERO = torch.ones(2, 3), torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
U8 = torch.zeros(2, 3, dtype=torch.uint8)
REFUSED = {
    "dtype": ((X.half(), ONE, ZERO, 0, 3), None, TypeError, r"x dtype=torch.float16 is not supported"),
    "step": ((X, ONE * 0, ZERO, 0, 3), None, ValueError, "step=0.0 is not supported"),
    "axis": ((X, ONE, ZERO, 0, 3, 2), None, ValueError, "axis=2 is out of range"),
    "order": ((X, ONE, ZERO, 3, 0), None, ValueError, "qmin=3, qmax=0 is not supported"),
    "wide": ((X, ONE, ZERO, 0, 256), None, ValueError, r"qmin=0, qmax=256 is not supported; codes must fit a byte"),
    "signed": ((X, ONE, ZERO, -1, 128), None, ValueError, r"qmin=-1, qmax=128 is not supported"),
    "low": ((X, ONE, ZERO, -129, 0), None, ValueError, "qmin=-129, qmax=0 is not supported"),
    "out_dtype": ((X, ONE, ZERO, -4, 3), U8, ValueError, r"out=.* of torch.uint8 .* must be .* of torch.int8"),
    "out_shape": ((X, ONE, ZERO, 0, 3), U8[:1], ValueError, r"out=\[1, 3\] of torch.uint8"),
    "out_strides": ((X, ONE, ZERO, 0, 3), U8.T.contiguous().T, ValueError, r"out strides=\(1, 2\) is not supported"),
    "x_strides": ((X[:1].expand(2, 3), ONE, ZERO, 0, 3), U8, ValueError, r"x strides=\(0, 1\) is not supported"),
    "overlap": ((X, ONE, ZERO, 0, 3), X.view(torch.uint8)[0, :6].view(2, 3), ValueError, "out overlaps x in memory"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case: tuple) -> None:
    arguments, out, error, message = case
    with pytest.raises(error, match=r"\[quantize\] " + message):
        ops.quantize(*arguments, out=out)


def test_autograd_sees_that_an_output_changed() -> None:
    out = torch.zeros(5, dtype=torch.int8)
    version = out._version
    ops.quantize(torch.randn(5), ONE, ZERO, -4, 3, out=out)
    assert out._version > version


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(-200, 200),
)
def test_any_values(values: list[float], step: float, zero: int) -> None:
    check(torch.tensor(values), torch.tensor(step), torch.tensor(zero, dtype=torch.int32), -128, 127)
