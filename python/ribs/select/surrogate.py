"""A model of the loss, fitted to all configurations that were measured: effects of units, pairs of units, and noise.

Algorithm 1 takes the sum of changes measured one by one for the change of all together. Here

    L(b) = m + sum_i f_i(b_i) + sum_ij g_ij(b_i, b_j) + e(b),

and what is measured of whole configurations informs the effects of all their units. The prior is Gaussian. f_i: the
power of quantization noise, 4^-bits, times a slope, one for all units and one for each, for weights and activations
apart, and a deviation for each bit-width of each unit. g_ij: for each pair of units near each other, the product of
their amplitudes, 2^-bits, of either sign, since their errors add up or cancel. What is left, e(b), is a noise that
grows with a power of the loss, so that configurations unlike the reference inform less; its share of the loss and the
power are those of the greatest marginal likelihood. Plain numpy; choices are tuples of indices into the candidates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ribs.select.samples import Choice

Array = NDArray[np.float64]
Bits = tuple[int, int]

MOST = 500  # configurations fitted: the work grows with their cube
# Standard deviations of the parts, in units of the slope at which the noise of all units would make up the
# loss of the reference. Wide, since units differ by more than an order of magnitude.
COMMON, OWN, DEVIATION = 20.0, 20.0, 5.0
PAIR = 20.0  # over the number of units, so that the partners of a unit do not outweigh it
REACH = 16  # units between which a pair may lie: what is near interacts most, and the number of pairs stays in bounds
NOISES = tuple(float(noise) for noise in np.geomspace(0.02, 1.0, 8))  # tried, as shares of the loss
# Powers of the loss, tried with each of these. Where a few candidates are a thousand times worse than all others, a
# noise in proportion to the loss would be chosen for them, and be far too large for the others.
GROWTHS = (1.0, 1.5, 2.0)


class LossModel:
    """A linear regression with a Gaussian prior.

    bits: for each unit, the (weight, activation) bits of its candidates; all units have as many.
    """

    def __init__(self, bits: Sequence[Sequence[Bits]]) -> None:
        pairs = np.array(bits, dtype=np.float64)
        self.units, self.candidates = pairs.shape[:2]
        power = 4.0**-pairs
        self._power = power / power.max()  # [N, K, 2]
        levels = np.unique(pairs)
        self._level = np.searchsorted(levels, pairs)  # [N, K, 2]
        self._levels = len(levels)
        self._amplitude = np.sqrt(self._power.sum(axis=2))  # [N, K]
        first, second = np.triu_indices(self.units, 1)
        near = second - first <= REACH
        self._pairs = first[near], second[near]
        self._unit, self._slope = 1.0, 1.0

    def fit(self, choices: Sequence[Choice], losses: Array, errors: Array) -> None:
        """Fit the losses of some configurations; the first is the reference.

        losses: finite.  errors: standard errors of the losses, 0 where they are those that count.
        """
        # Those of a loss like the reference's tell most about what is near it.
        away = np.abs(losses - losses[0])
        order = np.argsort(away, kind="stable")[:MOST]
        rows, values, errors = np.array(choices)[order], losses[order], errors[order]
        self._unit = abs(losses[0]) or float(np.median(away)) or 1.0
        scaled, errors = values / self._unit, errors / self._unit
        spread = 1.0 + away[order] / self._unit
        self._slope = 1.0 / float(self._power[np.arange(self.units), rows[0]].sum())
        self._rows = self._features(rows)
        kernel = self._rows @ self._rows.T
        fits = [
            _Fit(share, growth, kernel, scaled, np.hypot(share * spread**growth, errors))
            for share, growth in itertools.product(NOISES, GROWTHS)
        ]
        self._fit = max(fits, key=lambda fit: fit.likelihood)
        self._whitener = np.linalg.inv(self._fit.factor)
        self._weights = self._rows.T @ (self._whitener.T @ self._fit.residual)

    @property
    def noise(self) -> float:
        """The error of the model for a configuration as good as the reference, as a share of its loss."""
        return self._fit.share

    @property
    def growth(self) -> float:
        """The power of the loss with which this error grows away from the reference."""
        return self._fit.growth

    def effects(self, reference: Choice) -> Array:
        """[N, K] the expected change of the loss when one unit alone leaves the reference."""
        return self._table(self._weights, reference)

    def drawn_effects(self, reference: Choice, generator: np.random.Generator) -> Array:
        """[N, K] such changes drawn from what is still possible."""
        prior = generator.standard_normal(self._rows.shape[1])
        seen = self._rows @ prior + self._fit.noise * generator.standard_normal(len(self._rows))
        correction = self._rows.T @ (self._whitener.T @ (self._whitener @ seen))
        return self._table(self._weights + prior - correction, reference)

    def errors(self, reference: Choice) -> Array:
        """[N, K] standard deviations of `effects`."""
        own = np.array(reference)
        changed = np.tile(own, (self.units, self.candidates, 1))
        units = np.arange(self.units)
        changed[units, :, units] = np.arange(self.candidates)
        return np.stack([self.deviations(rows, own) for rows in changed])

    def deviations(self, choices: ArrayLike, reference: ArrayLike) -> Array:
        """[len(choices)] standard deviations of their losses less the reference's, without what is left as noise."""
        rows = self._features(np.asarray(choices)) - self._features(np.asarray(reference)[None])
        whitened = rows @ self._rows.T @ self._whitener.T
        variance = (rows**2).sum(axis=1) - (whitened**2).sum(axis=1)
        deviations: Array = np.sqrt(np.maximum(variance, 0.0)) * self._unit
        return deviations

    def predict(self, choices: Sequence[Choice]) -> Array:
        """[len(choices)] expected losses."""
        losses: Array = (self._fit.mean + self._features(np.array(choices)) @ self._weights) * self._unit
        return losses

    def improvements(self, choices: Sequence[Choice], reference: Choice, loss: float) -> Array:
        """[len(choices)] by how much each is expected to be below the loss of the reference, 0 where it is above."""
        expected = self.predict(choices)
        # What the model leaves out is luck, good or bad.
        errors = np.hypot(self.deviations(choices, reference), self.noise * expected)
        errors = np.maximum(errors, np.finfo(float).tiny)
        less = (loss - expected) / errors
        density = np.exp(-less * less / 2) / math.sqrt(2 * math.pi)
        below = np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in less])
        improvements: Array = errors * (less * below + density)
        return improvements

    def _features(self, rows: NDArray[np.int64]) -> Array:
        """[m, 1 + 2 N + 2 N levels + pairs] features of the four parts of the prior."""
        units, kinds, many = np.arange(self.units), np.arange(2), np.arange(len(rows))
        power, level = self._power[units, rows], self._level[units, rows]  # [m, N, 2]
        deviations = np.zeros((len(rows), self.units, self._levels, 2))
        deviations[many[:, None, None], units[None, :, None], level, kinds] = power
        amplitude = self._amplitude[units, rows]
        first, second = self._pairs
        parts = [
            COMMON * power.sum(axis=(1, 2))[:, None],
            OWN * power.reshape(len(rows), -1),
            DEVIATION * deviations.reshape(len(rows), -1),
            PAIR / self.units * amplitude[:, first] * amplitude[:, second],
        ]
        return self._slope * np.concatenate(parts, axis=1)

    def _table(self, weights: Array, reference: Choice) -> Array:
        own, deviation = 2 * self.units, 2 * self.units * self._levels
        common, each, differing, paired = np.split(weights, np.cumsum([1, own, deviation]))
        units, kinds = np.arange(self.units), np.arange(2)
        differing = differing.reshape(self.units, self._levels, 2)[units[:, None, None], self._level, kinds]
        slopes = COMMON * common + OWN * each.reshape(self.units, 1, 2) + DEVIATION * differing
        # A unit meets the amplitudes of its partners as they are in the reference.
        first, second = self._pairs
        partners, amplitude = np.zeros(self.units), self._amplitude[units, list(reference)]
        np.add.at(partners, first, PAIR / self.units * paired * amplitude[second])
        np.add.at(partners, second, PAIR / self.units * paired * amplitude[first])
        table: Array = (self._power * slopes).sum(axis=2) + self._amplitude * partners[:, None]
        return (table - table[units, list(reference)][:, None]) * (self._slope * self._unit)


class _Fit:
    """A fit with one noise.

    share: of a loss like the reference's.  growth: the power by which that of others is larger.  noise: standard
        deviations of the losses.
    factor: of the covariance (Cholesky).  mean: the likeliest.  residual: whitened.  likelihood: its logarithm, up to
        a constant.
    """

    def __init__(self, share: float, growth: float, kernel: Array, values: Array, noise: Array) -> None:
        self.share, self.growth, self.noise = share, growth, noise
        # Two more columns of what is factored are whitened on the way. Their own block only has to be large enough.
        columns = np.stack([values, np.ones_like(values)], axis=1)
        enough = (1.0 + ((columns / noise[:, None]) ** 2).sum()) * np.eye(2)
        factor = np.linalg.cholesky(np.block([[kernel + np.diag(noise**2), columns], [columns.T, enough]]))
        self.factor, whitened = factor[:-2, :-2], factor[-2:, :-2].T
        self.mean = float(whitened[:, 0] @ whitened[:, 1] / (whitened[:, 1] @ whitened[:, 1]))
        self.residual = whitened[:, 0] - self.mean * whitened[:, 1]
        self.likelihood = float(-0.5 * self.residual @ self.residual - np.log(np.diag(self.factor)).sum())
