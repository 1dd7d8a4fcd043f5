"""`Result.export_pt2`."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ribs.io.errors import ExportError
from ribs.io.export.sites import Site, Weights, bisected, capture, with_sites
from ribs.io.export.versions import TORCH, check_versions
from ribs.io.folder import check_file
from ribs.ops import twin
from ribs.quant.copies import copy_model
from ribs.quant.inputs import as_inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FakeQuantizer, ShareQuantizer, code_range
from ribs.quant.tree import tensors
from ribs.select.files import write_file
from ribs.select.result import Result


def export_pt2(result: Result, path: str | os.PathLike[str], batch: Any) -> None:
    """`Result.export_pt2`."""
    check_versions("export_pt2", TORCH)
    path = Path(path)
    check_file("export_pt2", path)
    inputs = as_inputs(result.model, batch).to("cpu")
    network = with_sites(result.model, _stand_in)
    _drop_float_weights(result, network)
    content = _content(capture(network, inputs))
    loaded = torch.export.load(io.BytesIO(content)).module()
    with torch.no_grad():
        expected = tensors(inputs.call(copy_model(result.model)[0].cpu()))
        found = tensors(inputs.call(loaded))
    if not all(map(torch.equal, found, expected)):
        raise ExportError("[export_pt2] the exported program does not give the outputs of the network, to the last bit")
    write_file(path, content)


class _Codes(nn.Module):
    """Weights from their integers, in the place of float ones."""

    codes: Tensor
    step: Tensor
    learns = True  # so that layers keep nothing of what it gives

    def __init__(self, site: Weights) -> None:
        super().__init__()
        dims = range(site.codes.dim())
        shape = [] if site.axis is None else [-1 if dim == site.axis % len(dims) else 1 for dim in dims]
        self.register_buffer("codes", site.codes)
        self.register_buffer("step", site.step.reshape(shape).clone())  # and not a part of those of all bits

    def forward(self, weight: Tensor) -> Tensor:
        return self.codes.to(self.step.dtype) * self.step


class _Uniform(nn.Module):
    """The codes of activations in operators of torch alone."""

    step: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__()
        step, zero_point = quantizer.present
        self.register_buffer("step", step.detach().cpu().clone())
        self.register_buffer("zero_point", zero_point.cpu().clone())
        self.range = code_range(quantizer.bits, quantizer.symmetric)
        self.axis = quantizer.axis

    def forward(self, x: Tensor) -> Tensor:
        return twin.fake_quantize(x, self.step, self.zero_point, *self.range, self.axis)


class _Levels(nn.Module):
    """Levels at unequal distances, found by bisection: ExecuTorch lacks `torch.bucketize`."""

    levels: Tensor
    least: Tensor

    def __init__(self, quantizer: ShareQuantizer) -> None:
        super().__init__()
        levels, least = bisected(quantizer)
        self.register_buffer("levels", levels)
        self.register_buffer("least", least)

    def forward(self, x: Tensor) -> Tensor:
        found, part = torch.zeros_like(x, dtype=torch.int64), len(self.levels)
        while part := part // 2:
            found = torch.where(x >= self.least[found + part], found + part, found)
        return torch.where(x.isnan(), x, self.levels[found])


def _stand_in(path: str, site: Site) -> nn.Module:
    if isinstance(site, Weights):
        return _Codes(site)
    if type(site.quantizer) is FakeQuantizer:
        return _Uniform(site.quantizer)
    if type(site.quantizer) is ShareQuantizer:
        return _Levels(site.quantizer)
    raise ExportError(f"[export_pt2] {site.name!r} has a quantizer of type {type(site.quantizer).__name__}")


def _drop_float_weights(result: Result, network: nn.Module) -> None:
    """Leave out weights that nothing but the quantizer reads: graphs hold all parameters that there are."""
    seen = result.costs.trace
    for name, module in network.named_modules():
        # The shapes of weights in other forwards are looked at.
        if isinstance(module, QuantizedLayer) and isinstance(module.weight_quantizer, _Codes) and module.plain:
            assert module.layer is not None
            if module.has_own_weight and set(seen.sources[name]).isdisjoint(seen.otherwise):
                module.layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def _content(program: ExportedProgram) -> bytes:
    """The file, without stack traces and with them the paths of the machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
        node.meta.pop("nn_module_stack", None)
        node.meta.pop("source_fn_stack", None)
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()
