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


def run(arguments: argparse.Namespace) -> None:
    """Search and print the bits of every unit; under torchrun, in all of its processes together."""
    budget = ribs.Budget(bops=_bound(arguments.budget_bops), size_mib=_bound(arguments.budget_size))
    bits = _bits(arguments.bits)
    pins = dict(map(_pin, arguments.pin))
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
            activation_bits=arguments.activation_bits,
            units=arguments.units,
            update_size=arguments.update_size,
            iterations=arguments.iterations,
            calibration_samples=arguments.samples,
            pins=pins,
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


def _bound(text: str | None) -> float | str | None:
    if text is None or "/" in text:
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'budget {text!r} cannot be read; give a number or "W/A" such as "4/4"') from None


def _bits(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--bits {text!r} cannot be read; give numbers such as 2,3,4,8") from None


def _pin(text: str) -> tuple[str, int | Bits]:
    unit, equals, value = text.rpartition("=")
    parts = value.split("/")
    if not equals or not unit or not all(part.isdigit() for part in parts) or len(parts) > 2:
        raise ValueError(f"--pin {text!r} cannot be read; give UNIT=BITS or UNIT=W/A, such as first=8 or fc=8/8")
    return unit, int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
