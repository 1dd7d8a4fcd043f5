"""The search problem in numbers: candidates, exact costs and limits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ribs.quant.network import Bits
from ribs.quant.quantizer import FLOAT_BITS
from ribs.select.budget import Budget, Term
from ribs.select.candidates import ActivationBits, Allowed, Pins, Ties, find_candidates
from ribs.select.cost import Configuration, CostTable
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.ilp import find_feasible
from ribs.select.nearest import nearest
from ribs.select.out_of_reach import out_of_reach
from ribs.select.result import IterationRecord, Spending
from ribs.select.search import Iteration


@dataclass(frozen=True)
class Plan:
    """What may be chosen and what it costs; choices are tuples of indices into `candidates`.

    candidates: for each unit, its (weight, activation) bits.
    costs: [units][candidates][budgets], padded to the most candidates.
    allowed: [units, candidates], False for padding.
    limits: the budget as upper bounds in integers: {"bops": bit operations, "size": bits of weights, ...}, those
        given. That of "least bops" is a lower bound, negated, as its costs are; "activation_memory at conv1" is one
        moment.
    available: the limits less what the network costs outside of all units.
    terms: the budget by resource, with bounds as they were meant.
    """

    table: CostTable
    candidates: list[list[Bits]]
    costs: list[list[tuple[int, ...]]]
    allowed: NDArray[np.bool_]
    limits: dict[str, int]
    available: tuple[int, ...]
    terms: tuple[Term, ...]

    @property
    def start(self) -> tuple[int, ...]:
        """The most bits for every unit (the paper's all-8 reference); it may be over the budget."""
        return tuple(options.index(max(options)) for options in self.candidates)

    @property
    def bit_widths(self) -> list[int]:
        return bit_widths(pair for options in self.candidates for pair in options)

    def configuration(self, choice: Sequence[int]) -> Configuration:
        names = self.table.units
        return {name: options[k] for name, options, k in zip(names, self.candidates, choice, strict=True)}

    def spending(self, configuration: Configuration) -> tuple[Spending, ...]:
        """What a configuration spends of everything that is bounded."""
        return tuple(term.spending(self.table, configuration) for term in self.terms)

    def padded_candidates(self) -> list[list[Bits]]:
        """[units][candidates], as `costs` and `allowed` are."""
        widest = self.allowed.shape[1]
        return [options + options[:1] * (widest - len(options)) for options in self.candidates]

    def from_unit_on(self) -> NDArray[np.float64]:
        """[units] the share of each unit and all after it in the MACs: the work of a candidate of that unit."""
        macs = {layer.name: layer.macs for layer in self.table.layers}
        unit_macs = [sum(macs[name] for name in unit.layers) for unit in self.table.groups]
        shares: NDArray[np.float64] = np.cumsum(unit_macs[::-1])[::-1] / max(1, sum(unit_macs))
        return shares

    def name_non_finite(self, iteration: Iteration, named: set[tuple[str, Bits]]) -> None:
        """Warn of candidates whose loss is NaN or Inf, which are left out of the programs, once for each.

        named: those that were warned of; the new ones are added.
        """
        for unit, row, seen in zip(iteration.selected, iteration.deltas, iteration.samples, strict=True):
            options, name = zip(self.candidates[unit], row, seen, strict=False), self.table.units[unit]
            found = [bits for bits, delta, samples in options if samples and not np.isfinite(delta)]
            bad = [bits for bits in found if (name, bits) not in named]
            if bad:
                named.update((name, bits) for bits in bad)
                warnings.warn(
                    f"[ribs] unit {name!r} has a loss of NaN or Inf at {bad}; left out", RuntimeWarning, stacklevel=2
                )

    def record(self, iteration: Iteration) -> IterationRecord:
        bits = self.configuration(iteration.choice)
        spent = zip(self.limits.items(), self.available, iteration.costs, strict=True)

        def by_candidate(values: NDArray[Any]) -> dict[str, dict[Bits, Any]]:
            return {
                self.table.units[unit]: dict(zip(self.candidates[unit], row, strict=False))
                for unit, row in zip(iteration.selected, values.tolist(), strict=True)
            }

        return IterationRecord(
            predicted=iteration.predicted,
            loss=iteration.loss,
            standard_error=iteration.standard_error,
            bops=self.table.bops(bits),
            size_mib=self.table.size_mib(bits),
            bits=bits,
            selected=tuple(self.table.units[unit] for unit in iteration.selected),
            delta_loss=by_candidate(iteration.deltas),
            delta_standard_error=by_candidate(iteration.standard_errors),
            samples=by_candidate(iteration.samples),
            spent={name: limit - left + cost for (name, limit), left, cost in spent},
            gaps=iteration.gaps,
        )


def make_plan(
    table: CostTable,
    budget: Budget,
    bits: Sequence[int],
    activation_bits: ActivationBits = None,
    pins: Pins | None = None,
    *,
    allowed: Allowed | None = None,
    ties: Ties | None = None,
    target: str | None = None,
) -> Plan:
    """All candidates with their costs, in the accounting of the budget; tied units of the table become one.

    Raises: InfeasibleBudgetError naming the least reachable costs and the nearest configuration; ValueError for what
        `ribs.select.candidates` and `Budget` refuse.
    """
    table = replace(table, accounting=budget.accounting)
    found = find_candidates(table, bits, activation_bits, pins, allowed, ties, target)
    table = replace(table, groups=found.units)
    members = dict(zip(table.units, found.members, strict=True))
    terms = tuple(budget.terms(table, members))
    rows = [row for term in terms for row in term.rows(table, found.options)]
    widest = max(map(len, found.options))
    mask = np.zeros((len(found.options), widest), dtype=bool)
    costs: list[list[tuple[int, ...]]] = []
    for i, options in enumerate(found.options):
        entries = [tuple(row.costs[i][k] for row in rows) for k in range(len(options))]
        mask[i, : len(entries)] = True
        costs.append(entries + [entries[0]] * (widest - len(entries)))
    candidates = [list(options) for options in found.options]
    limits = {row.name: row.limit for row in rows}
    available = tuple(row.limit - row.fixed for row in rows)
    plan = Plan(table, candidates, costs, mask, limits, available, terms)
    try:
        find_feasible(costs, available, mask)
    except InfeasibleBudgetError:
        closest = nearest(costs, available, [max(1, abs(limit)) for limit in limits.values()], mask)
        raise out_of_reach(table, budget, terms, rows, found, plan.configuration(closest)) from None
    return plan


def bit_widths(pairs: Iterable[Bits]) -> list[int]:
    """The bit-widths that need steps."""
    return sorted({bits for pair in pairs for bits in pair} - {FLOAT_BITS})
