"""The quantizers of activations as they are saved: each kind is an entry of `KINDS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ribs.io.content import SavedQuantizer
from ribs.io.errors import FormatError
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer, ShareQuantizer
from ribs.quant.recipe import ShareLevels

LARGEST_ZERO_POINT = 2**23  # up to it, codes and values are exact in float32


@dataclass(frozen=True)
class Kind:
    """A class of quantizers.

    save: its state at the present bits.
    load: f(saved, where, device), the inverse; raises FormatError for state that no such quantizer has.
    """

    of: type[Quantizer]
    save: Callable[[Any], SavedQuantizer]
    load: Callable[[SavedQuantizer, str, torch.device], Quantizer]


def save_quantizer(quantizer: Quantizer) -> SavedQuantizer:
    """Raises: TypeError for a kind that has no entry."""
    for kind in KINDS.values():
        if type(quantizer) is kind.of:
            return kind.save(quantizer)
    known = ", ".join(KINDS)
    raise TypeError(
        f"[save] quantizers of type {type(quantizer).__name__} cannot be saved; there are the kinds {known}"
    )


def load_quantizer(saved: SavedQuantizer, where: str, device: torch.device) -> Quantizer:
    """Raises: FormatError for a kind that is not known, or state that such a quantizer cannot have."""
    if saved.kind not in KINDS:
        raise FormatError(f"[load] {where} is of the kind {saved.kind!r}; known are {', '.join(KINDS)}")
    check_bits(saved.bits, where)
    return KINDS[saved.kind].load(saved, where, device)


def check_bits(bits: int, where: str) -> None:
    """Raises: FormatError for bits other than 1..8 and 32."""
    if not (1 <= bits <= 8 or bits == FLOAT_BITS):
        raise FormatError(f"[load] {where} has {bits} bits; they can be 1..8 or 32")


def _save_uniform(quantizer: FakeQuantizer) -> SavedQuantizer:
    step: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    if quantizer.bits != FLOAT_BITS:
        step, zero_point = (tuple(each.reshape(-1).tolist()) for each in quantizer.present)
    return SavedQuantizer("uniform", quantizer.bits, quantizer.symmetric, quantizer.axis, step, zero_point)


def _load_uniform(saved: SavedQuantizer, where: str, device: torch.device) -> FakeQuantizer:
    quantizer = FakeQuantizer(symmetric=saved.symmetric, axis=saved.axis)
    if saved.bits == FLOAT_BITS:
        return quantizer
    step = _steps(saved, where, device)
    if any(abs(each) > LARGEST_ZERO_POINT for each in saved.zero_point):
        raise FormatError(f"[load] {where} has a zero point beyond 2^23")
    if len(saved.step) != len(saved.zero_point) or not (len(saved.step) == 1 if saved.axis is None else saved.step):
        raise FormatError(f"[load] {where} has {len(saved.step)} steps and {len(saved.zero_point)} zero points")
    zero_point = torch.tensor(saved.zero_point, dtype=torch.int32, device=device)
    shape = (1,) if saved.axis is None else (1, len(saved.step))
    quantizer.set_steps((saved.bits,), step.reshape(shape), zero_point.reshape(shape))
    quantizer.set_bits(saved.bits)
    return quantizer


def _save_shares(quantizer: ShareQuantizer) -> SavedQuantizer:
    step: list[float] = [] if quantizer.bits == FLOAT_BITS else quantizer.steps_of(quantizer.bits).tolist()
    return SavedQuantizer(quantizer.levels, quantizer.bits, False, None, tuple(step), ())


def _load_shares(saved: SavedQuantizer, where: str, device: torch.device) -> ShareQuantizer:
    quantizer = ShareQuantizer(cast(ShareLevels, saved.kind))
    if saved.bits == FLOAT_BITS:
        return quantizer
    step = _steps(saved, where, device)
    levels = 2**saved.bits - 1 if saved.kind == "nonuniform" else 1
    if len(step) != levels or saved.zero_point:
        raise FormatError(f"[load] {where} has {len(step)} steps and {len(saved.zero_point)} zero points")
    quantizer.set_steps((saved.bits,), [step])
    quantizer.set_bits(saved.bits)
    return quantizer


def _steps(saved: SavedQuantizer, where: str, device: torch.device) -> Tensor:
    step = torch.tensor(saved.step, dtype=torch.float32, device=device)
    # What float32 holds is compared, and not what was written: 1e-60 becomes 0.
    if not all(math.isfinite(each) and each > 0 for each in step.tolist()):
        raise FormatError(f"[load] {where} has steps that are not positive and finite")
    return step


KINDS = {
    "uniform": Kind(FakeQuantizer, _save_uniform, _load_uniform),
    "nonuniform": Kind(ShareQuantizer, _save_shares, _load_shares),
    "log_sqrt2": Kind(ShareQuantizer, _save_shares, _load_shares),
}
