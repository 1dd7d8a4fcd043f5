import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dense
from ribs import ops
from ribs.ops import twin

BITS = range(2, 9)
SIDES = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
DATA = {
    "gaussian": lambda shape: torch.randn(shape),
    "laplacian": lambda shape: torch.distributions.Laplace(0.0, 1.0).sample(shape),
    "post_relu": lambda shape: torch.randn(shape).relu(),
    "bimodal": lambda shape: torch.randn(shape) * 0.3 + torch.randn(shape).sign() * 2,
    "student": lambda shape: torch.distributions.StudentT(3.0).sample(shape),
}


def true_errors(x: torch.Tensor, found: ops.StepSearch, bits: range, symmetric: bool) -> np.ndarray:
    """The float64 error of every row and bit-width, [bits, rows]."""
    rows = x.double().numpy()
    return np.array(
        [
            [
                dense.error(row, float(found.step[k, r]), int(found.zero_point[k, r]), width, symmetric)
                for r, row in enumerate(rows)
            ]
            for k, width in enumerate(bits)
        ]
    )


@SIDES
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("n", [3000, 20000, 200000])  # sorted; histogram
def test_tensor_is_near_the_dense_optimum(n: int, data: str, symmetric: bool, device: torch.device) -> None:
    x = DATA[data]((n,))
    found = ops.search_steps(x.to(device), symmetric=symmetric)
    found = ops.StepSearch(*(each.cpu()[:, None] for each in found))
    got = true_errors(x[None], found, BITS, symmetric)[:, 0]
    oracle = twin.search_steps(x, symmetric=symmetric)
    want = true_errors(x[None], ops.StepSearch(*(e[:, None] for e in oracle)), BITS, symmetric)[:, 0]
    allowed = 1.01 if n < 5000 else 1.005  # the error of one short tensor is jagged at 8 bits
    assert (got <= want * allowed).all(), got / want
    np.testing.assert_allclose(found.mse[:, 0].numpy(), got, rtol=5e-3)


@SIDES
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("n", [9, 27, 64, 576, 4608])  # every code vector (to 64); dense grid; coarser grid
def test_rows_are_near_the_dense_optimum(n: int, data: str, symmetric: bool, device: torch.device) -> None:
    bits = BITS if symmetric or n < 100 else range(2, 6)
    x = DATA[data]((3 if n > 1000 else 8, n))
    found = ops.search_steps(x.to(device), bits, symmetric=symmetric, axis=0)
    got = true_errors(x, ops.StepSearch(*(each.cpu() for each in found)), bits, symmetric).mean(axis=1)
    want = [np.mean([dense.least_error(row, b, symmetric, 200) for row in x.numpy()]) for b in bits]
    assert (got <= np.array(want) * 1.005).all(), got / want


@SIDES
@pytest.mark.parametrize("n", [1, 2, 3, 9, 33])
def test_short_rows_are_never_worse_than_a_dense_search(n: int, symmetric: bool) -> None:
    x = torch.randn(3, n)
    bits = range(1, 7)
    got = true_errors(x, ops.search_steps(x, bits, symmetric=symmetric, axis=0), bits, symmetric)
    want = [[dense.least_error(row, b, symmetric, 1500) for row in x.numpy()] for b in bits]
    assert (got <= np.array(want) * (1 + 1e-5) + 1e-12).all()


@SIDES
def test_dense_search_over_all_steps_and_zero_points(symmetric: bool) -> None:
    x = torch.randn(20000) * 2 + 0.7
    found = ops.search_steps(x, range(1, 5), symmetric=symmetric)
    for k, bits in enumerate(range(1, 5)):
        want = dense.least_error(x.numpy(), bits, symmetric)
        got = dense.error(x.double().numpy(), float(found.step[k]), int(found.zero_point[k]), bits, symmetric)
        assert got <= want * 1.002


@SIDES
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_axis_is_a_search_for_each_channel(axis: int, symmetric: bool) -> None:
    x = torch.randn(3, 4, 5)
    found = ops.search_steps(x, [3, 8], symmetric=symmetric, axis=axis)
    assert found.step.shape == (2, x.shape[axis])
    for c, channel in enumerate(x.unbind(axis)):
        alone = ops.search_steps(channel, [3, 8], symmetric=symmetric)
        assert all(torch.equal(a[:, c], b) for a, b in zip(found, alone, strict=True))


@SIDES
@pytest.mark.parametrize("shape", [(40, 50, 10, 3), (8, 3000)], ids=str)
def test_layout_does_not_matter(shape: tuple[int, ...], symmetric: bool) -> None:
    x = torch.randn(shape)
    want = ops.search_steps(x, symmetric=symmetric, axis=1)
    if x.dim() == 4:
        forms = [x.to(memory_format=torch.channels_last), x.mT.contiguous().mT]
    else:
        forms = [x.T.contiguous().T, torch.cat([x, x], 1)[:, : shape[1]]]
    for form in forms:
        assert all(map(torch.equal, ops.search_steps(form, symmetric=symmetric, axis=1), want))


@SIDES
@pytest.mark.parametrize("shape", [(3_000_000,), (40, 300), (1, 9000), (3, 40)], ids=str)
def test_results_do_not_depend_on_threads(shape: tuple[int, ...], symmetric: bool) -> None:
    x, before, found = torch.randn(shape), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(ops.search_steps(x, symmetric=symmetric, axis=0 if len(shape) > 1 else None))
    torch.set_num_threads(before)
    assert all(all(map(torch.equal, found[0], other)) for other in found[1:])


