"""float16 and bfloat16: the twin rounds a float32 result once, and CUDA does what the twin does."""

import pytest
import torch

from ribs import ops
from ribs.ops import twin
from samples import LAYOUTS, SPECIALS, quantizer, same_bits

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
AXES = pytest.mark.parametrize("axis", [None, 0, 1, -1])
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@HALF
@pytest.mark.parametrize("axis", [None, 1])
def test_twin_rounds_once(axis: int | None, dtype: torch.dtype) -> None:
    x, grad = (torch.randn(4, 6, 5).to(dtype) for _ in range(2))
    step, zero_point = quantizer(x, axis)
    out = twin.fake_quantize(x, step, zero_point, 0, 15, axis)
    same_bits(out, twin.fake_quantize(x.float(), step, zero_point, 0, 15, axis).to(dtype))
    grad_x, grad_step = twin.fake_quantize_backward(grad, x, step, zero_point, 0, 15, axis)
    want_x, want_step = twin.fake_quantize_backward(grad.float(), x.float(), step, zero_point, 0, 15, axis)
    same_bits(grad_x, want_x.to(dtype))
    assert grad_step.dtype == torch.float32 and torch.equal(grad_step, want_step)


@HALF
@pytest.mark.parametrize("run", ["new", "out", "backward", "op"])
def test_the_cpu_refuses(run: str, dtype: torch.dtype) -> None:
    x = torch.ones(3, dtype=dtype)
    arguments = (x, torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), 0, 3)
    runs = {
        "new": lambda: ops.fake_quantize(*arguments),
        "out": lambda: ops.fake_quantize(*arguments, out=x),
        "backward": lambda: ops.fake_quantize_backward(x, *arguments),
        "op": lambda: torch.ops.ribs.fake_quantize(*arguments),
    }
    with pytest.raises(TypeError, match=rf"x dtype={dtype} is not supported; .* or move it to CUDA"):
        runs[run]()


@pytest.mark.cuda
@NEEDS_CUDA
@HALF
@AXES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cuda_is_the_twin(layout: str, axis: int | None, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout]().cuda().to(dtype)
    step, zero_point = quantizer(x, axis)
    arguments = (x, step, zero_point, 0, 15, axis)
    same_bits(ops.fake_quantize(*arguments), twin.fake_quantize(*arguments))
    grad = torch.randn_like(x)
    grad_x, grad_step = ops.fake_quantize_backward(grad, *arguments)
    want_x, want_step = twin.fake_quantize_backward(grad, *arguments)
    same_bits(grad_x, want_x)
    assert grad_step.dtype == torch.float32
    torch.testing.assert_close(grad_step, want_step, rtol=1e-6, atol=1e-6)


@pytest.mark.cuda
@NEEDS_CUDA
@HALF
def test_cuda_hostile_values(dtype: torch.dtype) -> None:
    x = torch.tensor(SPECIALS, device="cuda").to(dtype)
    for step in (1.0, 2.0**-20, 60000.0):  # 65504 is the largest half: results overflow as .to(half) does
        arguments = (torch.tensor(step, device="cuda"), torch.tensor(0, dtype=torch.int32, device="cuda"), -8, 7)
        same_bits(ops.fake_quantize(x, *arguments), twin.fake_quantize(x, *arguments))


@pytest.mark.cuda
@NEEDS_CUDA
@HALF
def test_cuda_differentiates(dtype: torch.dtype) -> None:
    x = torch.randn(8, 4, 3, device="cuda", dtype=dtype, requires_grad=True)
    step, zero_point = quantizer(x, 1)
    y = ops.fake_quantize(x, step.requires_grad_(), zero_point, 0, 15, 1)
    got = torch.autograd.grad(y.float().sum(), (x, step))
    want = twin.fake_quantize_backward(torch.ones_like(x), x.detach(), step.detach(), zero_point, 0, 15, 1)
    same_bits(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=1e-6, atol=1e-6)
