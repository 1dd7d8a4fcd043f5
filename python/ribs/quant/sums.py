"""Sums of two tensors in the forwards of modules, and which of their operands layers have read before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ribs.quant.trace import Readers, Trace

IN_PLACE: frozenset[Callable[..., Any]] = frozenset({Tensor.add_, Tensor.__iadd__})
SUMS = IN_PLACE | {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
_SLOTS = ((0, "input"), (1, "other"))


def summands(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Both operands of a call that adds floating-point tensors with dimensions; None for any other call."""
    if func not in SUMS:
        return None
    left, right = (args[at] if at < len(args) else kwargs.get(name) for at, name in _SLOTS)
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return None
    able = all(each.is_floating_point() and each.dim() > 0 for each in (left, right))
    return (left, right) if able else None


def add(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    quantize: Sequence[Callable[[Tensor], Tensor] | None],
) -> Tensor:
    """The sum that a call is, of quantized operands.

    quantize: of the left and of the right operand; None leaves it as it is.
    """
    given, named = list(args), dict(kwargs)
    for (at, name), rounded in zip(_SLOTS, quantize, strict=True):
        if rounded is None:
            continue
        operand = given[at] if at < len(given) else named[name]
        value = rounded(operand)
        if at == 0 and func in IN_PLACE:
            operand.copy_(value)  # it is to hold the sum
        elif at < len(given):
            given[at] = value
        else:
            named[name] = value
    result: Tensor = func(*given, **named)
    return result


def residual_sums(seen: Trace) -> dict[str, Readers]:
    """The sums of one call of each module that adds tensors, as in `Trace`.

    Raises: ValueError naming a module or a layer of which calls read different things.
    """
    calls = {layer.name: layer.calls for layer in seen.layers}
    for name, found in seen.residuals.items():
        if len(found) > 1:
            raise ValueError(
                f"[ribs] {name or 'the model'!r} adds what layers read in one of its calls and something else in "
                'another, so that recipe="residual" is not supported; give each call a module of its own, or '
                'recipe="mse"'
            )
        for layer in (each for readers in found for pair in readers for each in pair if each is not None):
            if calls[layer] > 1:
                raise ValueError(
                    f"[ribs] {layer!r} runs {calls[layer]} times in a pass, and {name or 'the model'!r} adds what it "
                    'reads, so that recipe="residual" is not supported; give each call a layer of its own, or '
                    'recipe="mse"'
                )
    return {name: found[0] if found else () for name, found in seen.residuals.items()}
