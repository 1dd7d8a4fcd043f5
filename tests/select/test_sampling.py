"""Samples drawn with unequal chances: the chances, the means and their errors against simulation."""

import math

import numpy as np
import pytest

from ribs.select.sampling import Sampling, order_of, sizes_of


@pytest.mark.parametrize("count", [1, 7, 40, 99, 100])
def test_chances_are_in_proportion_to_sizes_up_to_one_and_add_up(count):
    sizes = np.random.default_rng(0).lognormal(sigma=2.0, size=100)
    chances = Sampling(sizes).chances(count)
    assert chances.shape == (count,)
    low, high = 0.0, 1 / sizes.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * sizes).sum() < count else (low, middle)
    assert chances == pytest.approx(np.minimum(1, high * sizes)[:count])


@pytest.mark.parametrize("count", [20, 60, 150])
def test_means_are_unbiased_and_their_errors_are_those_of_repeated_draws(count):
    rng = np.random.default_rng(0)
    losses = rng.gamma(0.3, size=200)
    sizes, values = sizes_of([losses * rng.gamma(2.0, size=200)]), losses * rng.normal(1.0, 0.5, size=200)
    means, errors, simple = [], [], []
    for seed in range(3000):
        order = order_of(sizes, seed)
        sampling = Sampling(sizes[order])
        means.append(sampling.mean(values[order][:count]))
        errors.append(sampling.error_left(values[order][:count]))
        simple.append(values[rng.permutation(200)[:count]].mean())
    assert np.mean(means) == pytest.approx(values.mean(), abs=4 * np.std(means) / math.sqrt(3000))
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.1)
    assert np.std(means) < 0.6 * np.std(simple)  # what all this is for


def test_of_equal_sizes_it_is_a_plain_mean():
    values = np.random.default_rng(1).normal(size=30)
    sampling = Sampling(np.full(100, 2.5))
    plain = values.std(ddof=1) / math.sqrt(30)
    assert sampling.mean(values) == values.mean()
    assert sampling.standard_error(values) == pytest.approx(plain)
    assert sampling.error_left(values) == pytest.approx(plain * math.sqrt(1 - 30 / 100))


@pytest.mark.parametrize("sizes", [np.ones(50), np.geomspace(1, 1e6, 50)])
def test_of_all_samples_nothing_is_uncertain(sizes):
    values = np.random.default_rng(2).normal(size=50)
    sampling = Sampling(sizes)
    assert sampling.mean(values) == values.mean()
    assert sampling.error_left(values) == 0.0
    assert sampling.standard_error(values) == pytest.approx(values.std(ddof=1) / math.sqrt(50))


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [1.0, math.inf, 2.0]])
def test_an_error_that_is_not_known_is_nan(values):
    sampling = Sampling(np.arange(1.0, 6.0))
    assert math.isnan(sampling.standard_error(np.array(values)))
    assert math.isnan(sampling.error_left(np.array(values)))


def test_sizes_are_of_losses_whatever_their_scale_and_sign():
    losses = np.array([0.0, 1.0, 4.0, 15.0])
    sizes = sizes_of([losses])
    assert sizes == pytest.approx(np.sqrt(losses / 5 + 0.01))
    assert sizes_of([-1000 * losses]) == pytest.approx(sizes)
    assert sizes_of([losses, np.full(4, 3.0)]) == pytest.approx(np.sqrt((losses / 5 + 1) / 2 + 0.01))


@pytest.mark.parametrize("nothing", [np.zeros(3), np.array([1.0, np.nan, 2.0]), np.array([1.0, np.inf, 2.0])])
def test_losses_that_tell_nothing_are_left_out(nothing):
    assert (sizes_of([nothing]) == 1).all()
    assert (sizes_of([nothing, np.array([1.0, 2.0, 3.0])]) == sizes_of([np.array([1.0, 2.0, 3.0])])).all()


def test_the_first_have_larger_sizes_and_the_seed_decides():
    sizes = np.repeat([1.0, 9.0], 500)
    order = order_of(sizes, 3)
    assert sorted(order) == list(range(1000))
    large = (sizes[order[:100]] == 9.0).sum()
    assert 78 <= large <= 98  # of 90 expected
    assert (order_of(sizes, 3) == order).all() and (order_of(sizes, 4) != order).any()


@pytest.mark.parametrize("sizes", [[], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf], [[1.0]]])
def test_bad_sizes_raise(sizes):
    with pytest.raises(ValueError, match="sizes of samples"):
        Sampling(sizes)
