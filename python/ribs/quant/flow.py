"""Where the outputs of layer norms and of softmax go: they are followed as long as only their shape changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribs.quant.products import LEFT
from ribs.quant.tree import tensors

SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax})
IN_PLACE = ("__iadd__", "__isub__", "__imul__", "__itruediv__")
LAYER_NORM = frozenset({F.layer_norm, torch.layer_norm})
ROLLS = frozenset({torch.roll, Tensor.roll})
PADS = frozenset({F.pad, torch._C._nn.pad})
# What gives the values that it gets, in the same order of elements. Views are told by their memory.
COPIES = frozenset(
    {
        *(Tensor.contiguous, Tensor.clone, torch.clone, Tensor.detach, Tensor.to, Tensor.type_as, Tensor.float),
        *(Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, F.dropout, torch.dropout),
    }
)
# Where a share that is masked out becomes 0, all are still shares.
MASKS = frozenset({Tensor.masked_fill, torch.masked_fill})


class Flow:
    """What reads the outputs of layer norms, channel by channel, and of softmax.

    shares: (matmul, number of its call, operand) of each operand that is the output of a softmax.
    """

    def __init__(self) -> None:
        self.shares: set[tuple[str, int, int]] = set()
        self._readers: dict[str, list[str]] = {}  # by layer norm: the linears that read its output
        self._lost: set[str] = set()  # layer norms that something else reads too
        self._norm: dict[int, str] = {}  # by tensor: whose output it is, with the channels last
        self._normalized: set[int] = set()
        self._shares: set[int] = set()

    def absorbed(self, layers: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """By layer norm, in order, those of the layers that read its output, where nothing else does."""
        able = set(layers)
        found = {norm: tuple(readers) for norm, readers in self._readers.items() if norm not in self._lost}
        return {norm: readers for norm, readers in found.items() if readers and able.issuperset(readers)}

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        """A module has given its output."""
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and id(output) in self._normalized:
            if name in self._readers:
                self._lost.add(name)  # it runs several times
            self._readers.setdefault(name, [])
            self._norm[id(output)] = name

    def follow(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """A function has run that is no product."""
        results = tensors(result)
        if not results:
            return  # a question for a shape or the like
        for tensor in tensors((args, kwargs)):
            norm, share = self._norm.get(id(tensor)), id(tensor) in self._shares
            for made in results if norm is not None or share else ():
                view = memory_of(made) is memory_of(tensor) and not changes_first(func)
                if share and not (view or func in COPIES or func in MASKS):
                    self._shares.discard(id(made))
                elif share:
                    self._shares.add(id(made))
                if norm is not None and _keeps_channels(func, args, kwargs, tensor, made, view):
                    self._norm[id(made)] = norm
                elif norm is not None:
                    self._norm.pop(id(made), None)
                    self._lost.add(norm)
        if func in SOFTMAX:
            self._shares.add(id(result))
        if func in LAYER_NORM:
            self._normalized.add(id(result))

    def multiply(
        self, layer: str | None, call: int, operands: Mapping[int, Tensor | None], *, matmul: bool, linear: bool
    ) -> None:
        """A product runs, of a layer whose call it is.

        operands: by place.  matmul: whether both are activations.
        linear: whether it is a linear layer's, weights on the right.
        """
        for place, tensor in operands.items():
            norm = self._norm.get(id(tensor))
            if id(tensor) in self._shares and layer is not None and matmul:
                self.shares.add((layer, call, place))
            if norm is not None and linear and layer is not None and place == LEFT:
                self._readers[norm].append(layer)
            elif norm is not None:
                self._lost.add(norm)

    def returned(self, output: Any) -> None:
        """The network has given its output."""
        self._lost.update(self._norm[id(leaf)] for leaf in tensors(output) if id(leaf) in self._norm)


def _keeps_channels(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], before: Tensor, after: Tensor, view: bool
) -> bool:
    """Whether the last dimension is still the channels, all of them."""
    with torch._C.DisableTorchFunction():
        if after.shape[-1:] != before.shape[-1:]:
            return False
        if func in ROLLS:
            dims = kwargs.get("dims", args[2] if len(args) > 2 else ())
            dims = (dims,) if isinstance(dims, int) else dims
            return len(dims) > 0 and all(dim % before.dim() != before.dim() - 1 for dim in dims)
        if func in PADS and after.shape == before.shape:
            return True
        return func in COPIES or (view and after.stride()[-1] == before.stride()[-1])


def changes_first(func: Callable[..., Any]) -> bool:
    """Whether a function changes its first argument."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE


def memory_of(tensor: Tensor) -> Tensor:
    """The tensor that this one is a view of, or itself."""
    with torch._C.DisableTorchFunction():  # the question is no use of the tensor
        return tensor if tensor._base is None else tensor._base
