"""The inputs and the targets of a piece, stored once for all steps of its optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ribs.quant.inputs import Inputs


class Stored:
    """Trees of tensors with samples along their first dimension, put together from batches.

    What is no tensor, or has no multiple of the first batch's samples there, is kept once, as it came first.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._filled = 0
        self._leaves: list[Any] = []
        self._rows: list[int] = []  # of each sample in a leaf; 0 where there is one leaf for all
        self._spec: TreeSpec | None = None

    def add(self, tree: Any, samples: int) -> None:
        """Copy as many samples of a batch as there is room for."""
        leaves, spec = tree_flatten(tree)
        if self._spec is None:
            self._spec = spec
            self._rows = [_rows(leaf, samples) for leaf in leaves]
            self._leaves = [
                leaf.new_empty((self.samples * rows, *leaf.shape[1:])) if rows else leaf
                for leaf, rows in zip(leaves, self._rows, strict=True)
            ]
        taken = min(samples, self.samples - self._filled)
        for mine, leaf, rows in zip(self._leaves, leaves, self._rows, strict=True):
            if rows:
                mine[self._filled * rows : (self._filled + taken) * rows] = leaf[: taken * rows]
        self._filled += taken

    @property
    def full(self) -> bool:
        return self._filled == self.samples

    def take(self, index: Tensor) -> Any:
        """The tree of some samples, in copies."""
        assert self._spec is not None
        leaves = [
            leaf.unflatten(0, (self.samples, rows))[index].flatten(0, 1) if rows else leaf
            for leaf, rows in zip(self._leaves, self._rows, strict=True)
        ]
        return tree_unflatten(leaves, self._spec)


def _rows(leaf: Any, samples: int) -> int:
    if not isinstance(leaf, Tensor) or leaf.dim() == 0 or leaf.shape[0] % samples:
        return 0
    return leaf.shape[0] // samples


def size_of(tree: Any, samples: int) -> float:
    """Bytes of a sample."""
    sizes: list[int] = [leaf.nbytes for leaf in tree_flatten(tree)[0] if _rows(leaf, samples)]
    return sum(sizes) / samples


class _ReachedError(Exception):
    """What was wanted of a pass is there."""


@torch.no_grad()
def run_to(model: nn.Module, module: nn.Module, inputs: Inputs, *, through: bool) -> tuple[Any, Any]:
    """The (args, kwargs) that a module in a network gets, and what it returns, where `through`; no more is run."""
    found: list[Any] = [None, None]

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves, spec = tree_flatten((args, kwargs))
        found[0] = tree_unflatten([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
        if not through:
            raise _ReachedError

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        found[1] = output.clone()
        raise _ReachedError

    handles = [module.register_forward_pre_hook(before, with_kwargs=True)]
    handles += [module.register_forward_hook(after, with_kwargs=True)]
    try:
        inputs.call(model)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0], found[1]


def samples_of(batches: Sequence[Inputs]) -> int:
    return sum(inputs.samples for inputs in batches)
