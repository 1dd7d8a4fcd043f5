"""onnxruntime, as far as an export needs it, and the versions that an export needs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from ribs.io.errors import ExportError

INTEGER_KERNELS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"})


class Session:
    """A model, ready to run on the CPU. optimise: as onnxruntime does by default; otherwise as the file says."""

    def __init__(self, model: onnx.ModelProto, optimise: bool) -> None:
        self._session = _session(model, _options(optimise))

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """All outputs, of all inputs by name. Raises: ExportError where onnxruntime cannot run the model."""
        try:
            found = self._session.run(None, {name: each.numpy() for name, each in feeds.items()})
        except Exception as error:
            raise _refused(error) from error
        return [torch.from_numpy(each) for each in found]


def integer_kernels(model: onnx.ModelProto) -> dict[str, int]:
    """How many operators on integers of each kind onnxruntime makes of the products of a model."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options(optimise=True)
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        _session(model, options)
        optimised = onnx.load(options.optimized_model_filepath)
    kinds = Counter(node.op_type for node in optimised.graph.node)
    return {kind: kinds[kind] for kind in sorted(INTEGER_KERNELS & kinds.keys())}


def _session(model: onnx.ModelProto, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> ExportError:
    return ExportError(f"[export_onnx] onnxruntime {onnxruntime.__version__} cannot run the file: {error}")


def _options(optimise: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return options
