"""The same bits whatever the vector length, the place in memory, the size of a row and the number of threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ribs import ops
from ribs.ops import twin
from samples import SPECIALS, quantizer, same_bits

ARGUMENTS = (torch.tensor(0.37), torch.tensor(3, dtype=torch.int32), -8, 7)
SHAPES = [  # one row; rows below, at and above one block; folded columns; blocks of columns
    (100_000,),
    *[(9, 3, inner) for inner in (32, 49, 500, 512, 513, 1023, 1024, 1025, 1540, 2048, 3136)],
    *[(300, 70, 1024), (4000, 3, 9), (70, 600, 2)],
]
LARGE = 4_400_003  # more than half of a 32 MiB cache: written past it, where the cache is no larger


def sample(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and gradients with everything hostile at changing places of a vector."""
    x, grad = torch.randn(n) * 3, torch.randn(n)
    x[::7] = torch.tensor(SPECIALS).repeat(n)[: len(x[::7])]
    return x, grad


def test_every_length_and_offset_is_the_same_elements() -> None:
    x, grad = sample(200)
    want = ops.fake_quantize(x, *ARGUMENTS)
    want_grad, _ = ops.fake_quantize_backward(grad, x, *ARGUMENTS)
    same_bits(want, twin.fake_quantize(x, *ARGUMENTS))
    same_bits(want_grad, twin.fake_quantize_backward(grad, x, *ARGUMENTS)[0])
    for start in range(18):
        for end in range(start + 1, start + 80):  # 1 is the scalar remainder, longer ones are vectors
            part = slice(start, end)
            same_bits(ops.fake_quantize(x[part], *ARGUMENTS), want[part])
            same_bits(ops.fake_quantize_backward(grad[part], x[part], *ARGUMENTS)[0], want_grad[part])


@pytest.mark.parametrize("inner", [1, 2, 3, 31, 32, 33])  # 32: from columns to rows
@pytest.mark.parametrize("channels", [2, 3, 17, 511, 512, 513, 1025])
def test_every_width(channels: int, inner: int, device: torch.device) -> None:
    x, grad = (each.view(3, channels, inner).to(device) for each in sample(3 * channels * inner))
    step, zero_point = quantizer(x, 1)
    arguments = (x, step, zero_point, 0, 15, 1)
    same_bits(ops.fake_quantize(*arguments), twin.fake_quantize(*arguments))
    got, want = ops.fake_quantize_backward(grad, *arguments), twin.fake_quantize_backward(grad, *arguments)
    same_bits(got[0], want[0])
    assert torch.equal(got[1].isnan(), want[1].isnan())


@pytest.mark.parametrize("shape", [(LARGE,), (2, 7, LARGE // 14), (LARGE // 3, 3)], ids=str)
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_large_outputs(offset: int, shape: tuple[int, ...], device: torch.device) -> None:
    axis = None if len(shape) == 1 else 1
    size = torch.Size(shape).numel()
    x = torch.randn(size + offset, device=device)[offset:].view(shape)
    memory = torch.zeros(size + offset + 16, device=device)
    out = memory[offset : offset + size].view(shape)
    step, zero_point = quantizer(x, axis)
    ops.fake_quantize(x, step, zero_point, 0, 15, axis, out=out)
    same_bits(out, twin.fake_quantize(x, step, zero_point, 0, 15, axis))
    _, grad_step = ops.fake_quantize_backward(x, x, step, zero_point, 0, 15, axis, out=out)
    want_x, want_step = twin.fake_quantize_backward(x, x, step, zero_point, 0, 15, axis)
    same_bits(out, want_x)
    torch.testing.assert_close(grad_step, want_step, rtol=1e-6, atol=0)
    assert not memory[:offset].any() and not memory[offset + size :].any()


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_step_gradient_is_summed_in_double(shape: tuple[int, ...], axis: int | None, device: torch.device) -> None:
    axis = axis if len(shape) > 1 else None
    x, grad = torch.randn(shape, device=device), torch.randn(shape, device=device)
    step, zero_point = quantizer(x, axis)
    _, got = ops.fake_quantize_backward(grad, x, step, zero_point, 0, 15, axis)
    u = x / step.reshape([-1 if d == axis else 1 for d in range(x.dim())])
    code = u.round().clamp(-3, 12)
    share = torch.where((u < -3) | (u > 12), code, code - u).double() * grad.double()
    dims = [d for d in range(x.dim()) if axis is None or d != axis]
    want, magnitudes = share.sum(dims), share.abs().sum(dims)
    assert ((got.double() - want).abs() <= want.abs() * 2.0**-24 + magnitudes * 1e-13).all()


@pytest.mark.parametrize("shape", [(300_000, 3), (900, 1030), (3, 350_000)], ids=str)
def test_columns_do_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    step, zero_point = quantizer(x, 1)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append((ops.fake_quantize(x, step, zero_point, 0, 15, 1),))
        found[-1] += ops.fake_quantize_backward(x, x, step, zero_point, 0, 15, 1)
    torch.set_num_threads(before)
    assert all(all(map(torch.equal, found[0], other)) for other in found[1:])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(width=32), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=70),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(-200, 200),
)
def test_backward_is_the_twin_for_any_values(pairs: list[tuple[float, float]], step: float, zero: int) -> None:
    x, grad = torch.tensor(pairs).unbind(1)
    x, grad = x.contiguous(), grad.contiguous()
    arguments = (grad, x, torch.tensor(step), torch.tensor(zero, dtype=torch.int32), -128, 127)
    got, want = ops.fake_quantize_backward(*arguments), twin.fake_quantize_backward(*arguments)
    same_bits(got[0], want[0])
    magnitude = float(grad.double().abs().sum()) * (2.0**8 + 128)
    torch.testing.assert_close(got[1], want[1], rtol=1e-6, atol=1e-12 * magnitude, equal_nan=True)
