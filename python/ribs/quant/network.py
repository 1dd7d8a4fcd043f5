"""A quantized copy of a float network, with its layers, its units and one way to choose their bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ribs.quant.copies import copy_model
from ribs.quant.fold import can_wait, fold_batch_norms
from ribs.quant.inputs import Inputs
from ribs.quant.integer import FORM, IntegerProduct, check_device, supports
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.outputs import ROWS, LinearSteps, weight_steps
from ribs.quant.placing import with_quantizers
from ribs.quant.quantizer import (
    FLOAT_BITS,
    FakeQuantizer,
    Observer,
    PooledLevels,
    PooledSteps,
    ShareQuantizer,
    StepAverage,
)
from ribs.quant.ranges import RANGES
from ribs.quant.recipe import RECIPES, Recipe, RecipeName, find_recipe
from ribs.quant.redirect import Repeats
from ribs.quant.skip import Skip, check_model
from ribs.quant.trace import Trace, name_float_products
from ribs.quant.tracing import trace
from ribs.quant.units import Unit, UnitScheme, find_units
from ribs.quant.weights import Room

Bits = tuple[int, int]  # (weight bits, activation bits)


@dataclass(frozen=True)
class QuantizedNetwork:
    """The private copy that ribs works on; the caller's model is never touched.

    model: the copy, with batch norm folded and quantized layers in place.
    trace: what one forward of the float model showed.
    units: groups of layers that share their bits.
    recipe: of its quantizers.
    repeats: numbers the calls of layers that run several times in a pass.
    rows: by linear, some of its inputs on the calibration set, [n, in], where the recipe finds steps by outputs.
    """

    model: nn.Module
    trace: Trace
    units: tuple[Unit, ...]
    repeats: Repeats = field(default_factory=Repeats)
    recipe: Recipe = RECIPES["mse"]
    rows: dict[str, Tensor] = field(default_factory=dict)

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

    def set_float(self) -> None:
        """Leave everything in float."""
        for unit in self.units:
            self.set_bits(unit, (FLOAT_BITS, FLOAT_BITS))

    def read_outside(self, unit: Unit) -> set[str]:
        """The layers of a unit whose quantized inputs sums outside of its modules read."""
        inside = tuple(f"{module}." for module in unit.modules)
        sums = self.trace.residuals.items() if self.recipe.residuals else ()
        outside = [calls for name, calls in sums if not f"{name}.".startswith(inside)]
        read = {each for calls in outside for added in calls for pair in added for each in pair}
        return {layer for layer in unit.layers if layer in read}

    @contextmanager
    def keep_weights(self, limit_bytes: int) -> Iterator[None]:
        """Keep the quantized weights of all bits that are used, up to a number of bytes, and release them at the end.

        Those of a layer's last bits are kept in any case, as they are outside. Beyond the limit weights are
        quantized again at each change of bits.
        Raises: ValueError for a limit that is not an int of at least 0.
        """
        if isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int) or limit_bytes < 0:
            raise ValueError(f"[keep_weights] limit_bytes={limit_bytes!r} is not supported; give an int of at least 0")
        room, layers = Room(limit_bytes), self.weighted()
        before = [layer.kept.room for layer in layers.values()]
        try:
            for layer in layers.values():
                layer.kept.room = room
            yield
        finally:
            for layer, old in zip(layers.values(), before, strict=True):
                layer.kept.leave(old, layer.weight_quantizer.bits)

    def kept_weights(self) -> dict[str, list[Any]]:
        """What is kept of the weights of every layer; who holds it can rely on its memory."""
        return {name: layer.kept.made for name, layer in self.weighted().items()}

    def forget_weights_but(self, kept: Mapping[str, list[Any]]) -> None:
        """Forget what was made of the weights since `kept_weights` gave `kept`."""
        for name, layer in self.weighted().items():
            layer.kept.forget_but(kept[name])

    @contextmanager
    def integer_execution(self) -> Iterator[None]:
        """Run layers as products of 8-bit integers where gradients are not recorded: those of `integer_layers`.

        Sums are exact, where float32 rounds them: a result differs by such roundings, and they move a code of the
        next layer now and then. A layer whose input holds NaN runs in float. Channels-last inputs are faster.
        Raises: RuntimeError on a device that is no CPU, on a CPU whose products of integers are not exact, and for
            weights with zero points.
        """
        if not self.recipe.symmetric:
            raise RuntimeError(
                f"[integer_execution] recipe={self.recipe.name!r} gives weights zero points, which products of 8-bit "
                "integers do not take; run the network without it, or give another recipe"
            )
        check_device(self.device)
        layers = self.weighted().values()
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

        The others have more than 8 bits or weights with zero points, or are not nn.Conv2d with zeros for padding or
        nn.Linear themselves.
        """
        weighted = self.weighted()
        ready = {name for name, layer in weighted.items() if (product := _integer(layer)) and product.ready}
        names = [name for unit in self.units for name in unit.layers]
        return tuple(name for name in names if name in ready), tuple(name for name in names if name not in ready)

    def is_linear(self, name: str) -> bool:
        """Whether a layer with weights is certain to multiply vectors by a matrix."""
        layer = self.model.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        return layer.is_linear or any(name in readers for readers in self.trace.norms.values())

    def weighted(self) -> dict[str, QuantizedLayer]:
        """The layers with weights, by name."""
        modules = self.model.named_modules()
        return {name: module for name, module in modules if isinstance(module, QuantizedLayer)}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def _integer(layer: QuantizedLayer) -> IntegerProduct | None:
    """The layer as a product of integers, or None where there is no operator for it."""
    if layer.held is not None or not layer.weight_quantizer.symmetric or not supports(layer.layer):
        return None
    return IntegerProduct(layer.layer, layer.weight_quantizer, layer.input_quantizer, layer.kept)


