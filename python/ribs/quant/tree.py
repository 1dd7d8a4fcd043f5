"""Tensors within whatever a model takes and returns: torch's pytrees, and dataclasses, which those take for leaves."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import SUPPORTED_NODES, tree_leaves, tree_map


class Leaf:
    """The base of classes whose objects are leaves, whatever they hold."""


def leaves(tree: Any) -> list[Any]:
    """Everything that holds nothing further, in order."""
    found = []
    for leaf in tree_leaves(tree, is_leaf=_is_record):
        found += leaves(list(_fields(leaf).values())) if _is_record(leaf) else [leaf]
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
            value = map_leaves(function, *(_fields(record)[name] for record in found))
            if isinstance(made, MutableMapping):
                made[name] = value
            else:
                object.__setattr__(made, name, value)  # of a frozen one too
        return made

    return tree_map(mapped, *trees, is_leaf=_is_record)


def _is_record(value: Any) -> bool:
    """Whether a value is a dataclass that pytrees know nothing of, or put together again by a function of its own.

    The outputs of transformers are such mappings: what makes them looks into what it is given, which may be no tensor.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, (type, Leaf)):
        return False
    return isinstance(value, MutableMapping) or type(value) not in SUPPORTED_NODES


def _fields(record: Any) -> dict[str, Any]:
    if isinstance(record, MutableMapping):
        return dict(record)
    names = [field.name for field in dataclasses.fields(record)]
    return {name: getattr(record, name) for name in names if hasattr(record, name)}
