"""The model of the loss against the textbook's formulas for Gaussian processes, written out pair by pair."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ribs.select.surrogate import COMMON, DEVIATION, GROWTHS, NOISES, OWN, PAIR, LossModel

TIED = [[(b, b) for b in (2, 3, 4, 8)]] * 3
APART = [[(w, a) for w in (2, 4) for a in (3, 8)]] * 3


def measured(bits, count=12, seed=0):
    """Choices, and losses of at least 0.5 that fall with bits."""
    rng = np.random.default_rng(seed)
    every = list(itertools.product(range(len(bits[0])), repeat=len(bits)))
    choices = [every[i] for i in rng.choice(len(every), count, replace=False)]
    slopes = rng.uniform(1, 9, size=(len(bits), 2))
    losses = []
    for choice in choices:
        pairs = [bits[i][k] for i, k in enumerate(choice)]
        power = sum(s * 4.0**-w + t * 4.0**-a for (w, a), (s, t) in zip(pairs, slopes, strict=True))
        losses.append((0.5 + power) * (1 + 0.1 * rng.normal()))
    return choices, np.array(losses)


class Twin:
    """The posterior of L(b) for one noise, from covariances of single pairs of configurations."""

    def __init__(self, bits, choices, losses, errors, noise, growth):
        self.bits, self.choices = bits, choices
        self.most = max(4.0 ** -min(pair) for row in bits for pair in row)
        self.unit = abs(losses[0])
        self.slope = 1 / sum(map(sum, self.powers(choices[0])))
        y = [loss / self.unit for loss in losses]
        ahead = [noise * (1 + abs(value - y[0])) ** growth for value in y]
        covariance = [
            [
                self.prior(a, b) + (i == j) * (ahead[i] ** 2 + (errors[i] / self.unit) ** 2)
                for j, b in enumerate(choices)
            ]
            for i, a in enumerate(choices)
        ]
        self.inverse, ones = np.linalg.inv(covariance), np.ones(len(y))
        self.mean = ones @ self.inverse @ y / (ones @ self.inverse @ ones)
        residual = np.array(y) - self.mean
        self.alpha = self.inverse @ residual
        self.likelihood = -0.5 * residual @ self.alpha - 0.5 * math.log(np.linalg.det(covariance))

    def powers(self, choice):
        return [[4.0**-b / self.most for b in self.bits[i][k]] for i, k in enumerate(choice)]

    def prior(self, a, b):
        """The covariance of two configurations without noise and mean."""
        p, q = self.powers(a), self.powers(b)
        total = COMMON**2 * sum(map(sum, p)) * sum(map(sum, q))
        for i, (mine, other) in enumerate(zip(a, b, strict=True)):
            for kind in (0, 1):
                same = self.bits[i][mine][kind] == self.bits[i][other][kind]
                total += (OWN**2 + DEVIATION**2 * same) * p[i][kind] * q[i][kind]
        for i, j in itertools.combinations(range(len(a)), 2):
            total += (PAIR / len(a)) ** 2 * math.sqrt(sum(p[i]) * sum(p[j]) * sum(q[i]) * sum(q[j]))
        return self.slope**2 * total

    def with_data(self, a):
        return np.array([self.prior(a, b) for b in self.choices])

    def expected(self, a):
        return self.unit * (self.mean + self.with_data(a) @ self.alpha)

    def covariance(self, a, b):
        return self.unit**2 * (self.prior(a, b) - self.with_data(a) @ self.inverse @ self.with_data(b))

    def of_changes(self, reference, a, b):
        """The covariance of L(a) - L(reference) and L(b) - L(reference)."""
        pairs = [(a, b, 1), (reference, reference, 1), (a, reference, -1), (reference, b, -1)]
        return sum(sign * self.covariance(x, y) for x, y, sign in pairs)


def changed(reference, unit, k):
    return (*reference[:unit], k, *reference[unit + 1 :])


@pytest.mark.parametrize("bits", [TIED, APART], ids=["tied", "apart"])
@pytest.mark.parametrize("error", [0.0, 0.3])
def test_effects_and_their_errors(bits, error):
    choices, losses = measured(bits)
    errors = error * np.arange(len(losses)) / len(losses)
    model = LossModel(bits)
    model.fit(choices, losses, errors)
    twins = {each: Twin(bits, choices, losses, errors, *each) for each in itertools.product(NOISES, GROWTHS)}
    likeliest = max(twins, key=lambda each: twins[each].likelihood)
    assert (model.noise, model.growth) == likeliest
    twin = twins[likeliest]
    reference = choices[3]
    effects, spread = model.effects(reference), model.errors(reference)
    for i, k in itertools.product(range(3), range(4)):
        other = changed(reference, i, k)
        assert model.predict([other])[0] == pytest.approx(twin.expected(other), rel=1e-6)
        assert effects[i, k] == pytest.approx(twin.expected(other) - twin.expected(reference), rel=1e-5, abs=1e-8)
        variance = twin.of_changes(reference, other, other)
        assert spread[i, k] == pytest.approx(math.sqrt(max(0.0, variance)), rel=1e-3, abs=1e-6)


def test_draws_have_the_mean_and_the_covariance_of_the_posterior():
    choices, losses = measured(TIED)
    model = LossModel(TIED)
    model.fit(choices, losses, np.zeros(len(losses)))
    twin = Twin(TIED, choices, losses, np.zeros(len(losses)), model.noise, model.growth)
    rng, reference = np.random.default_rng(0), choices[3]
    draws = np.array([model.drawn_effects(reference, rng) for _ in range(4000)])
    for one, two in [((0, 0), (0, 0)), ((0, 0), (1, 0)), ((1, 1), (1, 0)), ((2, 3), (2, 3)), ((2, 0), (0, 2))]:
        first, second = changed(reference, *one), changed(reference, *two)
        sizes = [math.sqrt(max(0.0, twin.of_changes(reference, c, c))) for c in (first, second)]
        expected = twin.expected(first) - twin.expected(reference)
        assert draws[:, one[0], one[1]].mean() == pytest.approx(expected, abs=5 * sizes[0] / 4000**0.5 + 1e-9)
        found = np.cov(draws[:, one[0], one[1]], draws[:, two[0], two[1]])[0, 1]
        covariance = twin.of_changes(reference, first, second)
        assert found == pytest.approx(covariance, abs=0.1 * sizes[0] * sizes[1] + 1e-9)


def test_improvements_are_those_of_many_drawn_losses():
    choices, losses = measured(TIED)
    model = LossModel(TIED)
    model.fit(choices, losses, np.zeros(len(losses)))
    reference, others = choices[0], choices[3:7]
    expected = model.predict(others)
    errors = np.hypot(model.deviations(others, reference), model.noise * expected)
    drawn = expected + errors * np.random.default_rng(0).standard_normal((100_000, 1))
    for loss in expected:
        improvements = model.improvements(others, reference, loss)
        sampled = np.maximum(0, loss - drawn).mean(axis=0)
        assert (np.abs(improvements - sampled) < 0.01 * np.maximum(errors, sampled)).all()
        assert (improvements > 0.1 * errors).any()


def test_an_additive_loss_is_found_out_and_its_noise_is_small():
    bits = [[(b, b) for b in range(2, 9)]] * 4
    slopes = np.array([9.0, 1.0, 4.0, 0.1])
    every = list(itertools.product(range(7), repeat=4))
    rng = np.random.default_rng(1)
    choices = [every[i] for i in rng.choice(len(every), 80, replace=False)]
    losses = np.array([1 + sum(s * 4.0**-k for s, k in zip(slopes, choice, strict=True)) for choice in choices])
    model = LossModel(bits)
    model.fit(choices, losses, np.zeros(len(losses)))
    assert model.noise == min(NOISES)
    for choice in every[::50]:
        true = 1 + sum(s * 4.0**-k for s, k in zip(slopes, choice, strict=True))
        assert model.predict([choice])[0] == pytest.approx(true, rel=0.05)


def test_a_few_losses_far_above_the_others_do_not_blur_these():
    """At the lowest bits of any unit losses are 30 times as high, and of two units 900 times; elsewhere they add up."""
    bits = [[(b, b) for b in range(2, 9)]] * 4
    slopes = (2.0, 1.0, 4.0, 0.1)

    def loss(choice):
        return (1 + sum(s * 4.0**-k for s, k in zip(slopes, choice, strict=True))) * 30.0 ** choice.count(0)

    every = list(itertools.product(range(7), repeat=4))
    others, far = [c for c in every if 0 not in c], [c for c in every if c.count(0) in (1, 2)]
    rng = np.random.default_rng(0)
    choices = [
        kind[i] for kind, count in ((others, 40), (far, 12)) for i in rng.choice(len(kind), count, replace=False)
    ]
    model = LossModel(bits)
    model.fit(choices, np.array([loss(choice) for choice in choices]), np.zeros(len(choices)))
    assert model.noise == min(NOISES)
    for choice in others[::20]:
        assert model.predict([choice])[0] == pytest.approx(loss(choice), rel=0.02)


def test_losses_below_zero_and_all_the_same_are_fitted():
    for losses in (np.full(12, 0.0), np.full(12, -3.0), np.linspace(-1, 0, 12)):
        choices, _ = measured(TIED)
        model = LossModel(TIED)
        model.fit(choices, losses, np.zeros(12))
        assert np.isfinite(model.effects(choices[0])).all()
        assert np.isfinite(model.errors(choices[0])).all()
