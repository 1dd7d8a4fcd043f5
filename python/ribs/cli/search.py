"""`ribs search`: the best bits of a network within a budget."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ribs
from ribs.cli.models import input_size, load_data, load_model
from ribs.quant.network import Bits


def run(arguments: argparse.Namespace) -> None:
    """Search and print the bits of every unit."""
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
    result = ribs.search(
        model.to(arguments.device),
        loader,
        budget,
        bits=bits,
        activation_bits=arguments.activation_bits,
        units=arguments.units,
        update_size=arguments.update_size,
        iterations=arguments.iterations,
        calibration_samples=arguments.samples,
        pins=pins,
        seed=arguments.seed,
        progress=not arguments.no_progress,
    )
    print(json.dumps(as_json(result), indent=2) if arguments.json else result.summary())


def as_json(result: ribs.Result) -> dict[str, object]:
    """The result without its model, for other programs."""
    return {
        "bits": result.bits,
        "loss": result.loss,
        "bops": result.bops,
        "size_mib": result.size_mib,
        "limits": result.limits,
        "history": [
            {"predicted": record.predicted, "loss": record.loss, "bops": record.bops, "bits": record.bits}
            for record in result.history
        ],
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
