"""Tensors within whatever a model takes and returns: torch's pytrees, and dataclasses, which those take for leaves."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import SUPPORTED_NODES, tree_leaves, tree_map


def leaves(tree: Any) -> list[Any]:
    """Everything that holds nothing further, in order."""
    found = []
    for leaf in tree_leaves(tree, is_leaf=_is_record):
        found += leaves([getattr(leaf, name) for name in _fields(leaf)]) if _is_record(leaf) else [leaf]
    return found


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def map_leaves(function: Callable[..., Any], *trees: Any) -> Any:
    """The same tree with f(leaf) for every leaf; of several alike, with f of their leaves in the same place."""

    def mapped(*found: Any) -> Any:
        if not _is_record(found[0]):
            return function(*found)
        made = copy.copy(found[0])
        for name in _fields(made):
            value = map_leaves(function, *(getattr(record, name) for record in found))
            object.__setattr__(made, name, value)  # of a frozen one too
        return made

    return tree_map(mapped, *trees, is_leaf=_is_record)


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value) not in SUPPORTED_NODES


def _fields(record: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(record) if hasattr(record, field.name)]