def prepare(
    model: nn.Module,
    inputs: Inputs,
    units: UnitScheme = "block",
    *,
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    training: bool = False,
) -> QuantizedNetwork:
    """A deep copy of the model, folded, with a quantized layer in the place of each Conv, Linear and matmul.

    inputs: any batch; one sample of it is used to see what runs.
    recipe: of the quantizers; by default `find_recipe` chooses.
    skip: names or patterns of modules and layers that stay in float, as they are.
    training: leave batch norms as they are, to be trained and folded afterwards, and give every input one step; steps
        are those of tensors alone, since they are learned.
    Raises: ValueError for a model in training mode, on several devices or with nothing to quantize, and one that names
        all that can't be quantized: parameters that are not finite float32, layers that never run, and what
        `ribs.quant.tracing.trace` finds.
    """
    skipped = Skip(model, skip)
    seen = trace(model, inputs, skipped, check_model(model, skipped))
    chosen = find_recipe(recipe, seen)
    if training:
        chosen = replace(chosen, by_channel=None, outputs=False)
    network = assemble(model, seen, find_units(model, seen.layers, units), chosen, training=training)
    name_float_products(seen)
    if any(isinstance(module, QuantizedLayer) and not module.plain for module in network.model.modules()):
        with torch.no_grad():
            inputs.head(1).to(network.device).call(network.model)  # shows the weights that are made anew
    return network


def assemble(
    model: nn.Module, seen: Trace, units: tuple[Unit, ...], recipe: Recipe, *, training: bool = False
) -> QuantizedNetwork:
    """As `prepare`, of a model that was traced and divided into units before; nothing is run."""
    network, _ = copy_model(model)
    fold_batch_norms(network, [pair for pair in seen.batch_norms if not (training and can_wait(network, *pair))])
    network, repeats = with_quantizers(network, seen, recipe)
    return QuantizedNetwork(network.eval(), seen, units, repeats, recipe)


