"""The content of an ONNX file, verified. With this module onnx and onnxruntime are imported."""

from __future__ import annotations

from torch import nn

from ribs.io.errors import ExportError
from ribs.io.export.graph import mark, write
from ribs.io.export.sites import Form
from ribs.io.export.verify import verify
from ribs.io.export.weights import payload
from ribs.quant.inputs import Inputs
from ribs.select.exported import OnnxExport


def make(network: nn.Module, inputs: Inputs, form: Form) -> tuple[bytes, OnnxExport]:
    """The file of a quantized network and what is known of it.

    Raises: ExportError for a network that cannot be exported, or whose file does not compute what it computes.
    """
    exported = write(mark(network, inputs), network, form)
    try:
        content = exported.model.SerializeToString()
    except ValueError as error:
        raise ExportError(f"[export_onnx] the file would be larger than ONNX lets files be: {error}") from None
    weights = payload([site for site, _ in exported.codes.values()], form)
    return content, OnnxExport(len(content), weights, exported.samples, verify(exported, network, inputs))
