"""Bounds as exact integers, against counting by hand."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import ribs
from ribs.select.plan import make_plan


@pytest.fixture(scope="module")
def table():
    """Two layers: 128 and 64 weights, as many MACs."""
    return ribs.count(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).eval(), torch.randn(1, 8))


def plan(table, budget, **options):
    return make_plan(table, budget, range(1, 9), **options)


@pytest.mark.parametrize(
    ("bounds", "limits"),
    [
        ({"bops": 1000.7}, {"bops": 1000}),
        ({"bops": "4/3"}, {"bops": 192 * 12}),
        ({"bops": "1.5 KBOPs"}, {"bops": 1500}),
        ({"bops": "0.0000028 GBOPs"}, {"bops": 2800}),
        ({"bops": " 2.8e3 BOPs "}, {"bops": 2800}),
        ({"bops": "3.5/3.5"}, {"bops": 192 * 25 // 2}),
        ({"bops": "3.25/8"}, {"bops": 192 * 26}),
        ({"bops": "50% of 8/8"}, {"bops": 192 * 32}),
        ({"bops": "33.4 % of 3/3"}, {"bops": 192 * 9 * 334 // 1000}),
        ({"bops": ("2/2", None)}, {"least bops": -192 * 4}),
        ({"bops": (1000.2, "4/4")}, {"bops": 192 * 16, "least bops": -1001}),
        ({"size": 0.25}, {"size": 2**21}),
        ({"size": "0.5 KiB"}, {"size": 2**12}),
        ({"size": "99 B"}, {"size": 99 * 8}),
        ({"size": "777 bits"}, {"size": 777}),
        ({"size": " 3 / 8 "}, {"size": 192 * 3}),
        ({"bops": "2/2", "size": "4/4"}, {"bops": 192 * 4, "size": 192 * 4}),
        ({"average_bits": 4.55}, {"average_bits": 2 * 192 * 455 // 100}),
        ({"average_bits": "4/8"}, {"average_bits": 192 * 12}),
        ({"average_weight_bits": (3.3, 4)}, {"average_weight_bits": 192 * 4, "least average_weight_bits": -634}),
        # The first layer's input and output are 8 and 16 elements, those of the second 16 and none that is read.
        ({"activation_memory": "99 bits"}, {"activation_memory at 0": 99}),
        ({"activation_memory": "4/5"}, {"activation_memory at 0": 24 * 5}),
    ],
    ids=str,
)
def test_limits_are_exact_integers(table, bounds, limits):
    found = plan(table, ribs.Budget(**bounds)).limits
    assert found == limits
    assert all(type(limit) is int for limit in found.values())


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "no bound given"),
        ({"bops": (None, None)}, "no bound given"),
        ({"bops": -1}, "bops=-1 is not allowed"),
        ({"bops": 0}, "bops=0 is not allowed"),
        ({"bops": True}, "bops=True is not allowed"),
        ({"size": float("nan")}, "size=nan is not allowed"),
        ({"size": float("inf")}, "size=inf is not allowed"),
        ({"size": "1e999999999"}, "size='1e999999999' cannot be read"),
        ({"size": "1e999999999 MiB"}, "size='1e999999999 MiB' cannot be read"),
        ({"bops": (1, 2, 3)}, r"give an upper bound or a \(lower, upper\) pair"),
        ({"bops": "four"}, "bops='four' cannot be read; give a number, one with a unit of BOPs, .*GBOPs.*50% of 8/8"),
        ({"size": "5 MB"}, "size='5 MB' cannot be read; .*MiB"),
        ({"size": "0 MiB"}, "size='0 MiB' is not allowed"),
        ({"average_bits": "5 MiB"}, "average_bits='5 MiB' cannot be read; give a number or a uniform network"),
        ({"bops": "4/9"}, r"bits=\(4, 9\) is not allowed"),
        ({"bops": "0% of 8/8"}, "give a positive share"),
        ({"bops": "3.5/4.2"}, "lies between no two uniform networks"),
        ({"bops": (3, 2)}, "the lower bound is above the upper one"),
        ({"activation_memory": (1, 2)}, "takes no lower bound"),
        ({"costs": {"bops": (lambda unit, bits: 1, 5)}}, "the name is taken"),
        ({"costs": {"latency": "latency.csv"}}, "must be"),
        ({"bops": "4/4", "accounting": "papers"}, "accounting='papers' is not supported; give one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_bounds(bounds, message):
    with pytest.raises(ValueError, match=message):
        ribs.Budget(**bounds)


def test_relative_bounds_that_cross(table):
    with pytest.raises(ValueError, match="the lower bound is above"):
        plan(table, ribs.Budget(bops=("4/4", "3/3")))


def test_every_configuration_is_judged_by_its_bounds(table):
    """The rows of the program admit exactly what a count by hand admits."""
    weights = {"0": 128, "1": 64}
    joules = {
        (unit, b): Fraction(f"{0.1 * b:.1f}") * (unit == "0") + Fraction(1, 3) for unit in "01" for b in range(1, 9)
    }
    budget = ribs.Budget(
        bops=("2/2", "5/5"),
        average_weight_bits=(2.5, 5.5),
        activation_memory="120 bits",
        costs={"energy": (lambda unit, bits: joules[unit, bits[1]], (0.9, 1.2))},
    )
    found = plan(table, budget, activation_bits=range(1, 9))
    costs, rooms = np.array(found.costs, dtype=object), found.available
    admitted = 0
    for choice in itertools.product(range(64), repeat=2):
        (w0, a0), (w1, a1) = found.configuration(choice).values()
        bops = weights["0"] * w0 * a0 + weights["1"] * w1 * a1
        expected = (
            192 * 4 <= bops <= 192 * 25
            and Fraction(5, 2) * 192 <= weights["0"] * w0 + weights["1"] * w1 <= Fraction(11, 2) * 192
            and 8 * a0 + 16 * a1 <= 120
            and Fraction(9, 10) <= joules["0", a0] + joules["1", a1] <= Fraction(12, 10)
        )
        spent = [sum(costs[unit][k][c] for unit, k in enumerate(choice)) for c in range(len(rooms))]
        assert all(cost <= room for cost, room in zip(spent, rooms, strict=True)) == expected
        admitted += expected
    assert 50 < admitted < 2000


def write(path, rows):
    path.write_text("unit,weight_bits,activation_bits,cost\n" + "\n".join(rows) + "\n")
    return path


def rows_of(**changed):
    """0.1 for each bit of each unit, but for some rows, given as text or left out."""
    every = {(unit, b): f"{unit},{b},{b},0.{b}" for unit in "01" for b in range(1, 9)}
    found = [changed.get(f"u{unit}b{b}", row) for (unit, b), row in every.items()]
    return [row for row in found if row is not None]


def test_a_table_of_decimals_is_added_up_exactly(table, tmp_path):
    path = write(tmp_path / "latency.csv", rows_of())
    assert 0.1 + 0.2 > 0.3, "in floats the sum would be over the limit"
    found = plan(table, ribs.Budget(costs={"latency": (path, 0.3)}), pins={"first": 1, "last": 2})
    assert found.limits == {"latency": 3}
    [spent] = found.spending({"0": (1, 1), "1": (2, 2)})
    assert (spent.name, spent.most, spent.spent) == ("latency", Fraction(3, 10), Fraction(3, 10))
    assert plan(table, ribs.Budget(costs={"latency": (str(path), "50% of 8/8")})).limits == {"latency": 8}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(u1b3=None), "no row of unit '1' at 3/3; every candidate of every unit needs one"),
        (rows_of(u1b3="1,3,3,-1"), "cost '-1' in row 12 of .* is not allowed; give a number of at least 0"),
        (rows_of(u1b3="1,3,3,nan"), "cost 'nan' in row 12"),
        (rows_of(u1b3="1,3,3,1e999999999"), "cost '1e999999999' in row 12"),
        (rows_of(u1b3="1,3,3,inf"), "cost 'inf' in row 12"),
        (rows_of(u1b3="1,3,3,fast"), "cost 'fast' in row 12"),
        (rows_of(u1b3="1,3,x,1"), "row 12 of .* cannot be read"),
        (rows_of(u1b3="1,3,12,1"), r"row 12 of .* cannot be read: .*bits=\(3, 12\)"),
        (rows_of(u1b3="1,2,2,1"), "row 12 of .* is a second one"),
        (rows_of(u1b3="1,3,3"), "cost None in row 12"),
        (rows_of(u1b3="1,3,3,4,5"), "must be CSV with the columns unit,weight_bits,activation_bits,cost"),
        ([*rows_of(), "conv9,2,2,1"], r"has rows of \['conv9'\]; the units are \['0', '1'\]"),
        ([], "no row of unit '0'"),
    ],
)
def test_bad_tables(table, tmp_path, rows, message):
    path = write(tmp_path / "latency.csv", rows)
    with pytest.raises(ValueError, match=message):
        plan(table, ribs.Budget(costs={"latency": (path, 1)}))


def test_tables_that_cannot_be_read(table, tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.csv", "binary.csv", "."):
        with pytest.raises(ValueError, match="cannot be read"):
            plan(table, ribs.Budget(costs={"latency": (tmp_path / name, 1)}))
    (tmp_path / "other.csv").write_text("unit,ms\n0,1\n")
    with pytest.raises(ValueError, match="must be CSV with the columns"):
        plan(table, ribs.Budget(costs={"latency": (tmp_path / "other.csv", 1)}))


@pytest.mark.parametrize("value", [-1, float("nan"), None, "fast", "1e-999999999"])
def test_functions_that_return_no_cost(table, value):
    with pytest.raises(ValueError, match="of unit '0' at 1/1 is not allowed"):
        plan(table, ribs.Budget(costs={"latency": (lambda unit, bits: value, 1)}))
