"""How much may be spent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ribs.quant.network import Bits
from ribs.quant.units import Unit
from ribs.select import resources
from ribs.select.accounting import AccountingName, find_accounting
from ribs.select.cost import Configuration, CostTable, as_pair
from ribs.select.resources import Amount, CostSource, Part, Resource, exact_number
from ribs.select.result import Spending

Bound = float | Fraction | str
Bounds = Bound | tuple[Bound | None, Bound | None] | None

UNIFORM = re.compile(r"(?:(?P<percent>\d+(?:\.\d+)?)\s*%\s*of\s*)?(?P<w>\d+(?:\.\d+)?)\s*/\s*(?P<a>\d+(?:\.\d+)?)")
QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e\d+)?)\s*(?P<unit>[A-Za-z]+)")
BIT_OPERATIONS = {"BOPs": 1, "KBOPs": 10**3, "MBOPs": 10**6, "GBOPs": 10**9, "TBOPs": 10**12}
# "MB" is left out: some read it as 10^6 bytes, some as 2^20.
MEMORY = {"bits": 1, "B": 8, "KiB": 8 * 2**10, "MiB": 8 * 2**20, "GiB": 8 * 2**30}
UNITS = {"bops": BIT_OPERATIONS, "size": MEMORY, "activation_memory": MEMORY}
BUILT_IN = ("bops", "size", "average_bits", "average_weight_bits", "activation_memory")


@dataclass(frozen=True)
class Budget:
    """Bounds on the cost of the quantized network; give at least one.

    Each is an upper bound, or a (lower, upper) pair of which one may be None. A bound is a number; or text with a unit,
    "28.5 GBOPs", "5.5 MiB", "512 KiB"; or what a uniform network costs: "4/4" with 4-bit weights and 4-bit
    activations, "3.5/3.5" halfway between 3/3 and 4/4, "50% of 8/8".

    bops: bit operations of one sample.
    size: of the weights; as a number in MiB (2^20 bytes).
    average_bits: the mean of the weight and input bits of all products, weighted by their MACs.
    average_weight_bits: the mean bits of the weights.
    activation_memory: of the quantized activations of one sample that are live at once, at the moment when it is
        most; as a number in MiB. It has an upper bound only.
    costs: your own, such as latency or energy: {name: (source, bounds)}. A source is a function
        f(unit, (weight bits, activation bits)) -> number, or the path of a CSV file with the columns unit,
        weight_bits, activation_bits, cost. What the units cost is added up, exactly, as the decimals that it is.
    accounting: what is counted, "paper", "deployment", "hawq" or "ompq"; see `ribs.select.accounting`.
    Raises: ValueError for no bound, a bound that is not positive and finite, bounds that cross, or text that cannot be
        read.
    """

    bops: Bounds = None
    size: Bounds = None
    average_bits: Bounds = None
    average_weight_bits: Bounds = None
    activation_memory: Bounds = None
    costs: Mapping[str, tuple[CostSource, Bounds]] = field(default_factory=dict, hash=False)
    accounting: AccountingName = "paper"

    def __post_init__(self) -> None:
        find_accounting(self.accounting)
        for name, own in self.costs.items():
            if name in BUILT_IN:
                raise ValueError(f"[Budget] costs {name!r}: the name is taken; call your own costs otherwise")
            if not isinstance(own, tuple) or len(own) != 2:
                raise ValueError(f"[Budget] costs {name!r} must be (a function or the path of a CSV file, bounds)")
        given = {name: _pair(name, bounds) for name, bounds in self._given().items()}
        if not any(bound is not None for pair in given.values() for bound in pair):
            raise ValueError('[Budget] no bound given; give bops=..., size=... or others, e.g. Budget(bops="4/4")')
        for name, (low, high) in given.items():
            least, most = (None if bound is None else _parse(name, bound) for bound in (low, high))
            if isinstance(least, Fraction) and isinstance(most, Fraction):
                _check_order(name, least, most, given[name])
        if given["activation_memory"][0] is not None:
            raise ValueError("[Budget] activation_memory takes no lower bound; a peak is bounded from above only")

    def terms(self, table: CostTable, members: Mapping[str, tuple[Unit, ...]] | None = None) -> list[Term]:
        """What is bounded, in order, with its bounds as exact values.

        members: the user's units in each unit of the table; by default these are the same.
        """
        members = {unit.name: (unit,) for unit in table.groups} if members is None else members
        terms = []
        for name, bounds in self._given().items():
            low, high = _pair(name, bounds)
            if low is None and high is None:
                continue
            if name in self.costs:
                resource = resources.own_cost(name, self.costs[name][0], table, members)
            else:
                resource = _BUILDERS[name](table)
            ends = [None if bound is None else _value(name, bound, resource) for bound in (low, high)]
            if ends[0] is not None and ends[1] is not None:
                _check_order(name, ends[0], ends[1], (low, high))
            terms.append(Term(resource, *ends))
        return terms

    def widened(self, terms: Sequence[Term], table: CostTable, configuration: Configuration) -> Budget:
        """The same budget, with the bounds that a configuration breaks moved to exactly what it costs."""
        changed: dict[str, Bounds] = {}
        for term in terms:
            spent = term.resource.spent(table, configuration)
            number = Fraction(spent) / term.resource.one
            low, high = _pair(term.resource.name, self._given()[term.resource.name])
            changed[term.resource.name] = (
                number if term.least is not None and spent < term.least else low,
                number if term.most is not None and spent > term.most else high,
            )
        fields = {name: changed.get(name) for name in BUILT_IN}
        own = {name: (source, changed.get(name, bounds)) for name, (source, bounds) in self.costs.items()}
        return Budget(**fields, costs=own, accounting=self.accounting)

    @property
    def kind(self) -> tuple[object, ...]:
        """What is bounded, from which sides, and in which accounting; the same of budgets that can be compared."""
        pairs = {name: _pair(name, bounds) for name, bounds in self._given().items()}
        sides = tuple((name, low is not None, high is not None) for name, (low, high) in pairs.items())
        return (sides, tuple(source for source, _ in self.costs.values()), self.accounting)

    def _given(self) -> dict[str, Bounds]:
        return {name: getattr(self, name) for name in BUILT_IN} | {name: own[1] for name, own in self.costs.items()}


def in_words(budget: Budget) -> str:
    """What a budget bounds, and its accounting where it is not the usual one: "bops 2/2..4/4, size 5.5"."""
    given = [(name, getattr(budget, name)) for name in BUILT_IN] + [(n, own) for n, (_, own) in budget.costs.items()]
    words = [f"{name} {_bounds(bounds)}" for name, bounds in given if bounds is not None]
    usual = Budget.accounting
    return ", ".join(words if budget.accounting == usual else [*words, f"accounting {budget.accounting}"])


def _bounds(bounds: Bounds) -> str:
    return "..".join(map(_bound, bounds)) if isinstance(bounds, tuple) else _bound(bounds)


def _bound(bound: Bound | None) -> str:
    if bound is None:
        return ""
    return bound if isinstance(bound, str) else f"{float(bound):.12g}"


_BUILDERS = {
    "bops": resources.bit_operations,
    "size": resources.size,
    "average_bits": resources.average_bits,
    "average_weight_bits": resources.average_weight_bits,
    "activation_memory": resources.activation_memory,
}


@dataclass(frozen=True)
class Row:
    """One inequality of the integer linear program: the sum of the chosen costs is at most `limit`."""

    name: str
    costs: list[list[int]]
    fixed: int
    limit: int


@dataclass(frozen=True)
class Term:
    """A resource and its exact bounds, None for those not given."""

    resource: Resource
    least: Fraction | None
    most: Fraction | None

    def reach(self, table: CostTable, options: Sequence[Sequence[Bits]]) -> tuple[Amount, Amount]:
        """The least and the greatest value that any configuration has."""
        # All parts are least at once: those of activation memory, where each unit's input has its fewest bits.
        ends: list[tuple[Amount, Amount]] = []
        for part in self.resource.parts:
            costs = [part.costs(unit, pairs) for unit, pairs in zip(table.groups, options, strict=True)]
            ends.append((part.fixed + sum(map(min, costs)), part.fixed + sum(map(max, costs))))
        return max(least for least, _ in ends), max(most for _, most in ends)

    def spending(self, table: CostTable, configuration: Configuration) -> Spending:
        """What a configuration spends, beside the bounds."""
        resource = self.resource
        one = resource.one * resource.shown
        spent = Fraction(resource.spent(table, configuration)) / one
        least, most = (None if bound is None else bound / one for bound in (self.least, self.most))
        return Spending(resource.name, resource.unit, least, most, spent)

    def rows(self, table: CostTable, options: Sequence[Sequence[Bits]]) -> list[Row]:
        """Inequalities in integers. A lower bound is an upper bound of the negated cost.

        Of the moments of activation memory only those are kept that some candidates could bring over the bound.
        """
        parts = [
            (part, [part.costs(unit, pairs) for unit, pairs in zip(table.groups, options, strict=True)])
            for part in self.resource.parts
        ]
        rows = []
        if self.most is not None:
            peaks = [part.fixed + sum(map(max, costs)) for part, costs in parts]
            binding = [part for part, peak in zip(parts, peaks, strict=True) if peak > self.most]
            # One stays even where none can bind.
            rows += [_row(*part, self.most, 1) for part in binding or [parts[peaks.index(max(peaks))]]]
        if self.least is not None:
            rows += [_row(part, costs, self.least, -1) for part, costs in parts]
        return rows


def _row(part: Part, costs: list[list[Any]], bound: Fraction, sign: int) -> Row:
    # Costs may be decimals: multiplied by a common denominator they are whole, and the check stays exact.
    scale = math.lcm(*(cost.denominator for row in costs for cost in row))
    return Row(
        part.name if sign > 0 else f"least {part.name}",
        [[int(sign * scale * cost) for cost in row] for row in costs],
        sign * scale * part.fixed,
        math.floor(sign * scale * bound),
    )


def _pair(name: str, bounds: Bounds) -> tuple[Bound | None, Bound | None]:
    if not isinstance(bounds, tuple):
        return None, bounds
    if len(bounds) != 2:
        raise ValueError(f"[Budget] {name}={bounds!r} is not allowed; give an upper bound or a (lower, upper) pair")
    return bounds[0], bounds[1]


def _parse(name: str, bound: Bound) -> Fraction | tuple[Fraction, Fraction, Fraction]:
    """A number in the unit of plain numbers; or a share, weight bits and activation bits.

    Raises: ValueError for what cannot be read or is not positive.
    """
    if not isinstance(bound, str):
        number = exact_number(bound)
        if number is None or number <= 0:
            raise ValueError(f'[Budget] {name}={bound!r} is not allowed; give a positive number or "4/4"')
        return number
    text = bound.strip()
    if match := UNIFORM.fullmatch(text):
        share = Fraction(match["percent"] or 100) / 100
        w, a = Fraction(match["w"]), Fraction(match["a"])
        if share <= 0:
            raise ValueError(f"[Budget] {name}={bound!r} is not allowed; give a positive share")
        _neighbours(name, bound, w, a)
        return share, w, a
    units = UNITS.get(name, {})
    match = QUANTITY.fullmatch(text)
    number = exact_number(match["number"]) if match else None
    if match is None or number is None or match["unit"] not in units:
        with_unit = f", one with a unit of {', '.join(units)}," if units else ""
        raise ValueError(
            f'[Budget] {name}={bound!r} cannot be read; give a number{with_unit} or a uniform network: "4/4", '
            '"3.5/3.5", "50% of 8/8"'
        )
    if number <= 0:
        raise ValueError(f"[Budget] {name}={bound!r} is not allowed; give a positive number")
    return number * units[match["unit"]] / (1 if units is BIT_OPERATIONS else MEMORY["MiB"])


def _neighbours(name: str, bound: str, w: Fraction, a: Fraction) -> tuple[Bits, Bits, Fraction]:
    """The uniform networks between which one with fractional bits lies, and how far it is from the first."""
    shares = {bits % 1 for bits in (w, a)} - {Fraction(0)}
    if len(shares) > 1:
        raise ValueError(
            f"[Budget] {name}={bound!r} lies between no two uniform networks; give whole bits, or the same decimals "
            'for weights and activations, as in "3.5/4.5" or "3.5/8"'
        )
    [share] = shares or {Fraction(0)}
    below = as_pair((math.floor(w), math.floor(a)))
    return below, as_pair((math.ceil(w), math.ceil(a))), share


def _value(name: str, bound: Bound, resource: Resource) -> Fraction:
    """A bound in the unit of the resource's parts."""
    parsed = _parse(name, bound)
    if isinstance(parsed, Fraction):
        return parsed * resource.one
    share, w, a = parsed
    below, above, between = _neighbours(name, str(bound), w, a)
    low: Amount = resource.uniform(below)
    return share * (low + (resource.uniform(above) - low) * between)


def _check_order(name: str, low: Fraction, high: Fraction, given: object) -> None:
    if low > high:
        raise ValueError(f"[Budget] {name}={given!r}: the lower bound is above the upper one; give (lower, upper)")
