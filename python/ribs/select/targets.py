"""The bits that runtimes honour."""

from __future__ import annotations

from ribs.quant.network import Bits
from ribs.quant.quantizer import FLOAT_BITS

ANY = range(1, 9)
TWO_UP = range(2, 9)

# Weight bits and activation bits. On mainstream runtimes bits other than 4 and 8 save storage and memory traffic,
# but no time: they run as 8-bit integers.
TARGETS: dict[str, tuple[range | tuple[int, ...], range | tuple[int, ...]]] = {
    # ONNX QuantizeLinear, Clip, DequantizeLinear (the QCDQ convention of Brevitas); weights in INT4/INT8 or packed.
    "onnxruntime": (TWO_UP, TWO_UP),
    # The same files, through OpenVINO's ONNX front end.
    "openvino": (TWO_UP, TWO_UP),
    # XNNPACK: any bits in an int8 container; storage shrinks at 8 bits, and for linear layers at 4.
    "executorch": (TWO_UP, TWO_UP),
    # NVIDIA's documentation, "Working with quantized types": products of INT8; INT4 is for weights alone.
    "tensorrt": ((8,), (8,)),
    # google-ai-edge/ai-edge-quantizer: INT4 and INT8 weights, INT8 activations.
    "litert": ((4, 8), (8,)),
    # apple.github.io/coremltools, palettization: 1, 2, 3, 4, 6 and 8 bits; activations int8.
    "coreml": ((1, 2, 3, 4, 6, 8), (8,)),
    # Sony's Model Compression Toolkit, target platform capabilities of IMX500.
    "imx500": ((2, 4, 8), (8,)),
    # FINN and hls4ml build the arithmetic for the bits.
    "qonnx": (ANY, ANY),
}


def find_target(name: str) -> tuple[frozenset[int], frozenset[int]]:
    """The weight bits and the activation bits that a runtime honours.

    Raises: ValueError for a runtime that is not known.
    """
    if name not in TARGETS:
        raise ValueError(f"[ribs] target={name!r} is not known; give one of {list(TARGETS)}")
    weights, activations = TARGETS[name]
    return frozenset(weights), frozenset(activations)


def honoured(pair: Bits, target: str) -> bool:
    """Whether a runtime honours (weight bits, activation bits); float it does."""
    weights, activations = find_target(target)
    return pair == (FLOAT_BITS, FLOAT_BITS) or (pair[0] in weights and pair[1] in activations)
