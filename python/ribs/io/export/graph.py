"""The ONNX graph of a quantized network."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

import ribs
from ribs.io.errors import ExportError
from ribs.io.export.activations import Cut, has_codes, write_activations
from ribs.io.export.sites import Activations, Form, Site, Weights, capture, find_sites, with_sites
from ribs.io.export.weights import stored_step, write_weights
from ribs.io.export.writer import Writer
from ribs.quant.inputs import Inputs
from ribs.quant.quantizer import FakeQuantizer

OPSET = 21  # the first with INT4
IR_VERSIONS = {21: 10, 25: 13}  # the first of the file format that has the same types
DOMAIN = "ribs"
MERGED = ("Conv", "Gemm", "Relu", "Clip")  # by onnxruntime, into one product of integers
COARSE = 1 / 64  # of a step


@dataclass(frozen=True)
class Marked:
    """A network as ONNX with marks in the places of its quantizers, whatever their bits.

    inputs: the names of the model's inputs, in the order of the tensors of `Inputs`.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Exported(Marked):
    """The same in standard operators.

    codes: by the path of the quantizer of weights, these and the value in the graph that is their integers.
    cuts: by the path of the quantizer of activations, where it rounds.
    integer: the paths of the quantizers of those weights that runtimes may multiply as integers.
    """

    codes: dict[str, tuple[Weights, str]]
    cuts: dict[str, Cut]
    integer: frozenset[str]

    @property
    def samples(self) -> int | None:
        """How many samples it takes at once; None for any number."""
        first = self.model.graph.input[0].type.tensor_type.shape.dim[0]
        return int(first.dim_value) if first.HasField("dim_value") else None


class _Mark(nn.Module):
    """Stands for a quantizer in the graph that torch.onnx makes."""

    learns = True  # so that layers keep nothing of what it gives

    def __init__(self, path: str, site: Site) -> None:
        super().__init__()
        self.kind = "Weights" if isinstance(site, Weights) else "Activations"
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        marked: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.kind}", (x,), {"path": self.path}, dtype=x.dtype, shape=x.shape, version=1
        )
        return marked


def mark(network: nn.Module, inputs: Inputs) -> Marked:
    """The network as torch.onnx has it.

    Raises: ExportError for one that torch.export cannot follow or torch.onnx has no operators for.
    """
    program = capture(with_sites(network, _Mark), inputs)
    parameters = inspect.signature(network.forward).parameters
    names = _names(dict(zip(parameters, inputs.args, strict=False)) | dict(inputs.kwargs))
    with torch.no_grad():
        outputs = _names(inputs.head(1).to(next(network.parameters()).device).call(network))
    try:
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(outputs),
            verbose=False,
        )
        assert made is not None
        return Marked(made.model_proto, names)
    except Exception as error:
        raise ExportError(f"[export_onnx] torch.onnx cannot export the network: {error}") from error


def write(marked: Marked, network: nn.Module, form: Form) -> Exported:
    """Put the network's quantizers at their present bits, as standard operators, in the places of the marks.

    Raises: ExportError for a quantizer that has no ONNX.
    """
    model = onnx.ModelProto()
    model.CopyFrom(marked.model)
    codes, cuts, integer = _expand(model.graph, find_sites(network), form)
    prune(model.graph)
    _strip(model)
    # Later versions have more types, and operators of 21 mean the same in them.
    model.opset_import[0].version, model.ir_version = form.opset, IR_VERSIONS[form.opset]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ExportError(f"[export_onnx] the file would not be valid ONNX: {error}") from error
    return Exported(model, marked.inputs, codes, cuts, integer)


def _names(tree: Any) -> tuple[str, ...]:
    """A name for each tensor: its keys and places in what holds it, or "output" for one that nothing holds."""
    found = [path for path, leaf in tree_flatten_with_path(tree)[0] if isinstance(leaf, Tensor)]
    paths = [[str(getattr(key, "key", getattr(key, "idx", key))) for key in path] for path in found]
    return tuple("_".join(path) or "output" for path in paths)


