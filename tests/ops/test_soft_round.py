"""Soft rounding against autograd through its formula in double, the twin, and torch's operator checks."""

import pytest
import torch

from ribs import ops
from ribs.ops import soft_twin
from samples import LAYOUTS, quantizer

BETAS = pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 7.3, 20.0])


def formula(weight, alpha, step, zero_point, qmin, qmax, axis, beta):
    """AdaRound as it is written down, for autograd."""
    shape = [1] * weight.dim()
    if axis is not None:
        shape[axis] = -1
    step, zero_point = step.reshape(shape), zero_point.reshape(shape)
    h = (1.2 * torch.sigmoid(alpha) - 0.1).clamp(0, 1)
    code = ((weight / step).floor() + h + zero_point).clamp(qmin, qmax)
    return (code - zero_point) * step, (1 - (2 * h - 1).abs() ** beta).sum()


@pytest.mark.parametrize(("axis", "beta"), [(None, 7.3), (0, 0.0), (1, 2.0)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_penalty_and_gradient_are_those_of_the_formula(layout, axis, beta, device):
    weight = LAYOUTS[layout]().to(device)
    alpha = (3 * torch.randn_like(weight)).requires_grad_()
    step, zero_point = quantizer(weight, axis)
    grad = torch.randn_like(weight)
    values, penalty = ops.soft_round(weight, alpha, step, zero_point, 0, 15, axis, beta=beta)
    assert values.stride() == torch.empty_like(weight).stride()
    [got] = torch.autograd.grad((values * grad).sum() + 0.01 * penalty, alpha)

    wide = alpha.detach().double().requires_grad_()
    # The floor is that of the float32 quotient.
    shape = [1] * weight.dim()
    if axis is not None:
        shape[axis] = -1
    low = (weight / step.reshape(shape)).floor().double() * step.double().reshape(shape) * (1 + 1e-12)
    low = torch.where(low < 0, low * (1 - 2e-12), low)
    want_values, want_penalty = formula(low, wide, step.double(), zero_point, 0, 15, axis, beta)
    [want] = torch.autograd.grad((want_values * grad.double()).sum() + 0.01 * want_penalty, wide)
    torch.testing.assert_close(values.double(), want_values.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(penalty.double(), want_penalty.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=2e-6)


@BETAS
def test_gradcheck_in_double(beta):
    weight = torch.randn(3, 5, dtype=torch.float64)
    alpha = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    step, zero_point = torch.rand(3, dtype=torch.float64) + 0.3, torch.tensor([0, 1, 2], dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda a: ops.soft_round(weight, a, step, zero_point, -4, 3, 0, beta=beta), alpha)


@pytest.mark.parametrize("axis", [None, 0])
def test_native_is_the_twin(axis, device):
    weight = torch.randn(40, 300, device=device)
    alpha = 4 * torch.randn_like(weight)
    rest = (*quantizer(weight, axis), 0, 15, axis)
    wanted = soft_twin.soft_round(weight, alpha, *rest, beta=3.0)
    for found, want in zip(ops.soft_round(weight, alpha, *rest, beta=3.0), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


def test_hard_alphas_give_the_neighbours_and_no_penalty():
    weight, step, zero = torch.randn(1000), torch.tensor(0.3), torch.tensor(0, dtype=torch.int32)
    up = torch.randint(0, 2, (1000,)).bool()
    alpha = torch.where(up, 30.0, -30.0)
    values, penalty = ops.soft_round(weight, alpha, step, zero, -128, 127, beta=2.0)
    assert torch.equal(values, torch.where(up, (weight / step).floor() + 1, (weight / step).floor()) * step)
    assert penalty == 0


def test_extreme_and_missing_alphas():
    alpha = torch.tensor([torch.inf, -torch.inf, 1e30, -1e30, torch.nan, 0.0], requires_grad=True)
    step, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    values, penalty = ops.soft_round(torch.full((6,), 0.5), alpha, step, zero, -4, 3, beta=2.0)
    [grad] = torch.autograd.grad(values.sum() + penalty, alpha)
    assert values[:4].tolist() == [1, 0, 1, 0] and values[5] == 0.5 and grad[:4].tolist() == [0] * 4
    assert values[4].isnan() and penalty.isnan() and grad[4].isnan()


def test_a_sharpness_in_memory_is_read_by_every_call(device):
    weight, alpha = torch.randn(2, 40, device=device), torch.randn(2, 40, device=device, requires_grad=True)
    rest, beta = (*quantizer(weight, None), 0, 15), torch.zeros(1, device=device)
    for value in (0.0, 7.25):
        beta.fill_(value)
        found, want = (ops.soft_round(weight, alpha, *rest, beta=each) for each in (beta, value))
        assert torch.equal(found[1], want[1]) and (found[1] > 0) == (value > 0)
        gradients = [torch.autograd.grad(values.sum() + penalty, alpha)[0] for values, penalty in (found, want)]
        assert torch.equal(*gradients)


@pytest.mark.parametrize("shape", [(70_000,), (300, 5), (3, 1025)], ids=str)
def test_results_do_not_depend_on_threads(shape):
    weight, alpha = torch.randn(*shape).repeat(8, *[1] * (len(shape) - 1)), None
    alpha, before, found = torch.randn_like(weight), torch.get_num_threads(), []
    step, zero = torch.tensor(0.2), torch.tensor(0, dtype=torch.int32)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(ops.soft_round(weight, alpha, step, zero, -8, 7, beta=5.0))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_opcheck(layout, device):
    weight = LAYOUTS[layout]().to(device)
    alpha = torch.randn_like(weight)
    rest = (*quantizer(weight, 0), 0, 15, 0, torch.tensor(4.0, device=device))
    torch.library.opcheck(torch.ops.ribs.soft_round.default, (weight, alpha.clone().requires_grad_(), *rest))
    grads = (torch.randn_like(weight), torch.tensor(0.1, device=device))
    torch.library.opcheck(torch.ops.ribs.soft_round_backward.default, (*grads, weight, alpha, *rest))


REFUSED = {
    "alpha": ({"alpha": torch.zeros(3)}, r"alpha=\[3\] of torch.float32 on cpu .* like weight, \[2, 3\]"),
    "beta": ({"beta": 0.5}, "beta=0.5 is not supported; it must be 0, or lie in 1..1000"),
    "beta in memory": ({"beta": torch.tensor(0.5)}, "beta=0.5 is not supported; it must be 0, or lie in 1..1000"),
    "betas": ({"beta": torch.ones(2)}, r"beta=\[2\] on cpu is not supported; give a number, or a tensor of one"),
    "step": ({"step": torch.tensor(-1.0)}, "step=-1.0 is not supported"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case):
    changed, message = case
    good = {"weight": torch.ones(2, 3), "alpha": torch.ones(2, 3), "step": torch.tensor(1.0)}
    good |= {"zero_point": torch.tensor(0, dtype=torch.int32), "qmin": 0, "qmax": 3}
    with pytest.raises(ValueError, match=r"\[soft_round\] " + message):
        ops.soft_round(**good | changed)
