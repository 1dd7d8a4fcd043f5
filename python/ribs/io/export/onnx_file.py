"""`Result.export_onnx`."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from ribs.io.export.sites import Form, Packing
from ribs.io.export.versions import ONNX, check_versions
from ribs.io.folder import check_file
from ribs.quant.inputs import as_inputs
from ribs.select.exported import OnnxExport
from ribs.select.files import write_file
from ribs.select.result import Result


def export_onnx(
    result: Result, path: str | os.PathLike[str], batch: Any, packing: Packing = "packed", opset: int = 21
) -> OnnxExport:
    """`Result.export_onnx`."""
    if packing not in get_args(Packing):
        raise ValueError(f'[export_onnx] packing={packing!r} is not supported; give "packed" or "native"')
    if (packing, opset) not in ONNX:
        raise ValueError(f"[export_onnx] opset={opset!r} is not supported; give 21 or 25")
    path = Path(path)
    check_file("export_onnx", path)
    check_versions("export_onnx", ONNX[packing, opset])
    make = import_module("ribs.io.export.onnx_content").make  # which imports what may not be there
    content, found = make(result.model, as_inputs(result.model, batch), Form(packing, opset))
    write_file(path, content)
    exported: OnnxExport = found
    return exported
