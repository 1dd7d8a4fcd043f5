"""Units: the groups of layers that share their bits (the paper's substructures)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from ribs.quant.trace import Layer

UnitScheme = Literal["block", "layer"] | Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Unit:
    """Layers that share one pair of bits.

    name: path of the block's or layer's module, or the name the user gave.
    layers: names of its layers, in execution order.
    modules: paths of the modules that together are the whole unit: the block itself, or its layers one by one.
    """

    name: str
    layers: tuple[str, ...]
    modules: tuple[str, ...]


def find_units(model: nn.Module, layers: Iterable[Layer], scheme: UnitScheme = "block") -> tuple[Unit, ...]:
    """All layers, each in exactly one unit, in execution order.

    scheme: "block" (each residual block, inverted residual or transformer block; every layer outside of one is a unit
        of its own), "layer", or a dict from a unit's name to the names or `fnmatch` patterns of its layers (a pattern
        also matches a module that holds layers); layers in no group stay units of their own.
    Raises: ValueError for another scheme, for a pattern that matches nothing and for a layer in two groups.
    """
    layers = list(layers)
    names = [layer.name for layer in layers]
    if isinstance(scheme, Mapping):
        owner = _owners_by_pattern(names, scheme)
    elif scheme == "block":
        blocks = find_blocks(model, layers)
        owner = {name: block for block in blocks for name in names if name.startswith(f"{block}.")}
    elif scheme == "layer":
        owner = {}
    else:
        raise ValueError(
            f'[ribs] units={scheme!r} is not supported; give "block", "layer" or a dict of layer patterns by unit name'
        )
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(owner.get(name, name), []).append(name)
    modules = dict(model.named_modules())
    return tuple(
        Unit(name, tuple(group), (name,) if name in modules and not isinstance(scheme, Mapping) else tuple(group))
        for name, group in members.items()
    )


def find_blocks(model: nn.Module, layers: Iterable[Layer]) -> list[str]:
    """Paths of the network's repeated blocks.

    A list of blocks is a plain Sequential or ModuleList most of whose layer-holding items hold several layers each; a
    block is an item of such a list that holds no such list itself. This finds BasicBlock and Bottleneck, inverted
    residuals and transformer blocks by their shape, whatever their class is called.
    """
    weighted = [layer.name for layer in layers if layer.weights]
    lists = {name for name, module in model.named_modules() if _is_list_of_blocks(name, module, weighted)}
    blocks = []
    for name in lists:
        for child, _ in model.get_submodule(name).named_children():
            path = f"{name}.{child}" if name else child
            holds_list = any(other == path or other.startswith(f"{path}.") for other in lists)
            if not holds_list and _count_layers(path, weighted) > 1:
                blocks.append(path)
    return blocks


def _is_list_of_blocks(name: str, module: nn.Module, layers: list[str]) -> bool:
    if type(module) not in (nn.Sequential, nn.ModuleList):
        return False
    children = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
    counts = [count for child in children if (count := _count_layers(child, layers)) > 0]
    return 2 * sum(count > 1 for count in counts) > len(counts)


def _count_layers(module: str, layers: list[str]) -> int:
    return sum(layer == module or layer.startswith(f"{module}.") for layer in layers)


def _owners_by_pattern(names: list[str], scheme: Mapping[str, Iterable[str]]) -> dict[str, str]:
    owner: dict[str, str] = {}
    for unit, patterns in scheme.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matched = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
            if not matched:
                raise ValueError(f"[ribs] unit {unit!r}: pattern {pattern!r} matches no layer; layers are {names}")
            for name in matched:
                if owner.setdefault(name, unit) != unit:
                    raise ValueError(f"[ribs] layer {name!r} is in two units, {owner[name]!r} and {unit!r}")
    return owner
