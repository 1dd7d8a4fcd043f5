import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ribs import ops
from ribs.ops import twin
from ribs.ops.native import is_plain
from samples import LAYOUTS, SPECIALS, quantizer, same_bits

CODES = [(0, 15, 3), (-8, 7, 0), (0, 255, 128), (0, 1, 0), (-1, 0, 0), (5, 5, 2)]


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_is_the_twin_bit_for_bit(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    step, zero_point = quantizer(x, axis)
    out = ops.fake_quantize(x, step, zero_point, 0, 15, axis)
    same_bits(out.contiguous(), twin.fake_quantize(x, step, zero_point, 0, 15, axis).contiguous())
    assert out.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_is_the_twin(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    step, zero_point = quantizer(x, axis)
    arguments = (torch.randn_like(x), x, step, zero_point, 0, 15, axis)
    grad_x, grad_step = torch.ops.ribs.fake_quantize_backward(*arguments)
    want_x, want_step = twin.fake_quantize_backward(*arguments)
    same_bits(grad_x.contiguous(), want_x.contiguous())
    torch.testing.assert_close(grad_step, want_step, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("codes", CODES, ids=str)
def test_hostile_values(codes: tuple[int, int, int], device: torch.device) -> None:
    qmin, qmax, zero = codes
    x = torch.tensor(SPECIALS, device=device)
    step, zero_point = (
        torch.tensor([1.0], device=device),
        torch.tensor([zero], dtype=torch.int32, device=device),
    )
    out = ops.fake_quantize(x, step, zero_point, qmin, qmax)
    same_bits(out, twin.fake_quantize(x, step, zero_point, qmin, qmax))
    assert out[2].isnan() and out[3] == qmax - zero and out[4] == qmin - zero
    assert not (out.eq(0) & out.signbit()).any()


def test_scalar_tensor(device: torch.device) -> None:
    step, zero_point = torch.tensor(0.5, device=device), torch.tensor(0, dtype=torch.int32, device=device)
    out = ops.fake_quantize(torch.tensor(0.8, device=device), step, zero_point, -4, 3)
    assert out.shape == () and out.item() == 1.0


@pytest.mark.parametrize("codes", CODES[:4], ids=str)
def test_agrees_with_torch_where_the_step_is_a_power_of_two(codes: tuple[int, int, int]) -> None:
    qmin, qmax, zero = codes  # torch multiplies by the reciprocal, which is exact here
    x = torch.randn(5000) * 10
    want = torch.fake_quantize_per_tensor_affine(x, 0.125, max(qmin, min(qmax, zero)), qmin, qmax)
    step, zero_point = torch.tensor(0.125), torch.tensor(max(qmin, min(qmax, zero)), dtype=torch.int32)
    same_bits(ops.fake_quantize(x, step, zero_point, qmin, qmax), want)


def lsq(x: torch.Tensor, step: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """LSQ as a composition of torch operators, with a straight-through round."""
    u = (x / step).clamp(low, high)
    return (u + (u.round() - u).detach()) * step


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "wide"])
@pytest.mark.parametrize("axis", [None, 1])
def test_gradients_are_those_of_eager_lsq(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device).requires_grad_()
    step, zero_point = quantizer(x, axis)
    step.requires_grad_()
    grad = torch.randn_like(x)
    got = torch.autograd.grad(ops.fake_quantize(x, step, zero_point, 0, 15, axis), (x, step), grad)
    shape = (1, -1, 1, 1) if axis == 1 else ()
    y = lsq(x.double(), step.double().reshape(shape), -3, 12)
    want = torch.autograd.grad(y, (x, step), grad.double())
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=1e-4, atol=1e-4)


def learned(x: torch.Tensor, one: bool) -> tuple[list, dict]:
    """Steps of which some are below their floor, for channels of which some are turned around."""
    count = 1 if one else x.shape[1]
    step, zero_point = torch.rand(count) * 0.3 - 0.05, torch.full((count,), 3, dtype=torch.int32)
    named = {"floor": torch.full((count,), 0.06), "signs": torch.randn(x.shape[1])}
    return [step.to(x.device), zero_point.to(x.device), 0, 15, 1], {k: v.to(x.device) for k, v in named.items()}


@pytest.mark.parametrize("one", [False, True], ids=["steps", "step"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "many_columns", "one_channel"])
def test_floors_signs_and_scale_are_what_they_are_defined_by(layout: str, one: bool, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    grad, (rest, named), channels = torch.randn_like(x), learned(x, one), x.shape[1]
    sign = torch.where(named["signs"] < 0, -1.0, 1.0).reshape(-1, 1, 1)
    used = [
        torch.maximum(rest[0], named["floor"]).repeat(channels // len(rest[0])),
        rest[1].repeat(channels)[:channels],
    ]
    assert torch.equal(ops.fake_quantize(x, *rest, **named), ops.fake_quantize(x * sign, *used, 0, 15, 1) * sign)
    same_bits(ops.fake_quantize(x, *rest, **named), twin.fake_quantize(x, *rest, **named))
    found = ops.fake_quantize_backward(grad, x, *rest, **named, scale=0.125)
    grad_x, grad_step = ops.fake_quantize_backward(grad * sign, x * sign, *used, 0, 15, 1)
    wanted = grad_x * sign, (grad_step.sum()[None] if one else grad_step) / 8
    for want in (wanted, twin.fake_quantize_backward(grad, x, *rest, **named, scale=0.125)):
        assert torch.equal(found[0], want[0])
        torch.testing.assert_close(found[1], want[1], rtol=1e-5, atol=1e-6)


def test_float64_runs_and_differentiates() -> None:
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    y = ops.fake_quantize(x, step, torch.tensor(0, dtype=torch.int32), -4, 3)
    got = torch.autograd.grad(y.square().sum(), (x, step))
    want = torch.autograd.grad(lsq(x, step, -4, 3).square().sum(), (x, step))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("axis", [None, 1])
def test_results_do_not_depend_on_threads(axis: int | None) -> None:
    x = torch.randn(7, 3, 301, 211)
    step, zero_point = quantizer(x, axis)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(torch.ops.ribs.fake_quantize_backward(x, x, step, zero_point, 0, 15, axis))
        found[-1] += (ops.fake_quantize(x, step, zero_point, 0, 15, axis),)
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_opcheck(layout: str, axis: int | None, device: torch.device) -> None:
    x = LAYOUTS[layout]().to(device)
    step, zero_point = quantizer(x, axis)
    arguments = (x.requires_grad_(), step.requires_grad_(), zero_point, 0, 15, axis)
    torch.library.opcheck(torch.ops.ribs.fake_quantize.default, arguments)
    backward = (torch.randn_like(x), x.detach(), step.detach(), *arguments[2:])
    torch.library.opcheck(torch.ops.ribs.fake_quantize_backward.default, backward)
    rest, named = learned(x, axis is None)
    arguments = (x, rest[0].requires_grad_(), *rest[1:], *named.values(), 0.5)
    torch.library.opcheck(torch.ops.ribs.fake_quantize.default, arguments)


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_only_plain_tensors_go_straight_to_native_code(device: torch.device) -> None:
    x = torch.zeros(3, device=device)
    assert is_plain(x) and is_plain(x.requires_grad_())
    with Seen():
        assert not is_plain(x)
    with FakeTensorMode():
        assert not is_plain(torch.zeros(3, device=device))
    assert not is_plain(torch.ones(3, dtype=torch.complex64, device=device).conj().imag)  # its sign is still to come
    torch.func.vmap(check_wrapped)(x)


def check_wrapped(x: torch.Tensor) -> torch.Tensor:
    assert not is_plain(x)
    return x


def test_what_watches_operators_sees_both_passes_and_batches_of_gradients_are_taken() -> None:
    x, step = torch.randn(5, 6).requires_grad_(), torch.tensor(0.1).requires_grad_()
    grads = torch.randn(3, 5, 6)

    def gradients(grad: torch.Tensor, **options: bool) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(ops.fake_quantize(x, step, ZERO, -4, 3), (x, step), grad, **options)

    want = [gradients(grad) for grad in grads]
    with Seen() as seen:
        found = gradients(grads[0])
    assert {"fake_quantize", "fake_quantize_backward"} <= set(seen.names)
    assert all(map(torch.equal, found, want[0]))
    batched = gradients(grads, is_grads_batched=True)
    for index, each in enumerate(want):
        assert all(torch.equal(got[index], part) for got, part in zip(batched, each, strict=True))
    y = ops.fake_quantize(x, step, ZERO, -4, 3).square().sum()
    (twice,) = torch.autograd.grad(y, step, create_graph=True)
    with pytest.warns(UserWarning, match="an autograd kernel was not registered"):  # there is no second derivative
        twice.backward()


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = torch.nn.Parameter(torch.tensor(0.1))
        self.register_buffer("zero_point", torch.tensor(3, dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.fake_quantize(x * 2, self.step, self.zero_point, 0, 15)


def test_compiles_as_one_graph() -> None:
    layer, x = Layer(), torch.randn(4, 8, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x).square().sum(), (x, layer.step))
    want = torch.autograd.grad(layer(x).square().sum(), (x, layer.step))
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_exports() -> None:
    layer, x = Layer(), torch.randn(4, 8)
    program = torch.export.export(layer, (x,))
    assert torch.equal(program.module()(x), layer(x))
    assert "ribs.fake_quantize" in str(program.graph)


ONE = torch.tensor(1.0)
ZERO = torch.tensor(0, dtype=torch.int32)
X = torch.ones(2, 3)
REFUSED = {
    "half": (
        X.half(),
        ONE,
        ZERO,
        0,
        3,
        None,
        TypeError,
        r"x dtype=torch.float16 is not supported; .* convert it with \.float\(\), or move it to CUDA",
    ),
    "step_dtype": (X, ONE.double(), ZERO, 0, 3, None, TypeError, "step dtype=torch.float64 is not supported"),
    "zero_dtype": (X, ONE, ZERO.long(), 0, 3, None, TypeError, "zero_point dtype=torch.int64"),
    "axis": (X, ONE, ZERO, 0, 3, 2, ValueError, r"axis=2 is out of range .* use -2..1"),
    "axis_0d": (ONE, ONE, ZERO, 0, 3, 0, ValueError, "axis=0 .* use only None"),
    "step_shape": (
        X,
        torch.ones(2),
        ZERO,
        0,
        3,
        1,
        ValueError,
        r"step shape=\[2\] does not fit axis=1.*\[3\]",
    ),
    "zero_shape": (X, ONE, ZERO.expand(2), 0, 3, None, ValueError, r"zero_point shape=\[2\] does not fit"),
    "order": (X, ONE, ZERO, 4, 3, None, ValueError, "qmin=4, qmax=3 is not supported"),
    "range": (X, ONE, ZERO, 0, 2**30, None, ValueError, "qmin=0, qmax=1073741824 is not supported"),
    "step_zero": (X, ONE * 0, ZERO, 0, 3, None, ValueError, "step=0.0 is not supported; every step must be"),
    "step_nan": (X, ONE * math.nan, ZERO, 0, 3, None, ValueError, "step=nan is not supported"),
    "step_inf": (X, ONE * math.inf, ZERO, 0, 3, None, ValueError, "step=inf is not supported"),
}


LEARNED_REFUSED = {
    "signs without an axis": (
        None,
        {"signs": torch.ones(3)},
        r"signs shape=\[3\] does not fit axis=None; give one for",
    ),
    "signs of others": (1, {"signs": torch.ones(2)}, r"signs shape=\[2\] does not fit axis=1"),
    "floor of others": (None, {"floor": torch.ones(3)}, r"floor shape=\[3\] does not fit axis=None"),
    "floor": (None, {"floor": ONE * -1}, r"step=-1.0 is not supported; every step must be positive"),
}


@pytest.mark.parametrize("case", LEARNED_REFUSED.values(), ids=LEARNED_REFUSED)
def test_refuses_what_does_not_go_with_learned_steps(case: tuple) -> None:
    axis, named, message = case
    with pytest.raises(ValueError, match=r"\[fake_quantize\] " + message):
        ops.fake_quantize(X, ONE * -2, ZERO, 0, 3, axis, **named)
    with pytest.raises(TypeError, match=r"floor dtype=torch.float64 is not supported"):
        ops.fake_quantize(X, ONE, ZERO, 0, 3, floor=ONE.double())


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case: tuple) -> None:
    *arguments, error, message = case
    with pytest.raises(error, match=r"\[fake_quantize\] " + message):
        ops.fake_quantize(*arguments)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=40),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(-200, 200),
)
def test_twin_for_any_values(values: list[float], step: float, zero: int) -> None:
    arguments = (torch.tensor(values), torch.tensor(step), torch.tensor(zero, dtype=torch.int32), -128, 127)
    same_bits(ops.fake_quantize(*arguments), twin.fake_quantize(*arguments))
