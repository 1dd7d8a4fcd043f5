"""What can be bounded, each as whole numbers that add up over the units."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

from ribs.quant.network import Bits
from ribs.quant.quantizer import FLOAT_BITS
from ribs.quant.units import Unit
from ribs.select.cost import MIB_IN_BITS, Configuration, CostTable, as_pair

CostSource = str | os.PathLike[str] | Callable[[str, Bits], Any]
Amount = int | Fraction
LARGEST_EXPONENT = 400
COLUMNS = ("unit", "weight_bits", "activation_bits", "cost")


@dataclass(frozen=True)
class Part:
    """A sum over the units: `fixed`, and what each unit costs at its bits."""

    name: str
    fixed: int
    costs: Callable[[Unit, Sequence[Bits]], list[Any]]

    def total(self, table: CostTable, configuration: Configuration) -> Amount:
        total: Amount = self.fixed
        for unit in table.groups:
            total += self.costs(unit, [configuration[unit.name]])[0]
        return total


@dataclass(frozen=True)
class Resource:
    """Something of which a configuration takes the largest of its parts; most resources have one part.

    one: the value of 1 in the unit in which a bound is given as a number.
    unit, shown: what it is shown in, and how many of `one` that is.
    uniform: the value of a network whose units all have the same bits.
    """

    name: str
    parts: tuple[Part, ...]
    one: int
    unit: str
    shown: int
    uniform: Callable[[Bits], Amount]

    def spent(self, table: CostTable, configuration: Configuration) -> Amount:
        return max(part.total(table, configuration) for part in self.parts)

    def show(self, value: Amount) -> str:
        """A value in words; bit operations and bits also as the whole number, to be asked for again."""
        number = f"{float(Fraction(value) / (self.one * self.shown)):.6g} {self.unit}".rstrip()
        if self.unit == "GBOPs":
            return f"{number} ({int(value):,} BOPs)"
        return f"{number} ({int(value):,} bits)" if self.unit == "MiB" else number


def bit_operations(table: CostTable) -> Resource:
    """BOPs of one sample."""
    fixed = table.float_macs * FLOAT_BITS**2
    part = Part("bops", fixed, lambda unit, options: [bops for bops, _ in table.candidate_costs(unit, options)])
    return Resource("bops", (part,), 1, "GBOPs", 10**9, table.bops)


def size(table: CostTable) -> Resource:
    """Bits of what is stored."""
    part = Part(
        "size", table.float_bits, lambda unit, options: [size for _, size in table.candidate_costs(unit, options)]
    )
    return Resource("size", (part,), MIB_IN_BITS, "MiB", 1, table.weight_bits)


def average_bits(table: CostTable) -> Resource:
    """The mean of weight bits and input bits of all products, each counted once for each of its MACs."""

    def costs(unit: Unit, options: Sequence[Bits]) -> list[int]:
        products = sum(layer.macs for layer in table.members(unit) if layer.kind != "matmul")
        matmuls = sum(layer.macs for layer in table.members(unit) if layer.kind == "matmul")
        return [products * (w + a) + matmuls * 2 * a for w, a in options]

    macs = sum(layer.macs for layer in table.layers)
    return _of_parts("average_bits", table, (Part("average_bits", 0, costs),), 2 * macs, "bits")


def average_weight_bits(table: CostTable) -> Resource:
    """The mean bits of the weights."""

    def costs(unit: Unit, options: Sequence[Bits]) -> list[int]:
        weights = sum(layer.weights for layer in table.members(unit))
        return [weights * w for w, _ in options]

    weights = sum(layer.weights for layer in table.layers)
    return _of_parts("average_weight_bits", table, (Part("average_weight_bits", 0, costs),), weights, "bits")


def activation_memory(table: CostTable) -> Resource:
    """The most bits of quantized activations of one sample that are live at once, a part for each moment.

    A moment is the run of one layer. Live at it is every tensor that some layer reads, from the moment that makes it
    (what is done to a layer's output before the next layer runs belongs to the same moment) to the last at which it,
    or a view of its memory, is wanted by anything. It is stored at the bits of the unit that reads it, once for each
    unit that does. Tensors that no layer reads are never quantized, and are not counted.
    """
    owner = table.owner
    stored: dict[tuple[int, str], tuple[int, int, int]] = {}
    for read in table.trace.reads:
        key = read.tensor, owner[read.layer]
        stored[key] = read.elements, read.born, read.last
    elements: list[dict[str, int]] = [{} for _ in table.trace.moments]
    for (_, unit), (count, born, last) in stored.items():
        for moment in range(max(born, 0), last + 1):
            elements[moment][unit] = elements[moment].get(unit, 0) + count
    # A moment that needs no more of any unit than another one does is never the only largest.
    kept: list[int] = []
    for moment in sorted(range(len(elements)), key=lambda m: (-sum(elements[m].values()), m)):
        needs = elements[moment]
        if not any(all(elements[k].get(unit, 0) >= n for unit, n in needs.items()) for k in kept):
            kept.append(moment)

    layers = table.trace.moments
    names = [
        layer if layers.count(layer) == 1 else f"{layer}, call {layers[: moment + 1].count(layer)}"
        for moment, layer in enumerate(layers)
    ]

    def part(moment: int) -> Part:
        needs = elements[moment]
        return Part(
            f"activation_memory at {names[moment]}",
            0,
            lambda unit, options: [needs.get(unit.name, 0) * a for _, a in options],
        )

    return _of_parts("activation_memory", table, tuple(map(part, sorted(kept))), MIB_IN_BITS, "MiB")


def own_cost(name: str, source: CostSource, table: CostTable, members: Mapping[str, tuple[Unit, ...]]) -> Resource:
    """A user's own cost of every unit at every bits: of a CSV file, or of a function.

    members: the user's units in each unit of the table; tied ones cost what they cost together.
    Decimals are taken as they are written: 0.1 is a tenth.
    Raises: ValueError for a file that cannot be read, a missing or repeated row, a unit that is not there, and costs
        that are no finite numbers of at least 0.
    """
    known: dict[tuple[str, Bits], Fraction] = {}
    if not callable(source):
        known = _read(name, Path(source))
        names = {unit.name for units in members.values() for unit in units}
        strangers = sorted({unit for unit, _ in known} - names)
        if strangers:
            raise ValueError(
                f"[Budget] costs {name!r}: {source} has rows of {strangers}; the units are {sorted(names)}"
            )

    def exact(unit: str, bits: Bits) -> Fraction:
        if (unit, bits) not in known:
            where = f"of unit {unit!r} at {bits[0]}/{bits[1]}"
            if not callable(source):
                raise ValueError(
                    f"[Budget] costs {name!r}: {source} has no row {where}; every candidate of every unit needs one"
                )
            known[unit, bits] = _cost(name, where, source(unit, bits))
        return known[unit, bits]

    def costs(unit: Unit, options: Sequence[Bits]) -> list[Fraction]:
        return [sum((exact(m.name, bits) for m in members[unit.name]), Fraction(0)) for bits in options]

    return _of_parts(name, table, (Part(name, 0, costs),), 1, "")


def exact_number(value: Any) -> Fraction | None:
    """A finite number as the decimal that it is written as, or None; also for exponents that no float has."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    # As a fraction 1e999999999 would fill the memory with its digits.
    return Fraction(number) if number.is_finite() and abs(number.adjusted()) <= LARGEST_EXPONENT else None


def _of_parts(name: str, table: CostTable, parts: tuple[Part, ...], one: int, unit: str) -> Resource:
    def uniform(bits: Bits) -> Amount:
        return max(part.total(table, table.configuration(bits)) for part in parts)

    return Resource(name, parts, one, unit, 1, uniform)


def _read(name: str, path: Path) -> dict[tuple[str, Bits], Fraction]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"[Budget] costs {name!r}: {path} cannot be read: {error}") from None
    known: dict[tuple[str, Bits], Fraction] = {}
    for number, row in enumerate(rows, start=2):
        if set(row) != set(COLUMNS):
            raise ValueError(
                f"[Budget] costs {name!r}: {path} must be CSV with the columns {','.join(COLUMNS)}; "
                f"row {number} has {','.join(map(str, row))}"
            )
        try:
            bits = as_pair((int(row["weight_bits"] or ""), int(row["activation_bits"] or "")))
        except ValueError as error:
            raise ValueError(f"[Budget] costs {name!r}: row {number} of {path} cannot be read: {error}") from None
        key = row["unit"], bits
        if key in known:
            raise ValueError(f"[Budget] costs {name!r}: row {number} of {path} is a second one of {key}")
        known[key] = _cost(name, f"in row {number} of {path}", row["cost"])
    return known


def _cost(name: str, where: str, value: Any) -> Fraction:
    cost = exact_number(value)
    if cost is None or cost < 0:
        raise ValueError(f"[Budget] costs {name!r}: cost {value!r} {where} is not allowed; give a number of at least 0")
    return cost
