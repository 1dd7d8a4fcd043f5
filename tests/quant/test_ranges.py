"""Ranges against numpy's extremes and quantiles, and against every other range that could have been taken."""

import numpy as np
import pytest
import torch

from ribs.quant.quantizer import code_range
from ribs.quant.ranges import PERCENTILES, RANGES, cut, minmax, mse, percentile

BITS = (1, 2, 4, 8)


def values(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 3000, generator=generator)
    return x * torch.tensor([[0.1], [1.0], [5.0], [1.0], [1.0], [0.0]]) + torch.tensor([[0], [0], [0], [9], [-9], [0]])


def rounded(x, step, zero_point, bits, symmetric):
    """In double precision."""
    low, high = code_range(bits, symmetric)
    return (np.clip(np.rint(x / step) + zero_point, low, high) - zero_point) * step


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_minmax_reaches_from_end_to_end(axis, symmetric):
    x = values() if axis != -1 else values().T.contiguous()
    step, zero_point = minmax(x, BITS, symmetric=symmetric, axis=axis)
    rows = x.double().numpy().reshape(1, -1) if axis is None else x.movedim(axis, 0).double().numpy()
    for k, bits in enumerate(BITS):
        low, high = code_range(bits, symmetric)
        for row, s, z in zip(rows, step[k].reshape(-1).double(), zero_point[k].reshape(-1), strict=True):
            reach = (low - z.item()) * s.item(), (high - z.item()) * s.item()
            if not row.any():
                assert (s, z) == (1, 0)
            elif symmetric:
                ends = [end / code for end, code in ((row.min(), low), (row.max(), max(high, 1))) if end / code > 0]
                assert s.item() == pytest.approx(max(ends), rel=1e-6)
            else:
                assert reach[0] <= min(row.min(), 0) + 0.501 * s.item()
                assert reach[1] >= max(row.max(), 0) - 0.501 * s.item()
                assert reach[1] - reach[0] == pytest.approx(max(row.max(), 0) - min(row.min(), 0), rel=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [None, 0])
def test_percentiles_are_numpys_and_the_best_is_taken(axis, symmetric):
    """One step is of a sketch, whose bins are 1/2048 wide."""
    x, exact = values(1), 1e-5 if axis == 0 else 5e-4
    if axis == 0:
        step, zero_point = percentile(x, BITS, symmetric=symmetric, axis=0)
    else:
        found = [percentile(row, BITS, symmetric=symmetric, axis=None) for row in x]
        step, zero_point = (torch.stack(each, 1) for each in zip(*found, strict=True))
    for k, bits in enumerate(BITS):
        low_code, high_code = code_range(bits, symmetric)
        for row, s, z in zip(x.double().numpy(), step[k].double().numpy(), zero_point[k].numpy(), strict=True):
            if not row.any():
                continue
            tried = []
            for share in PERCENTILES:
                low, high = min(np.quantile(row, 1 - share), 0), max(np.quantile(row, share), 0)
                if symmetric:
                    tried.append((max(low / low_code, high / max(high_code, 1)), 0))
                else:
                    width = (high - low) / high_code
                    tried.append((width, np.clip(np.rint(-low / width), 0, high_code)))
            errors = [np.square(rounded(row, *each, bits, symmetric) - row).mean() for each in tried]
            assert np.square(rounded(row, s, z, bits, symmetric) - row).mean() == pytest.approx(
                min(errors), rel=20 * exact
            )
            assert any(s == pytest.approx(each, rel=exact) and z == zero for each, zero in tried)


@pytest.mark.parametrize("name", RANGES)
def test_all_have_one_signature_and_name_what_is_not_finite(name):
    x = values(2)
    for axis, shape in ((None, (4,)), (0, (4, 6)), (1, (4, 3000))):
        step, zero_point = RANGES[name](x, BITS, symmetric=False, axis=axis)
        assert (step.shape, zero_point.shape) == (shape, shape)
        assert (step.dtype, zero_point.dtype) == (torch.float32, torch.int32)
    x[3, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        RANGES[name](x, BITS, symmetric=True, axis=0)


def test_squared_error_falls_from_minmax_to_percentile_to_mse():
    x = torch.randn(1, 20000, generator=torch.Generator().manual_seed(3)) ** 3
    errors = []
    for find in (minmax, percentile, mse):
        step, zero_point = find(x, (4,), symmetric=False, axis=None)
        y = rounded(x.double().numpy(), step.item(), zero_point.item(), 4, False)
        errors.append(np.square(y - x.double().numpy()).mean())
    assert errors[0] > errors[1] > errors[2]


def test_cut_leaves_out_numpys_thousandth_at_all_bits():
    x = values(4)
    step, _ = cut(x, BITS, symmetric=False, axis=0)
    low, high = np.quantile(x.double().numpy(), [0.001, 0.999], axis=1)
    reach = np.maximum(high, 0) - np.minimum(low, 0)
    for k, bits in enumerate(BITS):
        np.testing.assert_allclose(step[k, :5] * (2**bits - 1), reach[:5], rtol=1e-5)
        assert step[k, 5] == 1
