"""Whether an ONNX model computes what the network computes: its integers, each part by itself, and the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import onnx
import torch
from torch import Tensor, nn

from ribs.io.errors import ExportError
from ribs.io.export.activations import Cut
from ribs.io.export.graph import Exported, prune
from ribs.io.export.noise import ROUNDING, largest_difference, noise_floor
from ribs.io.export.runtime import Session, integer_kernels
from ribs.io.export.weights import shift
from ribs.quant.copies import copy_model
from ribs.quant.inputs import Inputs
from ribs.quant.quantizer import FakeQuantizer
from ribs.quant.tree import tensors
from ribs.select.exported import Verified

SAMPLES = 16  # that are compared
MOVED = 0.03  # the part of codes that may be one off where the runtime multiplies integers and rounds biases


@torch.no_grad()
def verify(exported: Exported, network: nn.Module, inputs: Inputs) -> Verified:
    """Run the model in onnxruntime beside the network, on up to 16 samples.

    Raises: ExportError for a model that does not give what the network gives.
    """
    network, inputs = copy_model(network)[0].cpu().eval(), inputs.to("cpu").head(exported.samples or SAMPLES)
    entering, outputs = _watch(network, exported.cuts, inputs)
    feeds = dict(zip(exported.inputs, inputs.tensors, strict=True))
    _check_quantizers(exported, feeds, entering)
    rounded = {cut.rounded: _rounded(cut, entering[path]) for path, cut in exported.cuts.items()}
    part = _check_parts(exported, feeds, entering, rounded, outputs)
    moved = _check_optimised(exported, feeds, rounded)
    exact = largest_difference(Session(exported.model, optimise=False).run(feeds), outputs)
    exact_floor = noise_floor(network, inputs, outputs)
    _check_whole("", exact, exact_floor, outputs)
    optimised = largest_difference(Session(exported.model, optimise=True).run(feeds), outputs)
    optimised_floor = noise_floor(network, inputs, outputs, exported.integer)
    _check_whole(", where the runtime optimises it,", optimised, optimised_floor, outputs)
    kernels = integer_kernels(exported.model)
    return Verified(inputs.samples, part, moved, exact, exact_floor, optimised, optimised_floor, kernels)


def _watch(network: nn.Module, cuts: Mapping[str, Cut], inputs: Inputs) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What enters each quantizer of the network, and what the network gives."""
    entering: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            entering[path] = args[0].clone()

        return hook

    with ExitStack() as stack:
        for path in cuts:
            stack.enter_context(network.get_submodule(path).register_forward_pre_hook(keep(path)))
        outputs = tensors(inputs.call(network))
    return entering, outputs


def _rounded(cut: Cut, x: Tensor) -> Tensor:
    """What the network's quantizer makes of x, as the file has it."""
    quantizer = cut.site.quantizer
    x = x.to(next(quantizer.buffers()).device)
    if cut.offset is None:
        return quantizer.rounded(x).cpu()
    assert isinstance(quantizer, FakeQuantizer)
    return (quantizer.codes(x).cpu().to(torch.int16) + cut.offset).to(torch.uint8)


def _check_quantizers(exported: Exported, feeds: Mapping[str, Tensor], entering: Mapping[str, Tensor]) -> None:
    """Given the same values, within and beyond its range, each quantizer gives the same, to the last bit."""
    values = {path: torch.cat([x[:2], 4 * x[:2], -x[:2]]) for path, x in entering.items()}
    paths = {(cut.site.name, cut.entering): path for path, cut in exported.cuts.items()}

    def reads(node: onnx.NodeProto, name: str) -> str | None:
        return paths.get((node.name.rpartition("/")[0], name))

    expected = {cut.rounded: _rounded(cut, values[path]) for path, cut in exported.cuts.items()}
    kinds = {name: _type(value) for name, value in expected.items()}
    found = _run(exported, feeds, values, reads, kinds, optimise=False)
    for cut in exported.cuts.values():
        if not torch.equal(found[cut.rounded], expected[cut.rounded]):
            raise ExportError(f"[export_onnx] in the file {cut.site.name!r} rounds to other values than in the network")


