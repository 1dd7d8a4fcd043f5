"""Levels and steps of least squared error for nuLSQ and log-sqrt2."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ribs import ops
from ribs.ops import twin

DATA = {
    "softmax": lambda: (torch.randn(20, 20) * 2).softmax(-1),
    "tail": lambda: torch.rand(400) ** 8,
    "octaves": lambda: 2.0 ** (-40 * torch.rand(400)),
    "both_signs": lambda: torch.randn(500),
    "integers": lambda: torch.randint(0, 20, (400,)).float(),
    "few": lambda: torch.tensor([0.1, 0.5, 0.5, 0.9]),
    "one": lambda: torch.tensor([0.3]),
    "zeros": lambda: torch.zeros(7),
    "negative": lambda: -torch.rand(10),
}


def attention() -> Tensor:
    """Softmax outputs of four heads over 48 tokens, some of which look at few others."""
    layer = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    tokens = torch.randn(4, 48, 32) * 3
    return layer(tokens, tokens, tokens, average_attn_weights=False)[1].detach()


def error(x: Tensor, quantized: Tensor) -> float:
    return float((x.double() - quantized.double()).square().mean())


@pytest.mark.parametrize("data", DATA)
def test_levels_are_the_best_of_all(data: str) -> None:
    x = DATA[data]()
    widths = range(1, 6)  # beyond, levels lie as near to each other as the bins of a sketch
    found, best = ops.search_levels(x, widths), twin.search_levels(x, widths)
    slack = 1e-7 * float(x.double().square().mean())  # of float levels; where there is one for every value
    for width, steps, mse, want in zip(widths, found.steps, found.mse, best.mse, strict=True):
        assert steps.dtype == torch.float32 and steps.shape == (2**width - 1,) and bool((steps > 0).all())
        assert want - slack <= mse <= 1.005 * want + slack
        assert error(x, ops.fake_quantize_nonuniform(x, steps)) == pytest.approx(float(mse), rel=1e-3, abs=slack)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_of_uniform_values_are_those_of_the_formula(bits: int) -> None:
    """Zero has a cell of half a width: widths are 1 / (top + 1/2), and the error is that of a uniform quantizer."""
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5).div(200_000).float()
    width = 1 / (2**bits - 0.5)
    (steps,), mse = ops.search_levels(x, [bits])
    assert float(mse) == pytest.approx(width**2 / 12, rel=5e-3)
    assert float(steps.sum()) == pytest.approx(1 - width / 2, rel=5e-3)


@pytest.mark.parametrize("bits", [3, 4])
def test_levels_beat_log_sqrt2_and_even_steps_on_attention(bits: int, device: torch.device) -> None:
    x = attention().to(device)
    (steps,), mse = ops.search_levels(x, [bits])
    log, (step, zero, even, _) = ops.search_log_sqrt2(x, [bits]), ops.search_steps(x, [bits], symmetric=False)
    found = error(x, ops.fake_quantize_nonuniform(x, steps))
    assert found == pytest.approx(float(mse), rel=1e-3)
    assert found < 0.9 * error(x, ops.fake_quantize_log_sqrt2(x, log.step, bits))
    assert found < 0.7 * error(x, ops.fake_quantize(x, step, zero, 0, 2**bits - 1))
    assert float(log.mse) == pytest.approx(error(x, ops.fake_quantize_log_sqrt2(x, log.step, bits)), rel=1e-2)
    assert float(even) > float(mse)


@pytest.mark.parametrize("data", DATA)
def test_log_sqrt2_has_the_best_percentile(data: str) -> None:
    x = torch.cat([DATA[data]().flatten()] * 200) if data == "tail" else DATA[data]()
    found, want = ops.search_log_sqrt2(x), twin.search_log_sqrt2(x)
    torch.testing.assert_close(found.step, want.step, rtol=2**-11, atol=0)
    torch.testing.assert_close(found.mse, want.mse, rtol=5e-3, atol=1e-7 * float(x.square().mean()))


def test_percentiles_compete() -> None:
    """Thousands of small values, a few twice as large: with one bit the small ones decide, with eight the large."""
    x = torch.cat([torch.rand(100_000) * 0.01, torch.full((50,), 0.02)])
    one, eight = ops.search_log_sqrt2(x, [1, 8]).step.tolist()
    assert 0.0099 < one < 0.01 and eight == pytest.approx(0.02)
    rare = torch.cat([torch.zeros(2_000_000), torch.tensor([0.7])])  # beyond all percentiles
    assert ops.search_log_sqrt2(rare, [4]).step.item() == pytest.approx(0.7, rel=1e-6)


def test_parts_are_the_whole(device: torch.device) -> None:
    x = attention().to(device)
    parts = ops.sketch(x[:1]) + ops.sketch(x[1:])
    for name in ("search_levels", "search_log_sqrt2"):
        one, other = (getattr(ops, name)(each, [2, 5]) for each in (x, parts))
        assert torch.equal(one.mse, other.mse) and all(map(torch.equal, one[0], other[0]))
        assert one.mse.device == one[0][0].device == x.device


@pytest.mark.parametrize("value", [1e-45, 1e-41, 1.2e-38, 1e-30, 3.4e38])
def test_steps_are_usable_whatever_the_size_of_values(value: float) -> None:
    x = torch.tensor([0.0, value / 3, value])
    for steps in ops.search_levels(x, range(1, 9)).steps:
        assert bool((steps > 0).all()) and bool(ops.fake_quantize_nonuniform(x, steps).isfinite().all())


def test_order_of_bits_is_kept() -> None:
    x = torch.rand(300)
    for name in ("search_levels", "search_log_sqrt2"):
        down, up = (getattr(ops, name)(x, widths) for widths in ([5, 2], [2, 5]))
        assert torch.equal(down.mse, up.mse.flip(0)) and torch.equal(down[0][0], up[0][1])


REFUSED = {
    "half": (torch.ones(3).half(), [4], TypeError, "x dtype=torch.float16"),
    "empty": (torch.ones(0), [4], ValueError, r"x of shape \[0\] is empty"),
    "nan": (torch.tensor([1.0, math.nan]), [4], ValueError, "x has 1 NaN"),
    "no_bits": (torch.ones(3), [], ValueError, "bits is empty"),
    "bits": (torch.ones(3), [4, 9], ValueError, "bits=9 is not supported"),
    "one_int": (torch.ones(3), 4, TypeError, "bits=4 is not a sequence"),
}


@pytest.mark.parametrize("name", ["search_levels", "search_log_sqrt2"])
@pytest.mark.parametrize("room", [ops, twin], ids=["native", "twin"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case: tuple, room: object, name: str) -> None:
    x, bits, error_type, message = case
    with pytest.raises(error_type, match=rf"\[({name}|sketch)\] " + message):
        getattr(room, name)(x, bits)


@pytest.mark.parametrize("name", ["search_levels", "search_log_sqrt2"])
def test_refuses_a_damaged_sketch(name: str) -> None:
    damaged = ops.sketch(torch.rand(50))
    with pytest.raises(ValueError, match=rf"\[{name}\] the sketch was damaged"):
        getattr(ops, name)(replace(damaged, counts=-damaged.counts))
