"""Steps and zero points for tools that read AIMET's encodings, such as Qualcomm's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ribs.io.quantizers import save_quantizer
from ribs.io.tensors import quantized_layers
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FLOAT_BITS, Quantizer, code_range
from ribs.select.files import write_file
from ribs.select.result import Result

VERSION = "1.0.0"


def encodings(result: Result) -> dict[str, Any]:
    """The quantizers of a result in AIMET's format of encodings, version 1.0.0, as plain values for JSON.

    A value is (code + offset) x scale for codes from 0 to 2^bw - 1; so offset is minus the zero point, and for
    symmetric codes -2^(bw - 1). Weights are named `layer.weight`, those of no layer by the name of their unit;
    activations `layer.input`, of a matmul `layer.left` and `layer.right`, and from the second call on `layer.input.1`
    and so on. By recipe="residual" the sums that read what a layer reads have its `layer.input`. Tools that name
    activations by the tensors of a graph need these names changed.
    Raises: TypeError for quantizers that are not uniform.
    """
    parameters, activations = [], []
    for name, layer in quantized_layers(result.model, result.costs.trace).items():
        if isinstance(layer, QuantizedLayer):
            parameters.append(_encoding(name if layer.layer is None else _join(name, "weight"), layer.weight_quantizer))
        operands = ("input",) if isinstance(layer, QuantizedLayer) else ("left", "right")
        for number, quantizer in enumerate(layer.activation_quantizers):
            call, operand = divmod(number, len(operands))
            place = operands[operand] if call == 0 else f"{operands[operand]}.{call}"
            activations.append(_encoding(_join(name, place), quantizer))
    return {
        "version": VERSION,
        "activation_encodings": activations,
        "param_encodings": parameters,
        "excluded_layers": [],
    }


def save_encodings(result: Result, path: str | os.PathLike[str]) -> None:
    """Write the `encodings` of a result as JSON. Raises: as `encodings`; OSError, and then no file is changed."""
    write_file(Path(path), (json.dumps(encodings(result), indent=1) + "\n").encode())


def _encoding(name: str, quantizer: Quantizer) -> dict[str, Any]:
    if quantizer.bits == FLOAT_BITS:
        return {"name": name, "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": FLOAT_BITS}
    saved = save_quantizer(quantizer)
    if saved.kind != "uniform":
        raise TypeError(f"[encodings] {name!r} is quantized to levels that are not uniform, which have no encoding")
    least, _ = code_range(saved.bits, saved.symmetric)
    return {
        "name": name,
        "enc_type": "PER_TENSOR" if saved.axis is None else "PER_CHANNEL",
        "dtype": "INT",
        "bw": saved.bits,
        "is_sym": saved.symmetric,
        "scale": list(saved.step),
        "offset": [least - zero_point for zero_point in saved.zero_point],
    }


def _join(name: str, place: str) -> str:
    return f"{name}.{place}" if name else place