def _check_parts(
    exported: Exported,
    feeds: Mapping[str, Tensor],
    entering: Mapping[str, Tensor],
    rounded: Mapping[str, Tensor],
    outputs: list[Tensor],
) -> float:
    """Every integer of the weights, and what each part makes of what the network's quantizers give.

    Returns: the largest difference, relative to the largest value there.
    """
    names = [output.name for output in exported.model.graph.output]
    wanted = dict(zip(names, outputs, strict=True))
    wanted |= {cut.entering: entering[path] for path, cut in exported.cuts.items() if cut.entering not in feeds}
    kinds = {name: _type(value) for name, value in wanted.items()}
    kinds |= {name: onnx.TensorProto.INT8 for _, name in exported.codes.values()}
    found = _run(exported, feeds, rounded, lambda node, name: name, kinds, optimise=False)
    for site, name in exported.codes.values():
        if not torch.equal(found[name], site.codes << shift(site.bits)):
            raise ExportError(f"[export_onnx] the integers of {site.name!r} in the file are not those of the network")
    worst = 0.0
    for name, value in wanted.items():
        difference = largest_difference([found[name]], [value]) / (float(value.abs().max()) or 1.0)
        if not difference <= ROUNDING:
            raise ExportError(
                f"[export_onnx] given the same input, the part of the file that computes {name!r} differs from the "
                f"network by {difference:.3g} of its largest value; rounding explains {ROUNDING:g}"
            )
        worst = max(worst, difference)
    return worst


def _check_optimised(exported: Exported, feeds: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> float:
    """The codes that each part gives as the runtime optimises it: the largest share that is one off."""
    kinds = {name: _type(value) for name, value in rounded.items()}
    found = _run(exported, feeds, rounded, lambda node, name: name, kinds, optimise=True)
    worst = 0.0
    for cut in exported.cuts.values():
        value, expected = found[cut.rounded], rounded[cut.rounded]
        other = (value != expected).double()
        far = cut.offset is not None and largest_difference([value], [expected]) > 1
        if far or float(other.sum()) > 1 + MOVED * other.numel():
            raise ExportError(
                f"[export_onnx] where the runtime optimises the file, {float(other.mean()):.2%} of what enters "
                f"{cut.site.name!r} is rounded to other codes than in the network; rounding explains {MOVED:.0%}, by 1"
            )
        worst = max(worst, float(other.mean()))
    return worst


def _check_whole(where: str, difference: float, floor: float, outputs: list[Tensor]) -> None:
    scale = max(float(each.abs().max()) for each in outputs)
    if not difference <= 2 * floor + ROUNDING * scale:
        raise ExportError(
            f"[export_onnx] the outputs of the file{where} differ from those of the network by {difference:.3g}, and "
            f"noise of the size of rounding moves these by no more than {floor:.3g}"
        )


def _type(value: Tensor) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(value.numpy().dtype))


def _run(
    exported: Exported,
    feeds: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    reads: Callable[[onnx.NodeProto, str], str | None],
    kinds: Mapping[str, int],
    *,
    optimise: bool,
) -> dict[str, Tensor]:
    """Values of the model where nodes read what is given, in the place of what it computes.

    reads: f(node, value), the name in `given` of what a node reads in the place of a value, if it is there.
    kinds: the types of the values.
    """
    if not kinds:
        return {}
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if reads(node, name) in given:
                node.input[place] = f"given/{reads(node, name)}"
    value_info = onnx.helper.make_tensor_value_info
    for name, value in given.items():
        model.graph.input.append(value_info(f"given/{name}", _type(value), None))
    del model.graph.output[:]
    model.graph.output.extend(value_info(name, kind, None) for name, kind in kinds.items())
    prune(model.graph)  # onnxruntime would compute all there is
    found = Session(model, optimise).run({**feeds, **{f"given/{name}": value for name, value in given.items()}})
    return dict(zip(kinds, found, strict=True))
