"""What is reconstructed at a time: blocks, and layers where a block cannot be called by itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ribs.quant.inputs import Inputs
from ribs.quant.redirect import call_alone
from ribs.quant.trace import Layer
from ribs.quant.units import find_units
from ribs.recon.methods import Whole


@dataclass(frozen=True)
class Piece:
    """A module that is optimised by itself.

    name: its path.  layers: the names of the layers in it, in execution order.
    """

    name: str
    layers: tuple[str, ...]


@dataclass
class _Seen:
    """The calls of a module in one pass, and the last of them."""

    calls: int = 0
    args: Any = ()
    kwargs: Any = None
    output: Any = None


def find_pieces(reference: nn.Module, layers: Sequence[Layer], whole: Whole, sample: Inputs) -> list[Piece]:
    """The pieces of a network in execution order; a warning names what they leave out, and blocks that fall apart.

    A piece runs once in a pass, returns a tensor with the samples along its first dimension, and gives the same when
    it is called by itself. A block that does not is taken layer by layer; a layer that does not is left as it is.

    reference: the network in float.  sample: a few samples.
    """
    units = find_units(reference, layers, whole)
    names = {unit.name for unit in units if unit.modules == (unit.name,)} | {layer.name for layer in layers}
    repeated = {layer.name for layer in layers if layer.calls > 1}
    problems = _problems(reference, names, repeated, sample)
    pieces: list[Piece] = []
    for unit in units:
        if unit.name in problems and unit.layers != (unit.name,):
            _say(f"{unit.name!r} is reconstructed layer by layer", problems[unit.name])
        if unit.name in names - set(problems):
            pieces.append(Piece(unit.name, unit.layers))
            continue
        for name in unit.layers:
            if name in problems:
                _say(f"{name!r} is left as it is", problems[name])
            else:
                pieces.append(Piece(name, (name,)))
    return pieces


def _say(what: str, why: str) -> None:
    warnings.warn(f"[reconstruct] {what}: {why}", stacklevel=2)


@torch.no_grad()
def _problems(model: nn.Module, names: Iterable[str], repeated: set[str], sample: Inputs) -> dict[str, str]:
    """Why modules cannot be reconstructed by themselves."""
    seen = {name: _Seen() for name in names}
    handles = []
    for name, one in seen.items():

        def before(module: nn.Module, args: Any, kwargs: Any, one: _Seen = one) -> None:
            one.calls, one.args, one.kwargs = one.calls + 1, _copy(args), _copy(kwargs)

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any, one: _Seen = one) -> None:
            one.output = _copy(output)

        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        sample.call(model)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, one in seen.items():
        prefix = f"{name}." if name else ""
        if any(other == name or other.startswith(prefix) for other in repeated):
            found[name] = "it, or a layer in it, runs several times in a pass"
        elif why := _problem(model, name, one, sample.samples):
            found[name] = why
    return found


def _problem(model: nn.Module, name: str, seen: _Seen, samples: int) -> str | None:
    if seen.calls != 1:
        return f"it runs {seen.calls} times in a pass"
    if not isinstance(seen.output, Tensor):
        return f"its output is a {type(seen.output).__name__}, not a tensor"
    if seen.output.dim() == 0 or seen.output.shape[0] % samples:
        return f"its output of shape {tuple(seen.output.shape)} does not have the samples along its first dimension"
    again = call_alone(model, model.get_submodule(name), _copy(seen.args), _copy(seen.kwargs))
    if again.shape != seen.output.shape or not torch.allclose(again, seen.output, rtol=1e-4, atol=1e-5):
        return "called by itself it gives something else: it depends on more than its arguments"
    return None


def _copy(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)
