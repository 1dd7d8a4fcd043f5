import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ribs import ops
from ribs.ops import twin

HOSTILE = {
    "gaussian": lambda: torch.randn(5000),
    "post_relu": lambda: torch.randn(20000).relu(),
    "long": lambda: torch.randn(700_000),
    "one": lambda: torch.tensor([0.3]),
    "zeros": lambda: torch.zeros(1000),
    "negative_zeros": lambda: torch.cat([-torch.zeros(700), torch.ones(3)]),
    "equal": lambda: torch.full((4000,), -1.7),
    "outlier": lambda: torch.cat([torch.randn(3000), torch.tensor([1e30])]),
    "extremes": lambda: torch.tensor([3.4e38, -3.4e38, 1e-45, -1e-45, 1.2e-38, 0.0, 1.0]),
    "denormal": lambda: torch.randn(3000) * 1e-41,
    "all_negative": lambda: -torch.rand(3000) - 3,
    "every_octave": lambda: 2.0 ** torch.arange(-149, 128).float(),
    "wide_blocks": lambda: torch.randn(3000) * 2.0 ** torch.randint(-60, 60, (3000,)),
}


def same(a: ops.Sketch, b: ops.Sketch) -> None:
    for name, part in vars(a).items():
        assert torch.equal(part, getattr(b, name)), name


@pytest.mark.parametrize("data", HOSTILE)
def test_is_the_twin(data: str, device: torch.device) -> None:
    x = HOSTILE[data]().to(device)
    same(ops.sketch(x), twin.sketch(x))


@pytest.mark.parametrize("data", HOSTILE)
def test_knows_count_sum_squares_and_extremes(data: str) -> None:
    x = HOSTILE[data]()
    s, exact = ops.sketch(x), x.double()
    assert (s.count, s.zeros) == (x.numel(), int((x == 0).sum()))
    assert (s.minimum, s.maximum) == (float(x.min()), float(x.max()))
    # The oracle adds up without rounding; the sketch rounds once for each bin.
    assert s.sum == pytest.approx(math.fsum(exact.tolist()), rel=1e-12, abs=1e-12 * float(exact.abs().sum()))
    assert s.square == pytest.approx(math.fsum(exact.square().tolist()), rel=1e-14)
    means, counts = s.means()
    assert float(counts.sum()) == x.numel()
    assert float((means * counts).sum()) == pytest.approx(s.sum, rel=1e-9, abs=1e-12 * float(exact.abs().sum()))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.randoms(use_true_random=False),
)
def test_parts_in_any_order_add_up_to_the_same_bits(values: list[float], cuts: list[int], random: object) -> None:
    x = torch.tensor(values)
    ends = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    parts = [ops.sketch(x[a:b]) for a, b in pairwise(ends)]
    random.shuffle(parts)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    same(total, ops.sketch(x))


def test_threads_and_layouts_do_not_matter() -> None:
    x, before = torch.randn(3, 40, 50, 200), torch.get_num_threads()
    want = ops.sketch(x)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        same(ops.sketch(x), want)
    torch.set_num_threads(before)
    for form in (x.to(memory_format=torch.channels_last), x.transpose(0, 3), torch.cat([x, x], 1)[:, :40]):
        same(ops.sketch(form), want)
    same(ops.sketch(x[:1, :1].expand(1, 7, 50, 200)), ops.sketch(x[:1, :1].repeat(1, 7, 1, 1)))
    odd = torch.empty(x.numel() + 1)[1:].copy_(x.flatten())  # not aligned to a vector
    same(ops.sketch(odd), want)


def test_counts_past_what_a_packed_bin_holds() -> None:
    x = torch.full((2**24 + 70_000,), 1.25)  # one bin, more values than its 24 bits count
    s = ops.sketch(x)
    assert s.counts.max() == x.numel() and s.sum == 1.25 * x.numel()


@pytest.mark.parametrize("symmetric", [True, False])
def test_search_on_a_sketch_is_that_on_the_tensor(symmetric: bool, device: torch.device) -> None:
    x = torch.randn(30_000).to(device) * 3 + 1
    parts = ops.sketch(x[:100]) + ops.sketch(x[100:20_000]) + ops.sketch(x[20_000:])
    found = ops.search_steps(parts, [2, 8], symmetric=symmetric)
    assert all(map(torch.equal, found, ops.search_steps(x, [2, 8], symmetric=symmetric)))


def test_constants_and_zeros_are_searched() -> None:
    assert ops.search_steps(ops.sketch(torch.zeros(5)), [4], symmetric=True).step.item() == 1
    step, zero_point, mse, _ = ops.search_steps(ops.sketch(torch.full((5,), -2.5)), [3], symmetric=False)
    assert (step.item(), zero_point.item(), mse.item()) == (2.5, 1, 0)


@pytest.mark.slow
def test_more_than_2_31_values(tmp_path) -> None:
    count = 2**31 + 17
    path = tmp_path / "values"
    with open(path, "wb") as file:  # a hole that reads as zeros
        file.seek(4 * (count - 3))
        file.write(np.array([1.5, -2.0, 3.5], dtype=np.float32).tobytes())
    x = torch.from_file(str(path), shared=False, size=count)
    s = ops.sketch(x)
    assert (s.count, s.zeros, s.sum, s.minimum, s.maximum) == (count, count - 3, 3.0, -2.0, 3.5)
    found = ops.search_steps(x, [4], symmetric=True)
    assert found.step.item() == 0.5 and found.mse.item() == 0


REFUSED = {
    "half": (torch.ones(3).half(), TypeError, "x dtype=torch.float16"),
    "empty": (torch.ones(0), ValueError, r"x of shape \[0\] is empty"),
    "nan": (torch.tensor([1.0, math.nan]), ValueError, "x has 1 NaN and 0 infinite"),
    "inf": (torch.tensor([1.0, -math.inf, math.inf]), ValueError, "x has 0 NaN and 2 infinite"),
}


@pytest.mark.parametrize("sketch", [ops.sketch, twin.sketch], ids=["native", "twin"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case: tuple, sketch: object) -> None:
    x, error, message = case
    with pytest.raises(error, match=r"\[sketch\] " + message):
        sketch(x)


@pytest.mark.parametrize("option", [{"axis": 0}, {"exact": True}], ids=str)
def test_a_sketch_has_neither_axes_nor_single_values(option: dict) -> None:
    with pytest.raises(ValueError, match="does not go with a sketch"):
        ops.search_steps(ops.sketch(torch.ones(3)), symmetric=True, **option)


DAMAGE = {
    "place_beyond": ("places", lambda p: p + 600, "places are not ascending"),
    "place_negative": ("places", lambda p: p - 1000, "places are not ascending"),
    "place_repeated": ("places", lambda p: p * 0 + 3, "places are not ascending"),
    "not_finite": ("extremes", lambda e: e * math.inf, "not finite"),
    "count_negative": ("counts", lambda c: -c, "do not fit its counts"),
    "residual_large": ("residuals", lambda r: r + (1 << 40), "do not fit its counts"),
    "count_added": ("counts", lambda c: c + 1, "totals do not fit"),
    "short": ("counts", lambda c: c[1:], r"counts are torch.int64 \[\d+, 2048\]"),
    "float": ("squares", lambda s: s.float(), "squares are torch.float32"),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE)
def test_refuses_a_damaged_sketch(case: tuple) -> None:
    name, damage, message = case
    s = ops.sketch(torch.randn(500))
    with pytest.raises(ValueError, match=r"\[search_steps\] .*" + message):
        ops.search_steps(replace(s, **{name: damage(getattr(s, name))}), symmetric=True)
