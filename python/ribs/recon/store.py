"""The inputs and the targets of a piece, stored once for all steps of its optimisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ribs.quant.inputs import Inputs

JOINED = 32  # samples of a batch put together from single ones


class ShapeError(ValueError):
    """Batches cannot be put together."""


class Stored:
    """Trees of tensors with samples along their first dimension, put together from batches.

    samples: how many there is room for.
    one: the tree of a single sample. A tensor that is as many times as long for a batch has the samples along its first
        dimension; all else is kept once, as it came first.
    """

    def __init__(self, samples: int, one: Any) -> None:
        self.samples = samples
        self._one = one
        self._filled = 0
        self._leaves: list[Any] = []
        self._rows: list[int] = []  # of each sample in a leaf; 0 where there is one leaf for all
        self._spec: TreeSpec | None = None

    def add(self, tree: Any, samples: int) -> None:
        """Copy as many samples of a batch as there is room for.

        Raises: ShapeError for samples of another shape than those before.
        """
        leaves, spec = tree_flatten(tree)
        if self._spec is None:
            self._spec = spec
            self._rows = rows_of(tree, self._one, samples)
            self._leaves = [
                leaf.new_empty((self.samples * rows, *leaf.shape[1:])) if rows else leaf
                for leaf, rows in zip(leaves, self._rows, strict=True)
            ]
        if spec != self._spec:
            raise ShapeError("it is called in different ways for different batches")
        taken = min(samples, self.samples - self._filled)
        for mine, leaf, rows in zip(self._leaves, leaves, self._rows, strict=True):
            if rows:
                if leaf.shape[1:] != mine.shape[1:] or leaf.shape[0] != samples * rows:
                    shapes = f"{list(mine.shape[1:])} and {list(leaf.shape[1:])}"
                    raise ShapeError(f"its samples have different shapes, {shapes}; give batches of one shape")
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


def rows_of(tree: Any, one: Any, samples: int) -> list[int]:
    """For each leaf, its length along the first dimension for one sample; 0 where it does not grow with them."""
    pairs = zip(tree_flatten(tree)[0], tree_flatten(one)[0], strict=True)
    grows = [isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == samples * len(own) for leaf, own in pairs]
    return [len(own) if grown else 0 for own, grown in zip(tree_flatten(one)[0], grows, strict=True)]


def size_of(tree: Any, one: Any, samples: int) -> float:
    """Bytes of a sample."""
    rows = rows_of(tree, one, samples)
    sizes: list[int] = [leaf.nbytes for leaf, grown in zip(tree_flatten(tree)[0], rows, strict=True) if grown]
    return sum(sizes) / samples


class _ReachedError(Exception):
    """What was wanted of a pass is there."""


@torch.no_grad()
def run_to(module: nn.Module, run: Callable[[], Any], *, through: bool) -> tuple[Any, Any]:
    """The (args, kwargs) that a module gets, and what it returns, where `through`; no more is run.

    run: a pass of the network that the module is in.
    """
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
        run()
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0], found[1]


def joined(batches: Sequence[Inputs]) -> Sequence[Inputs]:
    """The batches, or all in one where the first is a single sample: with one, all tensors look as if they had them."""
    if batches[0].samples > 1 or len(batches) == 1:
        return batches
    flat = [tree_flatten((each.args, dict(each.kwargs)))[0] for each in batches]
    spec = tree_flatten((batches[0].args, dict(batches[0].kwargs)))[1]
    try:
        args, kwargs = tree_unflatten([torch.cat(column) for column in zip(*flat, strict=True)], spec)
    except RuntimeError:
        raise ValueError("[reconstruct] the samples have different shapes; give samples of one shape") from None
    return Inputs(args, kwargs).split(JOINED)


def samples_of(batches: Sequence[Inputs]) -> int:
    return sum(inputs.samples for inputs in batches)
