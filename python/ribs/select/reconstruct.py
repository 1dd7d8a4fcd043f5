"""`ribs.reconstruct`: the rounding and the steps of a quantized network, learned piece by piece."""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ribs.quant.copies import unwrap
from ribs.quant.inputs import collect
from ribs.quant.layers import QuantizedLayer
from ribs.quant.recipe import RecipeName
from ribs.quant.units import UnitScheme
from ribs.recon.methods import METHODS, AdaRound, Method
from ribs.recon.run import Reconstruction
from ribs.select.cost import AnyBits
from ribs.select.evaluate import losses_on
from ribs.select.finished import finished_pieces
from ribs.select.loss import TaskLoss, check_loss, kl_divergence, measure
from ribs.select.result import Result, SearchCost
from ribs.select.run import quantize
from ribs.select.sampling import standard_error


def reconstruct(
    model: nn.Module | Result,
    loader: Iterable[Any],
    bits: AnyBits | str | os.PathLike[str] | None = None,
    *,
    method: str | Method = "qdrop",
    iterations: int | None = None,
    units: UnitScheme = "layer",
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    calibration_samples: int = 1024,
    loss: TaskLoss = kl_divergence,
    store_mib: float = 1024,
    journal: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Learn the rounding of weights, and the steps of activations, of a network at given bits.

    model: a float model, or what `ribs.search` or `ribs.quantize` returned; it is never changed.
    loader: as for `ribs.search`. All it is used for is read once.
    bits: of a float model, as for `ribs.quantize`; a result has its own.
    method: "adaround", "brecq", "qdrop", or a `ribs.AdaRound`, `ribs.BRECQ` or `ribs.QDrop` with facts of its own.
    iterations: steps for each piece, by default 20,000 as in the papers; an instance of a method has its own.
    units, recipe, skip: of a float model, as for `ribs.search`.
    calibration_samples: how many of the loader's samples are used.
    loss: f(float_output, quantized_output) -> [samples] losses, by which the result is measured.
    store_mib: MiB for the inputs and targets of one piece. Where all samples do not fit, it is reconstructed on the
        first that do, and a warning says on how many.
    journal: a folder in which every piece is kept once it is done. Killed at any moment, the same call goes on with the
        piece that was under way, and ends with the same result.
    seed: of the random batches and of what QDrop leaves in float. The same call on the same device gives the same.
    progress: show bars.

    Returns: a `Result` whose model has the rounding for its weights: each is a value of its quantizer, which leaves it
    as it is at these bits. At others, or in float, the model is no longer what it was.

    A block that cannot be called by itself is taken layer by layer, and layers that cannot be, and weights that are
    computed or shared, are left as they are; warnings name all of these. Where an error becomes NaN or Inf, a piece
    keeps its last good rounding, and a warning names it.

    Raises: ValueError or TypeError for bad input, a result that was reconstructed or loaded, and a piece whose output
        has no gradient, which is named; JournalError for a journal that cannot be read or written, or is damaged.
    """
    started = time.perf_counter()
    chosen = _method(method, iterations)
    check_loss(loss)
    if not store_mib > 0:
        raise ValueError(f"[reconstruct] store_mib={store_mib} is not supported; give a positive number")
    if isinstance(model, Result):
        if bits is not None:
            raise ValueError("[reconstruct] bits are those of the result; leave bits away, or give the float model")
        _check_float_weights(model.model)
        batches = collect(model.model, loader, calibration_samples)
        result = replace(model, model=copy.deepcopy(model.model))
    else:
        if bits is None:
            raise ValueError("[reconstruct] a float model needs bits; give for instance bits=4, or a search's result")
        model = unwrap(model)
        batches = collect(model, loader, calibration_samples)
        again = [dict(each.kwargs) if each.kwargs else (each.args,) for each in batches]
        result = quantize(
            model,
            again,
            bits,
            units=units,
            recipe=recipe,
            skip=skip,
            calibration_samples=calibration_samples,
            loss=loss,
            progress=progress,
        )
    finished = finished_pieces(journal, result.model, batches, chosen, loss, seed=seed, store_mib=store_mib)
    reconstruction = Reconstruction(
        result.model,
        result.costs.layers,
        batches,
        chosen,
        loss=functools.partial(measure, loss),
        store_mib=store_mib,
        seed=seed,
        progress=progress,
    )
    reconstruction.run(finished)
    losses = np.concatenate([*losses_on(reconstruction.reference, result.model, batches, loss)])
    return replace(
        result,
        loss=float(losses.mean()),
        standard_error=standard_error(losses),
        loss_as_searched=float(losses.mean()),
        cost_of_search=SearchCost(result.cost_of_search.forward_equivalents, time.perf_counter() - started),
    )


def _method(method: str | Method, iterations: int | None) -> Method:
    if isinstance(method, AdaRound):
        if iterations is not None:
            raise ValueError("[reconstruct] iterations are those of the method given; leave iterations away")
        return method
    if method not in METHODS:
        raise ValueError(
            f"[reconstruct] method={method!r} is not supported; give one of {list(METHODS)}, or an instance such as "
            "ribs.QDrop(iterations=1000)"
        )
    kind = METHODS[method]
    return kind() if iterations is None else kind(iterations=iterations)


def _check_float_weights(model: nn.Module) -> None:
    """Refuse a network whose float weights are gone."""
    if any(isinstance(module, QuantizedLayer) and module.rounded for module in model.modules()):
        raise ValueError(
            "[reconstruct] the result was reconstructed before, or saved and loaded, and its float weights are gone; "
            "give the float model, and bits=result.bits"
        )