@torch.no_grad()
def calibrate(
    network: QuantizedNetwork,
    batches: Sequence[Inputs],
    choices: Sequence[int],
    *,
    pooled: bool = False,
    progress: Callable[[Iterable[Inputs]], Iterable[Inputs]] = iter,
) -> None:
    """Find the steps of all weights and activations for every bit-width in `choices`, by the network's recipe.

    Activations are seen as the float network produces them. Their steps are those of each batch, averaged, or with
    `pooled` those of all batches together, which the recipes "mse", "asymmetric" and "residual" have.
    Raises: ValueError naming the layer whose weights or input hold NaN or Inf, and for `pooled` with another recipe.
    """
    network.set_float()
    check_pooled(pooled, network.recipe)
    if not choices:
        return
    observers: list[Observer] = []
    for name, module in network.model.named_modules():
        if isinstance(module, (QuantizedLayer, QuantizedMatmul)):
            for call in range(len(module.activation_quantizers)):
                observers.append(_observer(network, name, call, choices, pooled))
    for each in observers:
        if isinstance(each, LinearSteps):
            each.count = max(1, ROWS // len(batches))
    observe(network, observers, progress(batches))
    rows: dict[str, list[Tensor]] = {}
    for each in observers:
        if isinstance(each, LinearSteps):
            rows.setdefault(each.name, []).extend(each.rows)
    network.rows.update((name, torch.cat(parts)) for name, parts in rows.items())
    for name, layer in network.weighted().items():
        find_weight_steps(network, name, layer, choices)


def _observer(network: QuantizedNetwork, name: str, call: int, choices: Sequence[int], pooled: bool) -> Observer:
    """What finds the steps of the input of one call of a layer, or of one operand of a matmul."""
    module, recipe = network.model.get_submodule(name), network.recipe
    assert isinstance(module, (QuantizedLayer, QuantizedMatmul))
    quantizer = module.activation_quantizers[call]
    if isinstance(quantizer, ShareQuantizer):
        return PooledLevels(name, choices, quantizer)
    assert isinstance(quantizer, FakeQuantizer)
    if pooled:
        return PooledSteps(name, choices, quantizer)
    ranges = recipe.activations if quantizer.is_per_tensor else recipe.by_channel
    assert ranges is not None
    if recipe.outputs and isinstance(module, QuantizedLayer) and network.is_linear(name):
        return LinearSteps(name, choices, module, call, RANGES[ranges])
    return StepAverage(name, choices, quantizer, RANGES[ranges])


def check_pooled(pooled: bool, recipe: Recipe) -> None:
    """Refuse what only the recipes whose activations have the least squared error have."""
    if pooled and recipe.activations != "mse":
        raise ValueError(
            f"[calibrate] pool_batches=True is not supported with recipe={recipe.name!r}, which has the steps of each "
            'batch averaged; give recipe="mse", "asymmetric" or "residual" with it'
        )


def find_weight_steps(network: QuantizedNetwork, name: str, layer: QuantizedLayer, choices: Sequence[int]) -> None:
    """Give the weights of a layer the recipe's steps for every bit-width in `choices`."""
    quantizer, find = layer.weight_quantizer, RANGES[network.recipe.weights]
    step, zero_point = find(layer.multiplied, choices, symmetric=quantizer.symmetric, axis=quantizer.axis)
    if name in network.rows:
        step = weight_steps(layer.matrix, network.rows[name], step, choices)
    quantizer.set_steps(choices, step, zero_point)


def observe(network: QuantizedNetwork, observers: Sequence[Observer], batches: Iterable[Inputs]) -> None:
    """Show the observers what enters their quantizers, at the bits that are set, and let them find the steps."""
    try:
        for observer in observers:
            observer.quantizer.observer = observer
        for inputs in batches:
            inputs.to(network.device).call(network.model)
    finally:
        for observer in observers:
            observer.quantizer.observer = None
    for observer in observers:
        if observer.batches == 0:
            raise ValueError(f"[calibrate] {observer.name!r} never ran on the calibration set, but did when traced")
        observer.settle(network.device)
