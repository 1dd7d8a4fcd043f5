"""QDrop's fake quantization against fake_quantize where it quantizes, the identity elsewhere, and its twin."""

import pytest
import torch

from ribs import ops
from ribs.ops import soft_twin
from samples import LAYOUTS, quantizer, same_bits


@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients_are_those_of_fake_quantize_or_of_nothing(layout, keep, device):
    x = LAYOUTS[layout]().to(device).requires_grad_()
    step, zero_point = quantizer(x, None)
    step.requires_grad_()
    chosen = soft_twin.kept(x, keep, 7)
    found = ops.drop(x, step, zero_point, 0, 15, keep=keep, seed=7)
    want = torch.where(chosen, ops.fake_quantize(x, step, zero_point, 0, 15), x)
    same_bits(found.detach(), want.detach())
    assert found.stride() == torch.empty_like(x).stride()
    grad = torch.randn_like(x)
    got, wanted = (torch.autograd.grad(y, (x, step), grad) for y in (found, want))
    same_bits(got[0].contiguous(), wanted[0].contiguous())
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-5, atol=1e-5)
    if keep in (0.0, 1.0):
        assert bool((chosen == bool(keep)).all())


def test_gradcheck_in_double():
    """Away from the codes' edges, where rounding has no derivative: of what is not quantized, and of the step."""
    x = torch.randn(40, dtype=torch.float64)
    chosen = soft_twin.kept(x, 0.5, 3)
    zero = torch.tensor(1, dtype=torch.int32)
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    outside = torch.where(chosen, torch.where(x > 0, 50.0, -50.0), x).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: ops.drop(x, s, zero, -4, 3, keep=0.5, seed=3), (outside, step))


def test_what_is_kept_follows_from_the_place_and_the_seed_in_python_integers():
    first, second = soft_twin.keys(5)
    word = 2**32 - 1

    def spread(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & word
        x = ((x ^ (x >> 15)) * 0x846CA68B) & word
        return x ^ (x >> 16)

    kept = soft_twin.kept(torch.empty(1000), 0.5, 5).tolist()
    assert kept == [spread((spread(at ^ first) + second) & word) >> 8 < 2**23 for at in range(1000)]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_values_are_kept_with_the_probability_and_independently(keep):
    """Shares within six standard errors: of one seed, of pairs of neighbours, and of the same place in two seeds."""
    count = 200_000
    masks = [soft_twin.kept(torch.empty(count), keep, seed).double() for seed in (0, 1, 2**62)]

    def near(values, share):
        assert abs(float(values.mean()) - share) < 6 * (share * (1 - share) / len(values)) ** 0.5

    for mask in masks:
        near(mask, keep)
        for distance in (1, 2, 64, 1024):
            near(mask[:-distance:2] * mask[distance::2], keep**2)
    near(masks[0] * masks[1], keep**2)
    near(masks[1] * masks[2], keep**2)


def test_a_seed_in_memory_is_read_by_every_call(device):
    x, step = torch.randn(500, device=device), torch.tensor(0.2, device=device)
    zero = torch.tensor(3, dtype=torch.int32, device=device)
    x.requires_grad_()
    seed = torch.tensor([2**40 + 6], device=device)
    for _ in range(2):
        seed += 1
        found, want = (ops.drop(x, step, zero, 0, 15, seed=each) for each in (seed, int(seed)))
        same_bits(found.detach(), want.detach())
        same_bits(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (found, want)))


def test_results_do_not_depend_on_threads():
    x, grad = torch.randn(2, 1_000_003)
    step, zero = torch.tensor(0.2), torch.tensor(3, dtype=torch.int32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(torch.ops.ribs.drop_backward(grad, x, step, zero, 0, 15, 0.5, torch.tensor(9)))
        found[-1] += (ops.drop(x, step, zero, 0, 15, seed=9),)
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_opcheck(layout, device):
    x = LAYOUTS[layout]().to(device)
    step, zero_point = quantizer(x, None)
    rest = (zero_point, 0, 15, 0.5, torch.tensor(3, device=device))
    torch.library.opcheck(torch.ops.ribs.drop.default, (x.clone().requires_grad_(), step.requires_grad_(), *rest))
    torch.library.opcheck(torch.ops.ribs.drop_backward.default, (torch.randn_like(x), x, step.detach(), *rest))


REFUSED = {
    "keep": ({"keep": 1.1}, "keep=1.1 is not supported; a probability"),
    "seed": ({"seed": -1}, "seed=-1 is not supported"),
    "seeds": ({"seed": torch.tensor([1, 2])}, r"seed=\[2\] on cpu is not supported; give a number, or a tensor of one"),
    "step": ({"step": torch.ones(3)}, r"step shape=\[3\] does not fit"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case):
    changed, message = case
    good = {"x": torch.ones(2, 3), "step": torch.tensor(1.0), "zero_point": torch.tensor(0, dtype=torch.int32)}
    with pytest.raises(ValueError, match=r"\[drop\] " + message):
        ops.drop(**good | {"qmin": 0, "qmax": 3} | changed)
