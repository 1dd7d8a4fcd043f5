"""A quantized copy of a float network, with its layers, its units and one way to choose their bits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from ribs import ops
from ribs.quant.fold import fold_batch_norms
from ribs.quant.inputs import Inputs
from ribs.quant.integer import FORM, IntegerProduct, check_device, supports
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul, Repeats, redirect
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, PooledSteps, StepAverage
from ribs.quant.trace import Trace, trace
from ribs.quant.units import Unit, UnitScheme, find_units
from ribs.quant.weights import Room

Bits = tuple[int, int]  # (weight bits, activation bits)


@dataclass(frozen=True)
class QuantizedNetwork:
    """The private copy that ribs works on; the caller's model is never touched.

    model: the copy, with batch norm folded and quantized layers in place.
    trace: what one forward of the float model showed.
    units: groups of layers that share their bits.
    repeats: numbers the calls of layers that run several times in a pass.
    """

    model: nn.Module
    trace: Trace
    units: tuple[Unit, ...]
    repeats: Repeats = field(default_factory=Repeats)

    def set_bits(self, unit: Unit, bits: Bits) -> None:
        """Choose the (weight, activation) bits of every layer of one unit; 32 means float."""
        for name in unit.layers:
            layer = self.model.get_submodule(name)
            assert isinstance(layer, (QuantizedLayer, QuantizedMatmul))
            layer.set_bits(*bits)

    def configure(self, configuration: Mapping[str, Bits]) -> None:
        """Choose the bits of every unit: {unit name: (weight bits, activation bits)}."""
        for unit in self.units:
            self.set_bits(unit, configuration[unit.name])

    @contextmanager
    def keep_weights(self, limit_bytes: int) -> Iterator[None]:
        """Keep the quantized weights of all bits that are used, up to a number of bytes, and release them at the end.

        Those of a layer's last bits are kept in any case, as they are outside. Beyond the limit weights are
        quantized again at each change of bits.
        Raises: ValueError for a limit that is not an int of at least 0.
        """
        if isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int) or limit_bytes < 0:
            raise ValueError(f"[keep_weights] limit_bytes={limit_bytes!r} is not supported; give an int of at least 0")
        room, layers = Room(limit_bytes), self._weighted()
        before = [layer.kept.room for layer in layers.values()]
        try:
            for layer in layers.values():
                layer.kept.room = room
            yield
        finally:
            for layer, old in zip(layers.values(), before, strict=True):
                layer.kept.leave(old, layer.weight_quantizer.bits)

    @contextmanager
    def integer_execution(self) -> Iterator[None]:
        """Run layers as products of 8-bit integers where gradients are not recorded: those of `integer_layers`.

        Sums are exact, where float32 rounds them: a result differs by such roundings, and they move a code of the
        next layer now and then. A layer whose input holds NaN runs in float. Channels-last inputs are faster.
        Raises: RuntimeError on a device that is no CPU, and on a CPU whose products of integers are not exact.
        """
        check_device(self.device)
        layers = self._weighted().values()
        before = [layer.integer for layer in layers]
        try:
            for layer in layers:
                layer.integer = _integer(layer)
            yield
        finally:
            for layer, old in zip(layers, before, strict=True):
                layer.integer = old
                if old is None:
                    layer.kept.drop(lambda bits, form: form.startswith(FORM))

    def integer_layers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the layers that `integer_execution` runs in integers at the present bits, and of the others.

        The others have more than 8 bits, or are not nn.Conv2d with zeros for padding or nn.Linear themselves.
        """
        weighted = self._weighted()
        ready = {name for name, layer in weighted.items() if (product := _integer(layer)) and product.ready}
        names = [name for unit in self.units for name in unit.layers]
        return tuple(name for name in names if name in ready), tuple(name for name in names if name not in ready)

    def _weighted(self) -> dict[str, QuantizedLayer]:
        """The layers with weights, by name."""
        modules = self.model.named_modules()
        return {name: module for name, module in modules if isinstance(module, QuantizedLayer)}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def _integer(layer: QuantizedLayer) -> IntegerProduct | None:
    """The layer as a product of integers, or None where there is no operator for it."""
    if not supports(layer.layer):
        return None
    return IntegerProduct(layer.layer, layer.weight_quantizer, layer.input_quantizer, layer.kept)


def prepare(model: nn.Module, inputs: Inputs, units: UnitScheme = "block") -> QuantizedNetwork:
    """A deep copy of the model, folded, with a quantized layer in the place of each Conv, Linear and matmul.

    inputs: any batch; one sample of it is used to see what runs.
    Raises: ValueError or TypeError for a model in training mode, parameters that are not finite float32 on one
        device, nothing to quantize, or layers that never run.
    """
    check_model(model)
    seen = trace(model, inputs)
    grouped = find_units(model, seen.layers, units)
    network = copy.deepcopy(model).requires_grad_(False)
    fold_batch_norms(network, seen.batch_norms)
    network, repeats = _with_quantizers(network, seen)
    if seen.unquantized:
        places = ", ".join(name or "outside of any module" for name in seen.unquantized)
        warnings.warn(
            f"[ribs] {sum(seen.unquantized.values()):,} MACs stay in float and are counted at 32 x 32 bits: products "
            f"that ribs has no quantizers for, in {places}",
            stacklevel=3,
        )
    network.eval()
    if any(isinstance(module, QuantizedLayer) and not module.plain for module in network.modules()):
        with torch.no_grad():
            inputs.head(1).to(next(network.parameters()).device).call(network)  # shows the weights that are made anew
    return QuantizedNetwork(network, seen, grouped, repeats)


