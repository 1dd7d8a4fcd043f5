"""All rivals by name."""

from __future__ import annotations

from collections.abc import Callable

from ribs.select.rivals import exhaustive, fisher, greedy, hawq, kl, ompq, random, sqnr, uniform, weight_error
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
    "greedy": greedy.choose,
    "exhaustive": exhaustive.choose,
}
