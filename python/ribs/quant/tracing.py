"""One forward pass, watched: which layers run, in what order, at how many MACs, and what batch norm follows what.

Nothing is parsed and nothing is symbolically traced, so any Python control flow will do. The pass runs on the
meta device (shapes only, no arithmetic) unless the model computes with plain tensors that cannot move there.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ribs.quant.copies import copy_model
from ribs.quant.inputs import Inputs
from ribs.quant.products import fused_within
from ribs.quant.skip import Reasons, Skip, check_fit
from ribs.quant.trace import Trace
from ribs.quant.tree import tensors
from ribs.quant.watcher import Watcher


def trace(model: nn.Module, inputs: Inputs, skip: Skip | None = None, unfit: Reasons | None = None) -> Trace:
    """Run the model once on the first sample of `inputs`; the model itself is not touched.

    skip: what stays in float.  unfit: what is known not to be quantizable; None where layers are only counted, whatever
        their types.
    Raises: ValueError if the model has nothing to quantize, for a `skip` that matches nothing, and one that names all
        that is unfit: layers that never ran, and modules that cannot be copied, run fused attention that cannot be
        opened, multiply otherwise in another call, or multiply what is not float32.
    """
    skip = skip or Skip(model)
    one, quantizing = inputs.head(1), unfit is not None
    shadow, uncopied = copy_model(model, data=False)
    reasons = {**{name: why for name, why in uncopied.items() if not skip.covers(name)}, **(unfit or {})}
    try:
        result, found = _watch(shadow, one.to("meta"), skip, quantizing)
    except Exception as error:
        # A kernel of another library fails on meta, but would run unseen on real data.
        if fused := _fused_within(error, shadow, skip):
            check_fit({**reasons, **fused})
        # A forward that reads values (`.item()`), or mixes in plain CPU tensors, cannot run on meta. The real
        # pass gives the same answer more slowly, and a model that is truly broken raises its own error here.
        shadow = copy_model(model)[0]
        device = next((parameter.device for parameter in shadow.parameters()), "cpu")
        try:
            result, found = _watch(shadow, one.to(device), skip, quantizing)
        except Exception as error:
            check_fit({**reasons, **_fused_within(error, shadow, skip)})
            raise
    check_fit({**found, **reasons})
    skip.check(layer.name for layer in result.layers)
    if not result.layers:
        raise ValueError(
            "[ribs] the model has no Conv or Linear layer"
            + (" that is not skipped" if skip.patterns else "")
            + ", so there is nothing to quantize"
        )
    return result


def _fused_within(error: Exception, model: nn.Module, skip: Skip) -> Reasons:
    return {name: why for name, why in fused_within(error, model).items() if not skip.covers(name)}


def _watch(model: nn.Module, inputs: Inputs, skip: Skip, quantizing: bool) -> tuple[Trace, Reasons]:
    """What one pass shows, and what cannot be quantized."""
    flops = FlopCounterMode(display=False)
    watcher = Watcher(model, flops.get_total_flops, skip)
    with torch.no_grad(), flops, watcher:
        watcher.lineage.take(inputs.tensors)
        output = inputs.call(model)
    watcher.pairing.count_uses(output)
    watcher.lineage.read_otherwise(tensors(output))
    watcher.flow.returned(output)
    layers, skipped = watcher.layers(watcher.calls), watcher.layers(watcher.skipped)
    counted = sum(layer.macs for layer in (*layers, *skipped)) + sum(watcher.unquantized.values())
    unseen = flops.get_total_flops() // 2 - counted
    if unseen > 0:
        watcher.unquantized[""] += unseen
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = Trace(
        layers,
        skipped,
        watcher.pairing.pairs(),
        {name: tuple(sites) for name, sites in watcher.sites.items() if sites},
        dict(watcher.unquantized),
        parameters,
        watcher.others(),
        tuple(watcher.lineage.moments),
        tuple(watcher.lineage.reads()),
        tuple(watcher.lineage.sums),
        watcher.flow.absorbed(layer.name for layer in layers if layer.calls == 1),
        frozenset(watcher.flow.shares),
        {name: tuple(sorted(sources)) for name, sources in watcher.sources.items()},
        tuple(sorted(watcher.lineage.otherwise)),
        skip.modules,
        watcher.residuals(),
    )
    return found, watcher.unfit(quantizing)
