"""All rivals by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ribs.select.plan import Plan
from ribs.select.rivals import (
    dnas,
    exhaustive,
    fisher,
    fracbits,
    genetic,
    greedy,
    hawq,
    kl,
    limpq,
    ompq,
    random,
    sqnr,
    uniform,
    weight_error,
)
from ribs.select.rivals.setting import Setting
from ribs.select.samples import Choice


@dataclass(frozen=True)
class Rival:
    """One way to choose bits.

    choose: gives a configuration within the budgets.
    seeded: whether another seed may give another one.
    check: raises ValueError for a plan that it cannot do.
    """

    choose: Callable[[Setting], Choice]
    seeded: bool
    check: Callable[[Plan], None] = lambda plan: None


RIVALS = {
    "uniform": Rival(uniform.choose, seeded=False, check=uniform.check),
    "random": Rival(random.choose, seeded=True),
    "weight_error": Rival(weight_error.choose, seeded=False),
    "kl": Rival(kl.choose, seeded=False),
    "sqnr": Rival(sqnr.choose, seeded=False),
    "fisher": Rival(fisher.choose, seeded=True),
    "hawq": Rival(hawq.choose, seeded=True),
    "ompq": Rival(ompq.choose, seeded=False),
    "limpq": Rival(limpq.choose, seeded=True),
    "greedy": Rival(greedy.choose, seeded=False),
    "genetic": Rival(genetic.choose, seeded=True),
    "fracbits": Rival(fracbits.choose, seeded=False),
    "dnas": Rival(dnas.choose, seeded=True),
    "exhaustive": Rival(exhaustive.choose, seeded=False, check=exhaustive.check),
}
