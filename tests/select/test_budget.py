import pytest
import torch
from torch import nn

import ribs


@pytest.fixture(scope="module")
def table():
    return ribs.count(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).eval(), torch.randn(1, 8))


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        (ribs.Budget(bops=1000.7), {"bops": 1000}),
        (ribs.Budget(bops="4/3"), {"bops": 192 * 12}),
        (ribs.Budget(size_mib=0.25), {"size_mib": 2**21}),
        (ribs.Budget(size_mib=" 3 / 8 "), {"size_mib": 192 * 3}),
        (ribs.Budget(bops="2/2", size_mib="4/4"), {"bops": 192 * 4, "size_mib": 192 * 4}),
    ],
    ids=str,
)
def test_limits_are_exact_integers(table, budget, limits):
    assert budget.limits(table) == limits
    assert all(type(limit) is int for limit in budget.limits(table).values())


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "no bound given"),
        ({"bops": -1}, "bops=-1 is not allowed"),
        ({"bops": 0}, "bops=0 is not allowed"),
        ({"size_mib": float("nan")}, "size_mib=nan is not allowed"),
        ({"size_mib": float("inf")}, "size_mib=inf is not allowed"),
        ({"bops": "four"}, "bops='four' cannot be read"),
        ({"bops": "4/9"}, "bits=\\(4, 9\\) is not allowed"),
    ],
    ids=str,
)
def test_bad_bounds(bounds, message):
    with pytest.raises(ValueError, match=message):
        ribs.Budget(**bounds)