@SIDES
@pytest.mark.parametrize("n", [1, 100, 10000])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.37, 3e38, -1e-40])
def test_constants_get_an_exact_step(value: float, n: int, symmetric: bool, device: torch.device) -> None:
    x = torch.full((n,), value, device=device)
    step, zero_point, mse, _ = ops.search_steps(x, symmetric=symmetric)
    assert (step >= torch.finfo(torch.float32).tiny).all() and step.isfinite().all()
    if abs(value) > 1e-38:
        code_min = -2 if symmetric else 0
        out = ops.fake_quantize(x, step[0], zero_point[0], code_min, code_min + 3)
        assert torch.equal(out, x) and mse.eq(0).all()


@SIDES
@pytest.mark.parametrize("n", [1, 100, 10000])
def test_zeros_get_a_step_of_one(n: int, symmetric: bool, device: torch.device) -> None:
    found = ops.search_steps(torch.zeros(n, device=device), symmetric=symmetric)
    assert found.step.eq(1).all() and found.zero_point.eq(0).all() and found.mse.eq(0).all()


HOSTILE = {
    "outlier": lambda n: torch.cat([torch.randn(n), torch.tensor([1e30])]),
    "two_outliers": lambda n: torch.cat([torch.randn(n), torch.tensor([1e30, -3e38])]),
    "denormal": lambda n: torch.randn(n) * 1e-41,
    "tiny": lambda n: torch.randn(n) * 1e-36,
    "huge": lambda n: (torch.rand(n) * 2 - 1) * 3e38,
    "negative_zero": lambda n: torch.cat([-torch.zeros(n), torch.ones(3)]),
    "far_from_zero": lambda n: torch.randn(n) + 1e6,
    "all_negative": lambda n: -torch.rand(n) - 3,
    "two_values": lambda n: torch.randn(n).sign(),
}


@SIDES
@pytest.mark.parametrize("n", [20, 500, 10000])  # short; sorted; histogram
@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_data(data: str, n: int, symmetric: bool, device: torch.device) -> None:
    x = HOSTILE[data](n)
    step, zero_point, mse, _ = ops.search_steps(x.to(device), range(1, 9), symmetric=symmetric)
    assert ((step >= torch.finfo(torch.float32).tiny) & step.isfinite()).all()
    assert ((zero_point >= 0) & (zero_point < 2 ** torch.arange(1, 9, device=device))).all()
    assert (mse >= 0).all() and not mse.isnan().any()
    nothing = x.double().square().mean().item()
    for k, bits in enumerate(range(1, 9)):
        got = dense.error(x.double().numpy(), float(step[k]), int(zero_point[k]), bits, symmetric)
        assert got <= nothing * (1 + 1e-9)


def test_order_and_repetition_of_bits_are_kept() -> None:
    x = torch.randn(1000)
    want = ops.search_steps(x, symmetric=False)
    found = ops.search_steps(x, [8, 2, 8], symmetric=False)
    assert all(torch.equal(a, b[[6, 0, 6]]) for a, b in zip(found, want, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=80),
    st.integers(1, 8),
    st.booleans(),
    st.integers(-20, 20),
)
def test_scaling_by_a_power_of_two_scales_the_step(values: list[float], bits: int, symmetric: bool, power: int) -> None:
    x = torch.tensor([v if abs(v) > 1e-6 else 0.0 for v in values])
    plain = ops.search_steps(x, [bits], symmetric=symmetric)
    scaled = ops.search_steps(x * 2.0**power, [bits], symmetric=symmetric)
    assert torch.equal(scaled.zero_point, plain.zero_point)
    assert torch.equal(scaled.step, plain.step * 2.0**power) or x.eq(0).all()


REFUSED = {
    "bits_9": ((torch.ones(3), [9]), ValueError, r"bits=9 is not supported; supported bits are 1\.\.8"),
    "bits_0": ((torch.ones(3), [4, 0]), ValueError, "bits=0 is not supported"),
    "bits_none": ((torch.ones(3), []), ValueError, "bits is empty"),
    "bits_int": ((torch.ones(3), 4), TypeError, "bits=4 is not a sequence"),
    "bits_float": ((torch.ones(3), [4.0]), TypeError, "bits=4.0 is not an int"),
    "dtype": ((torch.ones(3).half(),), TypeError, "x dtype=torch.float16 is not supported"),
    "empty": ((torch.ones(0, 3),), ValueError, r"x of shape \[0, 3\] is empty"),
    "nan": ((torch.tensor([1.0, math.nan, math.nan]),), ValueError, "x has 2 NaN and 0 infinite"),
    "inf": ((torch.tensor([-math.inf] + [1.0] * 9000),), ValueError, "x has 0 NaN and 1 infinite"),
}


@pytest.mark.parametrize("search", [ops.search_steps, twin.search_steps], ids=["native", "twin"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case: tuple, search: object) -> None:
    arguments, error, message = case
    with pytest.raises(error, match=r"\[search_steps\] " + message):
        search(*arguments, symmetric=True)


def test_refuses_an_axis_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"\[search_steps\] axis=1 is out of range for x of shape \(3,\); use -1..0"):
        ops.search_steps(torch.ones(3), symmetric=True, axis=1)
