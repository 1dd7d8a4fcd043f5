"""ONNX nodes and constants, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]


class Writer:
    """What a graph is made of, in the order in which it is computed."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Write a node of standard ONNX that gives `output`."""
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Write a constant; one that has been written before is the same."""
        if name not in self.constants:
            self.constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def packed(self, name: str, kind: int, shape: tuple[int, ...], content: bytes) -> str:
        """Write a constant of a type that numpy lacks."""
        self.constants[name] = onnx.TensorProto(name=name, data_type=kind, dims=shape, raw_data=content)
        return name
