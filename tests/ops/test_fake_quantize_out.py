"""`out=`: the same bits as without it, in the memory that was given, and nothing else."""

import pytest
import torch

from ribs import ops
from ribs.ops import twin
from samples import DENSE, LAYOUTS, quantizer, same_bits

AXES = pytest.mark.parametrize("axis", [None, 0, 1, -1])


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """An output of the strides of a dense x, of values that a test would notice."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).fill_(7.7)


@AXES
@pytest.mark.parametrize("layout", DENSE)
def test_forward(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    step, zero_point = quantizer(x, axis)
    out, before = empty_like(x), x.clone()
    assert ops.fake_quantize(x, step, zero_point, 0, 15, axis, out=out) is out
    same_bits(out, twin.fake_quantize(x, step, zero_point, 0, 15, axis))
    same_bits(x, before)
    ops.fake_quantize(x, step, zero_point, 0, 15, axis, out=x)
    same_bits(x, out)


@AXES
@pytest.mark.parametrize("layout", DENSE)
def test_backward(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    step, zero_point = quantizer(x, axis)
    grad = empty_like(x).normal_()
    want_x, want_step = ops.fake_quantize_backward(grad, x, step, zero_point, 0, 15, axis)
    apart, x_itself, grad_itself = empty_like(x), x.clone(), grad.clone()
    for out, g, v in ((apart, grad, x), (grad_itself, grad_itself, x), (x_itself, grad, x_itself)):
        grad_x, grad_step = ops.fake_quantize_backward(g, v, step, zero_point, 0, 15, axis, out=out)
        assert grad_x is out and torch.equal(grad_step, want_step)
        same_bits(out, want_x)


def test_float64_goes_through_the_twin() -> None:
    x, out = torch.randn(2, 50, dtype=torch.float64)
    arguments = (x, torch.tensor(0.1, dtype=torch.float64), torch.tensor(0, dtype=torch.int32), -4, 3)
    assert torch.equal(ops.fake_quantize(*arguments, out=out), twin.fake_quantize(*arguments))
    got = ops.fake_quantize_backward(x, *arguments, out=out)
    assert got[0] is out and all(map(torch.equal, got, twin.fake_quantize_backward(x, *arguments)))


def test_strides_of_single_elements_do_not_matter() -> None:
    x = torch.randn(5, 1, 4)
    out = torch.empty_strided((5, 1, 4), (4, 99, 1))
    step, zero_point = quantizer(x, None)
    assert torch.equal(
        ops.fake_quantize(x, step, zero_point, 0, 15, out=out), twin.fake_quantize(x, step, zero_point, 0, 15)
    )


def test_autograd_notices_what_was_written() -> None:
    x, weight = torch.randn(5), torch.randn(5, requires_grad=True)
    y = weight * x
    with torch.no_grad():
        ops.fake_quantize(x, *quantizer(x, None), 0, 15, out=x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(5)
        want = twin.fake_quantize(x, *quantizer(x, None), 0, 15)
        torch.manual_seed(0)
        assert torch.randn(5).equal(x)
        assert torch.equal(ops.fake_quantize(x, *quantizer(x, None), 0, 15, out=x), want)


MEMORY = torch.arange(40.0)
X = MEMORY[:12].view(3, 4)
ONE, ZERO = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
BASE = MEMORY[20:32].view(3, 4)
GRADIENT = torch.ones(3, 4, requires_grad=True)
REFUSED = {  # x, step, out, message
    "shape": (
        X,
        ONE,
        torch.empty(4, 3),
        r"out=\[4, 3\] of torch.float32 on cpu is not supported; it must be like x, \[3, 4\]",
    ),
    "dtype": (X, ONE, torch.empty(3, 4).double(), r"out=\[3, 4\] of torch.float64 .* must be like x"),
    "device": (X, ONE, torch.empty(3, 4, device="meta"), r"out=\[3, 4\] of torch.float32 on meta is not supported"),
    "strides": (X, ONE, torch.empty(4, 3).T, r"out strides=\(1, 3\) .* must be those of x, \(4, 1\)"),
    "strided_x": (MEMORY[:24:2].view(3, 4), ONE, torch.empty(3, 4), r"x strides=\(8, 2\) .* must be dense"),
    "expanded_x": (ONE.expand(3, 4), ONE, torch.empty(3, 4), r"x strides=\(0, 0\) .* pass x.contiguous\(\)"),
    "expanded_out": (X, ONE, torch.empty(1).expand(3, 4), r"out strides=\(0, 0\) .* must be those of x"),
    "overlap": (X, ONE, MEMORY[4:16].view(3, 4), "out overlaps x in memory"),
    "overlap_step": (X, BASE[1, 1], BASE, "out overlaps step in memory"),
    "records_x": (GRADIENT, ONE, BASE, "gradients are recorded for x, .*leave out= away, or .* torch.no_grad"),
    "records_step": (X, torch.tensor(1.0, requires_grad=True), BASE, "gradients are recorded for step"),
    "records_out": (X, ONE, GRADIENT, "gradients are recorded for out"),
    "step_zero": (X, ONE * 0, BASE, "step=0.0 is not supported"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_forward_refuses(case: tuple) -> None:
    x, step, out, message = case
    with pytest.raises(ValueError, match=r"\[fake_quantize\] .*" + message):
        ops.fake_quantize(x, step, ZERO, 0, 3, out=out)


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "step_zero"])
def test_backward_refuses(name: str) -> None:
    x, step, out, message = REFUSED[name]
    with pytest.raises(ValueError, match=r"\[fake_quantize_backward\] .*" + message):
        ops.fake_quantize_backward(torch.ones(3, 4), x, step, ZERO, 0, 3, out=out)


GRADS = {  # grad, message
    "shape": (torch.ones(4, 3), r"grad=\[4, 3\] of torch.float32 on cpu is not supported; it must be like x"),
    "dtype": (torch.ones(3, 4).double(), r"grad=\[3, 4\] of torch.float64"),
    "strides": (torch.ones(4, 3).T, r"grad strides=\(1, 3\) is not supported with out="),
    "overlap": (MEMORY[24:36].view(3, 4), "out overlaps grad in memory"),
    "records": (GRADIENT, "gradients are recorded for grad"),
}


@pytest.mark.parametrize("case", GRADS.values(), ids=GRADS)
def test_refuses_a_gradient(case: tuple) -> None:
    grad, message = case
    with pytest.raises(ValueError, match=r"\[fake_quantize_backward\] .*" + message):
        ops.fake_quantize_backward(grad, X, ONE, ZERO, 0, 3, out=BASE)


def test_no_grad_allows_parameters() -> None:
    with torch.no_grad():
        assert ops.fake_quantize(X, torch.tensor(1.0, requires_grad=True), ZERO, 0, 3, out=BASE).max() == 3
