"""What a search believes of candidates that it has not measured."""

import math

import numpy as np
import pytest

from ribs.select.reach import Order

TIED = [(b, b) for b in (2, 3, 4, 6, 8)]
APART = [(w, a) for w in (2, 4, 8) for a in (3, 6)]


def ordered(effects, options, seen):
    """The effects of one unit, candidate by candidate."""
    found = []
    for k, (own, effect) in enumerate(zip(options, effects, strict=True)):
        above = [j for j in seen if all(x >= y for x, y in zip(options[j], own, strict=True))]
        below = [j for j in seen if all(x <= y for x, y in zip(options[j], own, strict=True))]
        more = effects[min(above, key=lambda j: (sum(options[j]), j))] if above else -math.inf
        less = effects[max(below, key=lambda j: (sum(options[j]), -j))] if below else math.inf
        if k in seen or not above + below:
            found.append(effect)
        elif not below:
            found.append(more + abs(effect - more))
        elif not above:
            found.append(less - abs(effect - less))
        else:
            found.append(min(more + abs(effect - more), max(more, less)))
    return found


@pytest.mark.parametrize("options", [TIED, APART], ids=["tied", "apart"])
def test_against_one_candidate_after_the_other(options):
    generator = np.random.default_rng(0)
    for _ in range(50):
        units = int(generator.integers(1, 5))
        measured = [tuple(row) for row in generator.integers(0, len(options), (int(generator.integers(1, 4)), units))]
        effects = generator.normal(size=(units, len(options)))
        found = Order([options] * units, measured)(effects)
        for unit in range(units):
            seen = sorted({choice[unit] for choice in measured})
            np.testing.assert_allclose(found[unit], ordered(effects[unit], options, seen), atol=1e-12)


def test_fewer_bits_are_not_expected_to_go_on_lowering_the_loss():
    """4 bits were measured to be better than 8; of 3, the model expects more of the same."""
    effects = np.array([[-4.0, -2.0, -1.0, 0.5, 0.0]])
    found = Order([TIED], [(4,), (2,)])(effects)
    np.testing.assert_array_equal(found, [[2.0, 0.0, -1.0, 0.0, 0.0]])


def test_more_bits_are_not_expected_to_raise_it():
    np.testing.assert_array_equal(Order([TIED], [(0,)])(np.array([[0.0, 1.0, -1.0, 3.0, 0.0]])), [[0, -1, -1, -3, 0]])
