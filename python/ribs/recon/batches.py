"""The random batches of an optimisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ribs.recon.store import Stored


class Batches:
    """Random batches of a piece's (quantized inputs, float inputs, target, weights of errors), one after the other.

    What is drawn is written to one place in memory, where a captured step finds it.

    keep: the probability with which a value of the inputs is the quantized one, where both kinds are stored.
    size: of a batch; all samples, where there are fewer.
    """

    def __init__(self, store: Stored, keep: float, size: int, generator: torch.Generator) -> None:
        self._store, self._keep, self._generator = store, keep, generator
        self._index = torch.arange(min(size, store.samples), device=generator.device)
        quantized, original, _, _ = store.take(self._index)
        mixed = [] if quantized is None or original is None else filter(_is_mixed, tree_leaves(quantized))
        self._chances = [torch.empty(leaf.shape, device=leaf.device) for leaf in mixed]

    def draw(self) -> None:
        """Go to the next batch."""
        order = torch.randperm(self._store.samples, generator=self._generator, device=self._generator.device)
        self._index.copy_(order[: len(self._index)])
        for chance in self._chances:
            chance.uniform_(generator=self._generator)

    def present(self) -> tuple[Any, Tensor, Tensor | None]:
        """The inputs of the batch, in part those of the float network, its target, and the weights of errors."""
        quantized, original, target, weights = self._store.take(self._index)
        if quantized is None or original is None:
            return original if quantized is None else quantized, target, weights
        chances = iter(self._chances)

        def mix(mine: Any, other: Any) -> Any:
            return torch.where(next(chances) < self._keep, mine, other) if _is_mixed(mine) else mine

        return tree_map(mix, quantized, original), target, weights


def _is_mixed(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
