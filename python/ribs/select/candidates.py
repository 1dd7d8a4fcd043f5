"""Which bits each unit may take: pins, allowed bits, ties and what a runtime honours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from ribs.quant.network import Bits
from ribs.quant.quantizer import FLOAT_BITS
from ribs.quant.trace import Trace
from ribs.quant.units import Unit
from ribs.select.cost import Configuration, CostTable, as_pair
from ribs.select.targets import find_target, honoured

Pins = Mapping[str, int | Bits]
Allowed = Mapping[str, Iterable[int | Bits]]
Ties = Iterable[Iterable[str]] | Literal["auto"]
ActivationBits = int | Iterable[int] | None


@dataclass(frozen=True)
class Candidates:
    """The units of the search with what they may take.

    units: tied ones are one.  members: the units that each was made of.
    options: for each unit, its candidates.  free: the same, were there no pins.
    pinned: by unit.
    """

    units: tuple[Unit, ...]
    members: tuple[tuple[Unit, ...], ...]
    options: tuple[tuple[Bits, ...], ...]
    free: tuple[tuple[Bits, ...], ...]
    pinned: Configuration


def find_candidates(
    table: CostTable,
    bits: Sequence[int],
    activation_bits: ActivationBits = None,
    pins: Pins | None = None,
    allowed: Allowed | None = None,
    ties: Ties | None = None,
    target: str | None = None,
) -> Candidates:
    """The candidates of all units of a table.

    Raises: ValueError for patterns that match no unit, for bits that are not allowed, for pins that contradict each
        other, the allowed bits, the target or the ties, and for a unit that is left with no candidate.
    """
    units = table.groups
    pairs = bit_pairs(bits, activation_bits)
    if target is not None:
        find_target(target)
    allowed_of = _resolve_allowed(allowed or {}, table)
    pinned = _resolve_pins(pins or {}, table)
    free: list[tuple[Bits, ...]] = []
    for unit in units:
        options = [pair for pair in _of_kind(pairs, unit, table) if _is_allowed(pair, unit, allowed_of, table)]
        options = [pair for pair in options if target is None or honoured(pair, target)]
        pin = pinned.get(unit.name)
        if pin is not None and unit.name in allowed_of and not _is_allowed(pin, unit, allowed_of, table):
            raise ValueError(f"[ribs] unit {unit.name!r} is pinned to {_show(pin)}, which `allowed` does not allow")
        if pin is not None and target is not None and not honoured(pin, target):
            raise ValueError(f"[ribs] unit {unit.name!r} is pinned to {_show(pin)}, which {target} does not honour")
        if not options and pin is None:
            raise ValueError(
                f"[ribs] unit {unit.name!r} has no candidate left of {' '.join(map(_show, pairs))}; give other `bits` "
                "or `activation_bits`" + (f" (see what {target} honours in ribs.select.targets)" if target else "")
                + (", or allow more" if unit.name in allowed_of else "")
            )  # fmt: skip
        free.append(tuple(options))
    groups = _group(units, _resolve_ties(ties, table))
    found = [_together([(units[i], pinned.get(units[i].name), free[i]) for i in group]) for group in groups]
    members = tuple(tuple(units[i] for i in group) for group in groups)
    merged = tuple(map(_merge, members, [_layer_order(table.trace)] * len(groups)))
    return Candidates(
        units=merged,
        members=members,
        options=tuple(free if pin is None else (pin,) for pin, free in found),
        free=tuple(free for _, free in found),
        pinned={unit.name: pin for unit, (pin, _) in zip(merged, found, strict=True) if pin is not None},
    )


def bit_choices(bits: Iterable[int], argument: str = "bits") -> list[int]:
    """The candidate bit-widths, ascending and without repeats.

    Raises: ValueError when empty or outside of 1..8.
    """
    choices = list(bits)
    for value in choices:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8:
            raise ValueError(f"[ribs] {argument}={value!r} is not supported; candidate bits are 1..8")
    if not choices:
        raise ValueError(f"[ribs] {argument} is empty; give at least one of 1..8")
    return sorted(set(choices))


def activation_choices(activation_bits: ActivationBits) -> list[int] | None:
    """The candidate bit-widths of activations, None for those of the weights; errors as for `bit_choices`."""
    if activation_bits is None:
        return None
    given = [activation_bits] if isinstance(activation_bits, int) else activation_bits
    return bit_choices(given, "activation_bits")


def bit_pairs(bits: Iterable[int], activation_bits: ActivationBits) -> list[Bits]:
    """The (weight, activation) bits to choose from: equal by default, otherwise every pair."""
    choices, activations = bit_choices(bits), activation_choices(activation_bits)
    return [(b, b) for b in choices] if activations is None else [(w, a) for w in choices for a in activations]


def match_units(pattern: str, table: CostTable, what: str) -> list[str]:
    """The units that a name, an `fnmatch` pattern, "first" or "last" means.

    Raises: ValueError when there is none.
    """
    units = table.units
    if pattern in units:
        return [pattern]
    ends = {"first": units[0], "last": units[-1]}
    found = [ends[pattern]] if pattern in ends else [unit for unit in units if fnmatchcase(unit, pattern)]
    if not found:
        raise ValueError(
            f'[ribs] {what} {pattern!r} names no unit; give a name, a pattern such as "layer1.*", "first" or "last"; '
            f"the units are {list(units)}"
        )
    return found


def _of_kind(pairs: Sequence[Bits], unit: Unit, table: CostTable) -> list[Bits]:
    """Both operands of a matmul are activations, so that a unit without weights has no weight bits to choose."""
    if table.has_weights(unit):
        return list(pairs)
    return sorted({(a, a) for _, a in pairs})


def _resolve_pins(pins: Pins, table: CostTable) -> Configuration:
    resolved: Configuration = {}
    by: dict[str, str] = {}
    given: list[tuple[str, Any]] = [*pins.items()]
    for name, value in given:
        for unit in match_units(name, table, "pin"):
            pair = as_pair(value)
            if resolved.setdefault(unit, pair) != pair:
                raise ValueError(
                    f"[ribs] pins {by[unit]!r} and {name!r} contradict each other: unit {unit!r} cannot be at both "
                    f"{_show(resolved[unit])} and {_show(pair)}"
                )
            by[unit] = name
    for unit in table.ends if table.rules.ends_at_8_bits else ():
        if resolved.setdefault(unit, (8, 8)) != (8, 8):
            raise ValueError(
                f"[ribs] accounting={table.accounting!r} has the first and last unit at 8/8, but pin {by[unit]!r} has "
                f"{unit!r} at {_show(resolved[unit])}; take the pin away or another accounting"
            )
    return resolved


def _resolve_allowed(allowed: Allowed, table: CostTable) -> dict[str, list[set[int | Bits]]]:
    """By unit, a set for each pattern that matches it; all must allow a candidate."""
    resolved: dict[str, list[set[int | Bits]]] = {}
    for pattern, values in allowed.items():
        choices: set[int | Bits] = set()
        choices.update([values] if isinstance(values, int) else values)
        if not choices:
            raise ValueError(f"[ribs] allowed[{pattern!r}] is empty; give bits or (weight bits, activation bits) pairs")
        for choice in choices:
            as_pair(choice)
        for unit in match_units(pattern, table, "pattern of `allowed`"):
            resolved.setdefault(unit, []).append(choices)
    return resolved


def _is_allowed(pair: Bits, unit: Unit, allowed: Mapping[str, list[set[int | Bits]]], table: CostTable) -> bool:
    alone = pair[0] if table.has_weights(unit) else pair[1]
    return all(pair in choices or alone in choices for choices in allowed.get(unit.name, []))


def _resolve_ties(ties: Ties | None, table: CostTable) -> list[list[str]]:
    """Groups of units that share their bits."""
    if ties is None:
        return []
    if isinstance(ties, str):
        if ties != "auto":
            raise ValueError(f'[ribs] ties={ties!r} is not supported; give "auto" or groups of patterns')
        return _natural_ties(table)
    return [[unit for pattern in _patterns(group) for unit in match_units(pattern, table, "tie")] for group in ties]


def _patterns(group: Iterable[str]) -> list[str]:
    if isinstance(group, str):
        raise ValueError(f"[ribs] ties={group!r} is no group; give groups of patterns, such as [['a.*', 'b']]")
    return list(group)


def _natural_ties(table: CostTable) -> list[list[str]]:
    """Units whose outputs are added, and those whose linears read the same tensor."""
    owner = table.owner
    linears = {layer.name for layer in table.layers if layer.kind == "linear"}
    readers: dict[int, list[str]] = {}
    for read in table.trace.reads:
        if read.layer in linears:
            readers.setdefault(read.tensor, []).append(owner[read.layer])
    return [*([owner[a], owner[b]] for a, b in table.trace.sums), *readers.values()]


def _group(units: Sequence[Unit], ties: Sequence[Sequence[str]]) -> list[list[int]]:
    """The indices of units that are tied, directly or through others, in order of their first."""
    index = {unit.name: i for i, unit in enumerate(units)}
    root = list(range(len(units)))

    def find(i: int) -> int:
        return i if root[i] == i else find(root[i])

    for tie in ties:
        for name in tie[1:]:
            a, b = sorted((find(index[tie[0]]), find(index[name])))
            root[b] = a
    groups: dict[int, list[int]] = {}
    for i in range(len(units)):
        groups.setdefault(find(i), []).append(i)
    return list(groups.values())


def _together(
    tied: Sequence[tuple[Unit, Bits | None, tuple[Bits, ...]]],
) -> tuple[Bits | None, tuple[Bits, ...]]:
    """The pin of tied units and their common candidates."""
    names = [unit.name for unit, _, _ in tied]
    pins = {pin: unit.name for unit, pin, _ in tied if pin is not None}
    if len(pins) > 1:
        (a, first), (b, second) = list(pins.items())[:2]
        raise ValueError(f"[ribs] {first!r} and {second!r} are tied, but pinned to {_show(a)} and {_show(b)}")
    common = tuple(pair for pair in tied[0][2] if all(pair in options for _, _, options in tied))
    [pin] = pins or [None]
    if pin is None and not common:
        raise ValueError(f"[ribs] the tied units {names} have no candidate in common; untie them or allow more bits")
    for unit, own, options in tied:
        if pin is not None and own is None and pin != (FLOAT_BITS, FLOAT_BITS) and pin not in options:
            raise ValueError(
                f"[ribs] {unit.name!r} is tied to {pins[pin]!r}, which is pinned to {_show(pin)}, but may only take "
                f"{' '.join(map(_show, options))}"
            )
    return pin, common


def _merge(members: tuple[Unit, ...], order: Mapping[str, int]) -> Unit:
    if len(members) == 1:
        return members[0]
    layers = sorted((layer for unit in members for layer in unit.layers), key=order.__getitem__)
    modules = tuple(module for unit in members for module in unit.modules)
    return Unit(" + ".join(unit.name for unit in members), tuple(layers), modules)


def _layer_order(trace: Trace) -> dict[str, int]:
    return {layer.name: i for i, layer in enumerate(trace.layers)}


def _show(pair: Bits) -> str:
    return f"{pair[0]}/{pair[1]}"
