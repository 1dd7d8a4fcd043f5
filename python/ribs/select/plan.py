"""The search problem in numbers: candidates, exact costs and limits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ribs.quant.network import Bits
from ribs.quant.quantizer import FLOAT_BITS
from ribs.select.budget import Budget
from ribs.select.cost import MIB_IN_BITS, Configuration, CostTable, as_pair
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.ilp import check_feasible
from ribs.select.result import IterationRecord
from ribs.select.search import Iteration

Pins = Mapping[str, int | Bits]


@dataclass(frozen=True)
class Plan:
    """What may be chosen and what it costs; choices are tuples of indices into `candidates`.

    candidates: for each unit, its (weight, activation) bits.
    costs: [units][candidates][budgets], padded to the most candidates.
    allowed: [units, candidates], False for padding.
    limits: the budget, {"bops": bit operations, "size_mib": bits of weights}, those given.
    available: the limits less what the network costs outside of all units.
    """

    table: CostTable
    candidates: list[list[Bits]]
    costs: list[list[tuple[int, ...]]]
    allowed: NDArray[np.bool_]
    limits: dict[str, int]
    available: tuple[int, ...]

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

    def probes(self, update_sizes: Iterable[int]) -> int:
        """How many candidates those iterations measure, on average over the random choice of units."""
        others = sum(len(options) - 1 for options in self.candidates)
        return round(sum(update_sizes) * others / len(self.candidates))

    def forward_equivalents(self, update_sizes: Sequence[int]) -> float:
        """An estimate of the work, in passes of the network over the calibration set."""
        macs = {layer.name: layer.macs for layer in self.table.layers}
        unit_macs = [sum(macs[name] for name in unit.layers) for unit in self.table.groups]
        from_unit_on = np.cumsum(unit_macs[::-1])[::-1] / max(1, sum(unit_macs))
        all_units = sum(
            (len(options) - 1) * share for options, share in zip(self.candidates, from_unit_on, strict=True)
        )
        # Each iteration also runs its reference and its answer; the float outputs and the start take two more.
        return float(all_units * sum(update_sizes) / len(self.candidates) + 2 * len(update_sizes) + 2)

    def name_non_finite(self, iteration: Iteration) -> None:
        """Warn of candidates whose loss is NaN or Inf: they are left out of the ILP."""
        for unit, row, seen in zip(iteration.selected, iteration.deltas, iteration.samples, strict=True):
            options = zip(self.candidates[unit], row, seen, strict=False)
            bad = [bits for bits, delta, samples in options if samples and not np.isfinite(delta)]
            if bad:
                warnings.warn(
                    f"[ribs] unit {self.table.units[unit]!r} has a loss of NaN or Inf at {bad}; left out",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def record(self, iteration: Iteration) -> IterationRecord:
        bits = self.configuration(iteration.choice)

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
        )


def make_plan(
    table: CostTable, budget: Budget, bits: Sequence[int], activation_bits: int | None, pins: Pins | None
) -> Plan:
    """All candidates with their costs.

    Raises: InfeasibleBudgetError naming the least reachable cost; ValueError for pins that name no unit.
    """
    pinned = resolve_pins(pins or {}, table.units)
    free = [(b, activation_bits or b) for b in bits]
    candidates = [[pinned[name]] if name in pinned else free for name in table.units]
    limits = budget.limits(table)
    columns = [("bops", "size_mib").index(name) for name in limits]
    fixed = [(table.float_macs * FLOAT_BITS**2, 0)[column] for column in columns]
    widest = max(map(len, candidates))
    allowed = np.zeros((len(candidates), widest), dtype=bool)
    costs: list[list[tuple[int, ...]]] = []
    for unit, options in zip(table.groups, candidates, strict=True):
        rows = [tuple(cost[column] for column in columns) for cost in table.candidate_costs(unit, options)]
        allowed[len(costs), : len(rows)] = True
        costs.append(rows + [rows[0]] * (widest - len(rows)))
    available = tuple(limit - cost for limit, cost in zip(limits.values(), fixed, strict=True))
    try:
        check_feasible(costs, available, allowed)
    except InfeasibleBudgetError as error:
        least = tuple(cost + base for cost, base in zip(error.least, fixed, strict=True))
        message = _explain(table, limits, least, pinned, free)
        raise InfeasibleBudgetError(message, least=least, limits=tuple(limits.values())) from None
    return Plan(table, candidates, costs, allowed, limits, available)


def _explain(
    table: CostTable, limits: dict[str, int], least: tuple[int, ...], pinned: Configuration, free: list[Bits]
) -> str:
    def show(name: str, value: int) -> str:
        return f"{value:,} BOPs" if name == "bops" else f"{value / MIB_IN_BITS:.6g} MiB ({value:,} bits)"

    bounds = [
        f"{name} is limited to {show(name, limit)} and its least reachable value is {show(name, low)}"
        for (name, limit), low in zip(limits.items(), least, strict=True)
    ]
    text = f"[ribs] no configuration meets the budget: {'; '.join(bounds)}"
    if all(low <= limit for low, limit in zip(least, limits.values(), strict=True)):
        text += "; each can be met alone, but not both together"
    forced = [f"{name}={pair[0]}/{pair[1]}" for name, pair in pinned.items() if pair > min(free)]
    if forced:
        text += f". Pins that keep the cost up: {', '.join(forced)}"
    return f"{text}. Raise the budget, allow fewer bits{' or loosen the pins' if forced else ''}"


def resolve_pins(pins: Pins, units: Sequence[str]) -> Configuration:
    """Pins by unit name; "first" and "last" stand for the first and last unit unless units are called so.

    Raises: ValueError for a name that is no unit and for bits that are not allowed.
    """
    ends = {"first": units[0], "last": units[-1]}
    resolved = {}
    for name, value in pins.items():
        unit = name if name in units else ends.get(name)
        if unit is None:
            raise ValueError(f'[ribs] pin {name!r} names no unit; the units are {list(units)}, or "first" and "last"')
        resolved[unit] = as_pair(value)
    return resolved


def bit_choices(bits: Iterable[int], activation_bits: int | None) -> list[int]:
    """The candidate bit-widths, ascending and without repeats.

    Raises: ValueError when empty or outside of 1..8.
    """
    choices = list(bits)
    for value in [*choices, *([] if activation_bits is None else [activation_bits])]:
        if not isinstance(value, int) or not 1 <= value <= 8:
            raise ValueError(f"[ribs] bits={value!r} is not supported; candidate bits are 1..8")
    if not choices:
        raise ValueError("[ribs] bits is empty; give at least one of 1..8")
    return sorted(set(choices))


def bit_widths(pairs: Iterable[Bits]) -> list[int]:
    """The bit-widths that need steps."""
    return sorted({bits for pair in pairs for bits in pair} - {FLOAT_BITS})
