"""Several settings of a few modules in one pass, each on its own part of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ribs.quant.tree import map_leaves

Setting = Callable[[], None]


@dataclass(frozen=True)
class SideBySide:
    """A batch several times over: settings of some modules, each for one part of it.

    samples: of one part. What is no multiple of it along the first dimension does not belong to samples.
    """

    modules: frozenset[str]
    settings: Sequence[Setting]
    samples: int

    def run(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outputs = []
        for setting, (own_args, own_kwargs) in zip(self.settings, self.parts((args, kwargs)), strict=True):
            setting()
            outputs.append(forward(*own_args, **own_kwargs))
        return map_leaves(lambda *leaves: torch.cat(leaves) if self._batched(leaves[0]) else leaves[0], *outputs)

    def repeated(self, tree: Any) -> Any:
        """Every tensor of a single batch as many times as there are settings, in a copy."""
        count = len(self.settings)
        return map_leaves(lambda leaf: torch.cat([leaf] * count) if self._batched(leaf) else leaf, tree)

    def parts(self, tree: Any) -> list[Any]:
        """Of a tree with tensors of the whole batch, one for each setting."""
        count = len(self.settings)

        def part(leaf: Any, index: int) -> Any:
            return leaf.chunk(count)[index] if self._batched(leaf, count) else leaf

        return [map_leaves(lambda leaf, index=index: part(leaf, index), tree) for index in range(count)]

    def _batched(self, leaf: Any, times: int = 1) -> bool:
        return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] % (times * self.samples) == 0