def _with_quantizers(network: nn.Module, seen: Trace) -> tuple[nn.Module, Repeats]:
    """The network with its quantized layers and matmuls in place, and what numbers their calls."""
    sites = {site.layer: site for each in seen.sites.values() for site in each if site.layer is not None}
    modules = dict(network.named_modules())
    for layer in seen.layers:
        if layer.name not in modules:
            parent, _, child = layer.name.rpartition(".")
            made: nn.Module = QuantizedMatmul(layer.calls)
            if layer.kind != "matmul":
                made = QuantizedLayer(None, sites[layer.name], layer.calls)
            if isinstance(modules[parent], (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
                raise ValueError(
                    f"[ribs] {parent or 'the model'} is a {type(modules[parent]).__name__} that multiplies by itself, "
                    "and has no place for the quantizers among its items; put its products into a module of their own"
                )
            modules[parent].add_module(child, made)
    for layer in seen.layers:
        if layer.name in modules:
            made = QuantizedLayer(modules[layer.name], sites.get(layer.name), layer.calls)
            network = _replace(network, layer.name, made)
    redirect(network, seen.sites)
    repeats = Repeats()
    repeats.attach(network, {layer.name: layer.calls for layer in seen.layers})
    return network, repeats


def check_model(model: nn.Module) -> None:
    """Raise, naming the module or parameter, for a model that cannot be quantized as it stands."""
    check_training(model)
    devices = set()
    for name, parameter in model.named_parameters():
        if parameter.dtype is not torch.float32:
            raise TypeError(f"[ribs] parameter {name!r} is {parameter.dtype}; ribs needs float32: call model.float()")
        if parameter.is_meta:
            raise ValueError(f"[ribs] parameter {name!r} is on the meta device and holds no values; load the weights")
        if not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"[ribs] parameter {name!r} holds NaN or Inf")
        devices.add(str(parameter.device))
    if len(devices) > 1:
        raise ValueError(f"[ribs] the model's parameters are on {sorted(devices)}; move them to one device")


def check_training(model: nn.Module) -> None:
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(f"[ribs] {training[0]} is in training mode; call model.eval() first")


@torch.no_grad()
def calibrate(
    network: QuantizedNetwork,
    batches: Sequence[Inputs],
    choices: Sequence[int],
    *,
    pooled: bool = False,
    progress: Callable[[Iterable[Inputs]], Iterable[Inputs]] = iter,
) -> None:
    """Find the MSE-optimal steps of all weights and activations for every bit-width in `choices`.

    Activations are seen as the float network produces them. Their steps are those of each batch, averaged, or with
    `pooled` those of all batches together.
    Raises: ValueError naming the layer whose weights or input hold NaN or Inf.
    """
    _set_all(network, FLOAT_BITS)
    if not choices:
        return
    observe = PooledSteps if pooled else StepAverage
    observers: dict[FakeQuantizer, StepAverage | PooledSteps] = {}
    for name, module in network.model.named_modules():
        if isinstance(module, QuantizedLayer):
            quantizer = module.weight_quantizer
            weight = ops.search_steps(module.weight, choices, symmetric=True, axis=quantizer.axis)
            quantizer.set_steps(choices, weight.step, weight.zero_point)
        if isinstance(module, (QuantizedLayer, QuantizedMatmul)):
            for quantizer in module.activation_quantizers:
                observers[quantizer] = observe(name, choices, symmetric=quantizer.symmetric)
    try:
        for quantizer, observer in observers.items():
            quantizer.observer = observer
        for inputs in progress(batches):
            inputs.to(network.device).call(network.model)
    finally:
        for quantizer in observers:
            quantizer.observer = None
    for quantizer, observer in observers.items():
        if observer.batches == 0:
            raise ValueError(f"[calibrate] {observer.name!r} never ran on the calibration set, but did when traced")
        step, zero_point = observer.result()
        quantizer.set_steps(choices, step.to(network.device), zero_point.to(network.device))


def _set_all(network: QuantizedNetwork, bits: int) -> None:
    for unit in network.units:
        network.set_bits(unit, (bits, bits))


def _replace(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of another, under every name it has; returns the root, new if it was the layer."""
    if not name:
        return module
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child, candidate in list(parent._modules.items()):  # named_children skips repeats
            if candidate is old and parent is not module:
                setattr(parent, child, module)
    return model
