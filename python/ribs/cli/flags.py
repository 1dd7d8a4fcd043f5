"""The flags that say what may be spent and chosen, for `ribs search` and `ribs compare`."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import ribs
from ribs.quant.network import Bits
from ribs.select.budget import Bound, Bounds
from ribs.select.candidates import Ties
from ribs.select.resources import exact_number

BUDGETS = {
    "bops": "budget_bops",
    "size": "budget_size",
    "average_bits": "budget_bits",
    "average_weight_bits": "budget_weight_bits",
    "activation_memory": "budget_memory",
}


def budgets(arguments: argparse.Namespace) -> list[ribs.Budget]:
    """What the flags bound, together; where a flag is given several times, a budget for each combination."""
    values = [[_bounds(text) for text in getattr(arguments, flag)] or [None] for flag in BUDGETS.values()]
    own: dict[str, list[Bounds]] = {}
    for file, bound in map(_cost, arguments.budget_cost):
        own.setdefault(file, []).append(_bounds(bound))
    found = []
    for bounds in itertools.product(*values, *own.values()):
        costs = {file: (file, bound) for file, bound in zip(own, bounds[len(BUDGETS) :], strict=True)}
        given = dict(zip(BUDGETS, bounds, strict=False))
        found.append(ribs.Budget(**given, costs=costs, accounting=arguments.accounting))
    return found


def candidates(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `ribs.search` that say what each unit may take."""
    activations = arguments.activation_bits
    ties: Ties = "auto" if arguments.tie == ["auto"] else [text.split(",") for text in arguments.tie]
    return {
        "bits": read_bits("--bits", arguments.bits),
        "activation_bits": None if activations is None else read_bits("--activation-bits", activations),
        "pins": {unit: value for unit, [value] in (_unit_bits("--pin", text, most=1) for text in arguments.pin)},
        "allowed": dict(_unit_bits("--allow", text) for text in arguments.allow),
        "ties": ties,
        "target": arguments.target,
    }


def _bounds(text: str) -> Bounds:
    low, dots, high = text.partition("..")
    return (_bound(low), _bound(high)) if dots else _bound(text)


def _bound(text: str) -> Bound | None:
    """A number is taken as one; what other text means is for the budget to say."""
    number = exact_number(text)
    return (text or None) if number is None or "/" in text else number


def _cost(text: str) -> tuple[str, str]:
    file, equals, bound = text.rpartition("=")
    if not equals or not file or not bound:
        raise ValueError(f"--budget-cost {text!r} cannot be read; give FILE=BOUND, such as latency.csv=3.5")
    return file, bound


def read_bits(flag: str, text: str) -> list[int]:
    """Numbers with commas between them."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} {text!r} cannot be read; give numbers such as 2,3,4,8") from None


def _unit_bits(flag: str, text: str, most: int | None = None) -> tuple[str, list[int | Bits]]:
    """UNIT=BITS,..., each either one number or W/A."""
    unit, equals, value = text.rpartition("=")
    pairs = [part.split("/") for part in value.split(",")]
    readable = all(len(pair) <= 2 and all(part.isdigit() for part in pair) for pair in pairs)
    if not equals or not unit or not readable or (most is not None and len(pairs) > most):
        several = "" if most == 1 else " or several, as in fc=4,8"
        raise ValueError(
            f"{flag} {text!r} cannot be read; give UNIT=BITS, UNIT=W/A{several}; such as first=8 or fc=8/8"
        )
    return unit, [int(pair[0]) if len(pair) == 1 else (int(pair[0]), int(pair[1])) for pair in pairs]
