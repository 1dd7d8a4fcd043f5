"""Made-up networks, whose losses are tables."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ribs.select.adaptive import adaptive_search

WIDTHS = (2, 3, 4, 6, 8)
PAIRS = [(b, b) for b in WIDTHS]


class Network:
    """A made-up network: the loss is the squared length of the sum of the units' quantization errors.

    The error of a unit is a direction of its own times the amplitude of the noise, 2^-bits, of its weights and
    activations. In many dimensions the directions are nearly at right angles, and losses add up; in few the errors of
    units add up or cancel, and they do not.

    luck: of each configuration, a factor.
    """

    def __init__(self, seed, units=5, bits=PAIRS, dimensions=20, luck=0.05, samples=(4, 4)):
        rng = np.random.default_rng(seed)
        self.bits, self.samples = [list(bits)] * units, samples
        self.slopes = np.exp(rng.normal(size=(units, 2)))
        self.directions = rng.normal(size=(units, dimensions)) / dimensions**0.5
        self.macs = rng.integers(1, 100, size=units)
        self.costs = [[(int(m) * w * a,) for w, a in bits] for m in self.macs]
        self.seed, self.luck, self.asked = seed, luck, []
        self.bad = set()

    def loss(self, choice):
        if any(self.bad.intersection(enumerate(choice))):
            return math.nan
        pairs = [self.bits[i][k] for i, k in enumerate(choice)]
        amplitudes = np.sqrt((self.slopes * [[4.0**-w, 4.0**-a] for w, a in pairs]).sum(axis=1))
        luck = np.random.default_rng([self.seed, *choice]).normal()
        return float(((amplitudes @ self.directions) ** 2).sum() * math.exp(self.luck * luck))

    def measure(self, choices, shard):
        self.asked.extend((choice, shard) for choice in choices[1:] or choices)
        spread = np.linspace(0.5, 1.5, self.samples[shard])
        return [self.loss(choice) * spread for choice in choices]

    def limit(self, width):
        """What a uniform network of this width costs."""
        return [sum(int(m) for m in self.macs) * width * width]

    def cost(self, choice):
        return sum(self.costs[i][k][0] for i, k in enumerate(choice))

    def optimum(self, limit):
        every = itertools.product(*(range(len(options)) for options in self.bits))
        return min(loss for c in every if self.cost(c) <= limit[0] and not math.isnan(loss := self.loss(c)))

    def search(self, limit, iterations=8, **options):
        options = {"measure": self.measure, "shards": self.samples, "iterations": iterations} | options
        return adaptive_search(self.bits, self.costs, limit, **options)
