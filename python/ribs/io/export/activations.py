"""Quantizers of activations in ONNX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ribs.io.errors import ExportError
from ribs.io.export.sites import Activations, bisected
from ribs.io.export.writer import Writer
from ribs.quant.quantizer import FakeQuantizer, Quantizer, ShareQuantizer, code_range

CODES = 256  # of uint8, the type that integer kernels read


@dataclass(frozen=True)
class Cut:
    """Where the rounding of a quantizer is done, in the file.

    entering: what is rounded.  rounded: the result: codes, uint8, each `offset` above that of the quantizer; or values.
    """

    site: Activations
    entering: str
    rounded: str
    offset: int | None = None


def write_activations(writer: Writer, site: Activations, entering: str, output: str, *, as_codes: bool = True) -> Cut:
    """Write a quantizer. as_codes: as integers, where these can be.

    Raises: ExportError for one of a kind that is not known here.
    """
    quantizer = site.quantizer
    if type(quantizer) is FakeQuantizer:
        offset = _offset(quantizer) if as_codes else None
        if offset is not None:
            return _write_codes(writer, site, entering, output, offset)
        return _write_values(writer, site, entering, output)
    if type(quantizer) is ShareQuantizer:
        return _write_levels(writer, site, entering, output)
    raise ExportError(f"[export_onnx] {site.name!r} has a quantizer of type {type(quantizer).__name__}; ONNX has none")


def has_codes(quantizer: Quantizer) -> bool:
    """Whether a quantizer is written as integers."""
    return type(quantizer) is FakeQuantizer and _offset(quantizer) is not None


def _offset(quantizer: FakeQuantizer) -> int | None:
    """What makes codes and zero points uint8; None where that cannot be, or no integer kernel could read them.

    It cannot where a zero point is far from the codes. Of activations with steps by channel onnxruntime makes a
    product of integers that it then refuses to run.
    """
    if not quantizer.is_per_tensor:
        return None
    zero_point = quantizer.present[1]
    low, high = code_range(quantizer.bits, quantizer.symmetric)
    least, most = min(low, int(zero_point.min())), max(high, int(zero_point.max()))
    if most - least >= CODES:
        return None
    return 0 if least >= 0 and most < CODES else -least


def _write_codes(writer: Writer, site: Activations, entering: str, output: str, offset: int) -> Cut:
    """QuantizeLinear, Clip, DequantizeLinear: the operators that runtimes make integer kernels of."""
    quantizer, name = site.quantizer, site.name
    assert isinstance(quantizer, FakeQuantizer)
    step, zero_point = (each.detach().cpu().numpy() for each in quantizer.present)
    scale = writer.constant(f"{name}/step", step)
    zero = writer.constant(f"{name}/zero_point", (zero_point + offset).astype(np.uint8))
    codes = writer.add("QuantizeLinear", [entering, scale, zero], f"{name}/codes")
    low, high = (each + offset for each in code_range(quantizer.bits, quantizer.symmetric))
    if (low, high) != (0, CODES - 1):
        bounds = [writer.constant(f"codes/{each}", np.uint8(each)) for each in (low, high)]
        codes = writer.add("Clip", [codes, *bounds], f"{name}/clipped")
    writer.add("DequantizeLinear", [codes, scale, zero], output)
    return Cut(site, entering, codes, offset)


def _write_values(writer: Writer, site: Activations, entering: str, output: str) -> Cut:
    """The same in float."""
    quantizer, name = site.quantizer, site.name
    assert isinstance(quantizer, FakeQuantizer)
    step, zero_point = (each.detach().cpu().numpy() for each in quantizer.present)
    low, high = code_range(quantizer.bits, quantizer.symmetric)
    shape = (-1, *([1] * (-1 - quantizer.axis))) if quantizer.axis is not None else ()
    constants = {
        "step": step.reshape(shape),
        "low": (low - zero_point).astype(np.float32).reshape(shape),
        "high": (high - zero_point).astype(np.float32).reshape(shape),
    }
    scale, least, most = (writer.constant(f"{name}/{key}", value) for key, value in constants.items())
    found = writer.add("Div", [entering, scale], f"{name}/relative")
    found = writer.add("Round", [found], f"{name}/rounded")
    found = writer.add("Max", [found, least], f"{name}/above")
    found = writer.add("Min", [found, most], f"{name}/between")
    writer.add("Mul", [found, scale], output)
    return Cut(site, entering, output)


def _write_levels(writer: Writer, site: Activations, entering: str, output: str) -> Cut:
    """Levels at unequal distances, found by bisection among the thresholds between them."""
    quantizer, name = site.quantizer, site.name
    assert isinstance(quantizer, ShareQuantizer)
    levels, least = (each.numpy() for each in bisected(quantizer))
    table = writer.constant(f"{name}/thresholds", least)
    found = ""
    for number in reversed(range(len(levels).bit_length() - 1)):
        part = writer.constant(f"levels/{1 << number}", np.int32(1 << number))
        tried = writer.add("Add", [found, part], f"{name}/tried{number}") if found else part
        bound = writer.add("Gather", [table, tried], f"{name}/least{number}")
        reached = writer.add("GreaterOrEqual", [entering, bound], f"{name}/reached{number}")
        step = writer.add("Where", [reached, part, writer.constant("levels/0", np.int32(0))], f"{name}/step{number}")
        found = writer.add("Add", [found, step], f"{name}/level{number}") if found else step
    writer.add("Gather", [writer.constant(f"{name}/levels", levels), found], output)
    return Cut(site, entering, output)
