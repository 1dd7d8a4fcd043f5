"""All rivals by name."""

from __future__ import annotations

from collections.abc import Callable

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

Rival = Callable[[Setting], Choice]

RIVALS: dict[str, Rival] = {
    "uniform": uniform.choose,
    "random": random.choose,
    "weight_error": weight_error.choose,
    "kl": kl.choose,
    "sqnr": sqnr.choose,
    "fisher": fisher.choose,
    "hawq": hawq.choose,
    "ompq": ompq.choose,
    "limpq": limpq.choose,
    "greedy": greedy.choose,
    "genetic": genetic.choose,
    "fracbits": fracbits.choose,
    "dnas": dnas.choose,
    "exhaustive": exhaustive.choose,
}
