"""What is said of a budget that no configuration keeps within."""

from __future__ import annotations

from collections.abc import Sequence

from ribs.quant.network import Bits
from ribs.quant.units import Unit
from ribs.select.budget import Budget, Row, Term
from ribs.select.candidates import Candidates
from ribs.select.cost import Configuration, CostTable
from ribs.select.errors import InfeasibleBudgetError


def out_of_reach(
    table: CostTable,
    budget: Budget,
    terms: Sequence[Term],
    rows: Sequence[Row],
    found: Candidates,
    nearest: Configuration,
) -> InfeasibleBudgetError:
    """The error, with what each bound could be alone, what all could be together, and the pins that stand in the way.

    nearest: the configuration whose largest excess over a bound, as a share of that bound, is least.
    """
    alone, broken = [], False
    for term in terms:
        show = term.resource.show
        least, most = term.reach(table, found.options)
        if term.most is not None:
            alone.append(
                f"{term.resource.name} is limited to {show(term.most)} and its least reachable value is {show(least)}"
            )
            broken = broken or least > term.most
        if term.least is not None:
            alone.append(
                f"{term.resource.name} is to be at least {show(term.least)} and its greatest reachable value is "
                f"{show(most)}"
            )
            broken = broken or most < term.least
    text = f"[ribs] no configuration meets the budget: {'; '.join(alone)}"
    if not broken:
        text += "; each can be met alone, but not all together"
    together = [f"{term.resource.name} {term.resource.show(term.resource.spent(table, nearest))}" for term in terms]
    text += f". The nearest configuration has {', '.join(together)}: {_short(nearest)}"
    pins = [
        f"{unit.name}={_show(pin)}"
        for unit, free in zip(table.groups, found.free, strict=True)
        if (pin := found.pinned.get(unit.name)) and _stands_in_the_way(terms, unit, pin, free)
    ]
    if pins:
        text += f". Pins that keep it from the budget: {', '.join(pins)}"
    text += f". Widen the budget, allow other bits{' or loosen the pins' if pins else ''}"
    return InfeasibleBudgetError(
        text,
        least=[row.fixed + sum(map(min, row.costs)) for row in rows],
        limits=[row.limit for row in rows],
        nearest=nearest,
        nearest_budget=budget.widened(terms, table, nearest),
    )


def _stands_in_the_way(terms: Sequence[Term], unit: Unit, pin: Bits, free: Sequence[Bits]) -> bool:
    """Whether something could be nearer to its bounds without the pin."""
    for term in terms:
        for part in term.resource.parts:
            own, *others = part.costs(unit, [pin, *free])
            if others and term.most is not None and own > min(others):
                return True
            if others and term.least is not None and own < max(others):
                return True
    return False


def _short(configuration: Configuration) -> str:
    shown = [f"{name}={_show(pair)}" for name, pair in configuration.items()]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:8], f"... ({len(shown)} units)"])


def _show(pair: Bits) -> str:
    return f"{pair[0]}/{pair[1]}"