def _expand(
    graph: onnx.GraphProto, sites: Mapping[str, Site], form: Form
) -> tuple[dict[str, tuple[Weights, str]], dict[str, Cut], frozenset[str]]:
    """Put standard operators in the places of the marks."""
    writer, readers = Writer(), _readers(graph)
    integer = _integer(graph, readers, sites)
    codes: dict[str, tuple[Weights, str]] = {}
    cuts: dict[str, Cut] = {}
    made: dict[str, str] = {}  # what quantizers give
    turned: set[str] = set()  # transposes that are done on integers
    for node in graph.node:
        if node.output[0] in turned:
            continue
        if node.domain != DOMAIN:
            writer.nodes.append(node)
            continue
        path = _path(node)
        site = sites[path]
        if isinstance(site, Activations) and path in cuts:  # of a sum that reads what a layer reads
            writer.add("Identity", [made[path]], node.output[0])
            continue
        if isinstance(site, Activations):
            made[path] = node.output[0]
            as_codes = site.weights is None or site.weights in integer
            cuts[path] = write_activations(writer, site, node.input[0], node.output[0], as_codes=as_codes)
            continue
        output, axes = node.output[0], None
        reader, *others = readers[output]
        if not others and reader.op_type == "Transpose":
            # Kernels of integers are only found where nothing is between the steps and the product.
            output, axes = reader.output[0], list(reader.attribute[0].ints)
            turned.add(output)
        if path in codes:  # of a layer that runs again
            writer.add("Identity", [made[path]], output)
            continue
        made[path] = output
        codes[path] = site, write_weights(writer, site, output, form, axes=axes, integer=path in integer)
    if missing := sites.keys() - codes.keys() - cuts.keys():
        raise ExportError(f"[export_onnx] {min(missing)!r} is not in the graph that torch.onnx made")
    del graph.node[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.constants.values())
    return codes, cuts, integer


def _path(mark: onnx.NodeProto) -> str:
    return str(mark.attribute[0].s.decode())


def _integer(
    graph: onnx.GraphProto, readers: Mapping[str, list[onnx.NodeProto]], sites: Mapping[str, Site]
) -> frozenset[str]:
    """The weights that runtimes may multiply as integers: none whose bias they would round by much.

    All other layers are written in float, weights and input alike: between a DequantizeLinear and a QuantizeLinear
    onnxruntime rounds float weights to 8 bits on its own.
    """
    inputs: dict[str, list[Activations]] = defaultdict(list)
    for each in sites.values():
        if isinstance(each, Activations) and each.weights is not None:
            inputs[each.weights].append(each)
    found: set[str] = set()
    for node in graph.node:
        site = sites[_path(node)] if node.domain == DOMAIN else None
        if isinstance(site, Weights):
            calls = [_codes_of(call) for call in inputs[_path(node)]]
            coarse = [call is None or _rounds_bias_coarsely(call, site, node, readers, sites) for call in calls]
            found |= {_path(node)} if calls and not any(coarse) else set()
    return frozenset(found)


def _codes_of(site: Site | None) -> FakeQuantizer | None:
    """The quantizer of activations that are written as integers."""
    quantizer = site.quantizer if isinstance(site, Activations) else None
    return quantizer if isinstance(quantizer, FakeQuantizer) and has_codes(quantizer) else None


def _rounds_bias_coarsely(
    inputs: FakeQuantizer,
    site: Weights,
    node: onnx.NodeProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    sites: Mapping[str, Site],
) -> bool:
    """Whether a product of integers would round its bias by much of the step of the quantizer that reads the result.

    A bias becomes a multiple of the product of both steps, which in some channels of depthwise convolutions is large.
    """
    error = float((inputs.present[0] * stored_step(site).max()) / 2)
    while len(reading := readers[node.output[0]]) == 1:  # elsewhere the product is not merged with a quantizer
        [node] = reading
        if node.domain == DOMAIN:
            after = _codes_of(sites[_path(node)])
            return after is not None and error > COARSE * float(after.present[0])
        if node.op_type not in MERGED:
            break
    return False


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each value; the model itself reads its outputs, which counts as one that is no node."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            found[name].append(node)
    for output in graph.output:
        found[output.name].append(onnx.NodeProto())
    return found


def prune(graph: onnx.GraphProto) -> None:
    """Leave out what nothing reads: float weights, and what they were computed from."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(node.input)
        wanted.update(name for attribute in node.attribute for name in _outer(attribute.g))
    tensors = [each for each in graph.initializer if each.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)


def _outer(graph: onnx.GraphProto) -> set[str]:
    """All names that a graph within a node reads."""
    names = {name for node in graph.node for name in node.input}
    return names | {each.name for each in graph.output}


def _strip_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for each in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
    for attribute in [attribute for node in graph.node for attribute in node.attribute]:
        if attribute.HasField("g"):
            _strip_graph(attribute.g)


def _strip(model: onnx.ModelProto) -> None:
    """Leave nothing of where the model was made: stack traces, paths, names of Python functions."""
    model.producer_name, model.producer_version, model.doc_string = "ribs", ribs.__version__, ""
    model.graph.name = "network"
    del model.metadata_props[:]
    _strip_graph(model.graph)
    opsets = [each for each in model.opset_import if each.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
