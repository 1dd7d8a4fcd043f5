"""`ribs search`: the best bits of a network within a budget."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

import ribs
from ribs.cli.models import input_size, load_data, load_model
from ribs.quant.network import Bits
from ribs.select.budget import Bound, Bounds
from ribs.select.candidates import Ties
from ribs.select.resources import exact_number


def run(arguments: argparse.Namespace) -> None:
    """Search and print the bits of every unit; under torchrun, in all of its processes together."""
    budget = ribs.Budget(
        bops=_bounds(arguments.budget_bops),
        size=_bounds(arguments.budget_size),
        average_bits=_bounds(arguments.budget_bits),
        average_weight_bits=_bounds(arguments.budget_weight_bits),
        activation_memory=_bounds(arguments.budget_memory),
        costs={file: (file, _bounds(bound)) for file, bound in map(_cost, arguments.budget_cost)},
        accounting=arguments.accounting,
    )
    bits = _bits("--bits", arguments.bits)
    activations = arguments.activation_bits
    pins = {unit: value for unit, [value] in (_unit_bits("--pin", text, most=1) for text in arguments.pin)}
    allowed = dict(_unit_bits("--allow", text) for text in arguments.allow)
    ties: Ties = "auto" if arguments.tie == ["auto"] else [text.split(",") for text in arguments.tie]
    model = load_model(arguments.model, checkpoint=arguments.checkpoint, pretrained=not arguments.random_weights)
    size = input_size(model, arguments.input_size)
    loader = load_data(
        Path(arguments.data),
        model,
        size,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    with _processes() as first:
        result = ribs.search(
            model.to(_device(arguments.device)),
            loader,
            budget,
            bits=bits,
            activation_bits=None if activations is None else _bits("--activation-bits", activations),
            units=arguments.units,
            update_size=arguments.update_size,
            iterations=arguments.iterations,
            calibration_samples=arguments.samples,
            pins=pins,
            allowed=allowed,
            ties=ties,
            target=arguments.target,
            profile=arguments.profile,
            execution=arguments.execution,
            max_seconds=arguments.max_seconds,
            cache_mib=arguments.cache_mib,
            journal=arguments.journal,
            seed=arguments.seed,
            progress=not arguments.no_progress,
        )
    if first:
        print(json.dumps(as_json(result), indent=2) if arguments.json else result.summary())


@contextmanager
def _processes() -> Iterator[bool]:
    """Join the other processes that torchrun started, if any; whether this is the one that speaks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield True
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def _device(name: str) -> str:
    """Each process of one machine takes a GPU of its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name


def as_json(result: ribs.Result) -> dict[str, object]:
    """The result without its model, for other programs."""
    return {
        "bits": result.bits,
        "loss": result.loss,
        "standard_error": result.standard_error,
        "loss_as_searched": result.loss_as_searched,
        "bops": result.bops,
        "size_mib": result.size_mib,
        "limits": result.limits,
        "spending": {
            each.name: {
                "least": None if each.least is None else float(each.least),
                "most": None if each.most is None else float(each.most),
                "spent": float(each.spent),
                "unit": each.unit,
            }
            for each in result.spending
        },
        "history": [
            {
                "predicted": record.predicted,
                "loss": record.loss,
                "standard_error": record.standard_error,
                "bops": record.bops,
                "bits": record.bits,
            }
            for record in result.history
        ],
        "stopped": result.stopped,
        "forward_equivalents": result.cost_of_search.forward_equivalents,
        "seconds": result.cost_of_search.seconds,
    }


def _bounds(text: str | None) -> Bounds:
    if text is None:
        return None
    low, dots, high = text.partition("..")
    return (_bound(low), _bound(high)) if dots else _bound(text)


def _bound(text: str) -> Bound | None:
    """A number is taken as one; what other text means is for the budget to say."""
    number = exact_number(text)
    return (text or None) if number is None or "/" in text else number


def _cost(text: str) -> tuple[str, str]:
    file, equals, bound = text.rpartition("=")
    if not equals or not file or not bound:
        raise ValueError(f"--budget-cost {text!r} cannot be read; give FILE=BOUND, such as latency.csv=3.5")
    return file, bound


def _bits(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} {text!r} cannot be read; give numbers such as 2,3,4,8") from None


def _unit_bits(flag: str, text: str, most: int | None = None) -> tuple[str, list[int | Bits]]:
    """UNIT=BITS,..., each either one number or W/A."""
    unit, equals, value = text.rpartition("=")
    pairs = [part.split("/") for part in value.split(",")]
    readable = all(len(pair) <= 2 and all(part.isdigit() for part in pair) for pair in pairs)
    if not equals or not unit or not readable or (most is not None and len(pairs) > most):
        several = "" if most == 1 else " or several, as in fc=4,8"
        raise ValueError(
            f"{flag} {text!r} cannot be read; give UNIT=BITS, UNIT=W/A{several}; such as first=8 or fc=8/8"
        )
    return unit, [int(pair[0]) if len(pair) == 1 else (int(pair[0]), int(pair[1])) for pair in pairs]
