"""What a data loader yields, as the arguments of a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ribs.quant.tree import leaves, map_leaves, tensors

WHAT_A_BATCH_MAY_BE = (
    "a batch must be a tensor, a tuple or list whose first item is the model's input (labels may follow and are "
    "ignored), or a dict of tensors passed to the model by name"
)


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward call; every tensor has the samples along its first dimension."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        return tensors((self.args, dict(self.kwargs)))

    @property
    def samples(self) -> int:
        """Number of samples: the first dimension of the first tensor."""
        return self.tensors[0].shape[0]

    def head(self, samples: int) -> Inputs:
        """The first `samples` samples."""
        return self._map(lambda tensor: tensor[:samples])

    def tail(self, samples: int) -> Inputs:
        """The last `samples` samples."""
        return self._map(lambda tensor: tensor[-samples:])

    def split(self, samples: int) -> list[Inputs]:
        """Pieces of `samples` samples, in order; the last may have fewer."""
        starts = range(0, self.samples, samples)
        return [self._map(lambda tensor, start=start: tensor[start : start + samples]) for start in starts]

    def repeat(self, times: int) -> Inputs:
        """All samples several times over, one batch after the other."""
        return self._map(lambda tensor: torch.cat([tensor] * times))

    def to(self, device: torch.device | str) -> Inputs:
        return self._map(lambda tensor: tensor.to(device))

    def call(self, model: nn.Module) -> Any:
        return model(*self.args, **self.kwargs)

    def _map(self, function: Any) -> Inputs:
        args, kwargs = map_leaves(
            lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, (self.args, dict(self.kwargs))
        )
        return Inputs(args, kwargs)


def alike(batches: Sequence[Inputs]) -> bool:
    """Whether the samples of all batches have the same arguments, shapes and types, so that any can make a batch."""
    kinds = {str(batch._map(lambda tensor: (tensor.shape[1:], tensor.dtype))) for batch in batches}
    return len(kinds) == 1


class Gathered(Sequence[Inputs]):
    """Batches of samples taken from other batches; each is put together when it is asked for.

    batches: `alike`.  order: samples, counted through all batches.  size: of each new batch; the last may have fewer.
    """

    def __init__(self, batches: Sequence[Inputs], order: NDArray[np.int64], size: int) -> None:
        self._batches = batches
        self._places = [(batch, row) for batch, inputs in enumerate(batches) for row in range(inputs.samples)]
        self._pieces = [order[first : first + size].tolist() for first in range(0, len(order), size)]

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> Inputs: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Inputs]: ...
    def __getitem__(self, index: int | slice) -> Inputs | Sequence[Inputs]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        places = [self._places[sample] for sample in self._pieces[index]]
        rows = [self._batches[batch]._map(lambda tensor, row=row: tensor[row : row + 1]) for batch, row in places]
        return Inputs(*map_leaves(lambda *each: torch.cat(each), *((row.args, dict(row.kwargs)) for row in rows)))


def as_inputs(model: nn.Module, batch: Any) -> Inputs:
    """The part of one loader batch that the model takes; labels are left out.

    Raises: TypeError for anything but a tensor, a tuple or list led by the input, or a dict of tensors; ValueError for
        tensors of different numbers of samples.
    """
    if isinstance(batch, Tensor):
        inputs = Inputs((batch,), {})
    elif isinstance(batch, Mapping):
        inputs = Inputs((), _accepted(model, batch))
    elif isinstance(batch, (tuple, list)) and len(batch) > 0:
        first = batch[0]
        if isinstance(first, Mapping):
            inputs = Inputs((), _accepted(model, first))
        else:
            inputs = Inputs(tuple(first) if isinstance(first, (tuple, list)) else (first,), {})
    else:
        raise TypeError(f"[ribs] got a batch of type {type(batch).__name__}; {WHAT_A_BATCH_MAY_BE}")
    found = leaves((inputs.args, dict(inputs.kwargs)))
    wrong = [type(leaf).__name__ for leaf in found if not isinstance(leaf, Tensor)]
    if wrong or not found:
        held = f"an item of type {wrong[0]}" if wrong else "no tensor that the model's forward takes"
        raise TypeError(f"[ribs] got a batch with {held}; {WHAT_A_BATCH_MAY_BE}")
    if any(leaf.dim() == 0 for leaf in found):
        raise TypeError("[ribs] got a 0-d tensor in a batch; the first dimension must be the samples")
    if len({leaf.shape[0] for leaf in found}) > 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in found)
        raise ValueError(f"[ribs] got a batch of tensors {shapes}; the first dimension of each must be the samples")
    return inputs


def collect(model: nn.Module, loader: Iterable[Any], samples: int) -> list[Inputs]:
    """The calibration set: exactly the loader's first `samples` samples (fewer if it has fewer), batch by batch.

    Raises: as `read`; ValueError for an empty loader and `samples` < 1.
    """
    if samples < 1:
        raise ValueError(f"[ribs] calibration_samples={samples} is not allowed; give at least 1")
    batches = list(read(model, loader, samples))
    if not batches:
        raise ValueError("[ribs] the loader yielded no samples; ribs needs a few hundred unlabelled inputs")
    return batches


def read(model: nn.Module, loader: Iterable[Any], samples: int | None = None) -> Iterator[Inputs]:
    """The loader's batches up to that many samples, all by default; those without any are left out.

    Raises: TypeError for unreadable batches; ValueError for sequences of no length, and inputs that hold NaN, Inf or,
        on the meta device, nothing; -Inf is left to what reads it, as masks hold it.
    """
    seen = number = 0
    for batch in loader:
        inputs = as_inputs(model, batch)
        if inputs.samples == 0:
            continue
        if samples is not None and inputs.samples > samples - seen:
            inputs = inputs.head(samples - seen)
        for tensor in inputs.tensors:
            if tensor.numel() == 0:
                raise ValueError(
                    f"[ribs] batch {number} of the loader holds a tensor of shape {tuple(tensor.shape)}, which "
                    "is empty; leave out what has no length"
                )
            if tensor.is_meta:
                raise ValueError(f"[ribs] batch {number} of the loader is on the meta device and holds no values")
            if tensor.is_floating_point() and not bool((tensor < torch.inf).all()):
                raise ValueError(f"[ribs] batch {number} of the loader holds NaN or Inf; clean the data first")
        yield inputs
        number += 1
        seen += inputs.samples
        if seen == samples:
            return


def _accepted(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The items that the model's forward names; all of them when it takes **kwargs."""
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(batch)
    return {name: value for name, value in batch.items() if name in parameters}
