"""`ribs search`: the best bits of a network within a budget."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

import ribs
from ribs.cli.flags import budgets, candidates
from ribs.cli.models import hold_out, load, load_loss
from ribs.cli.output import bars, print_json
from ribs.io.folder import check_free
from ribs.recon.methods import METHODS
from ribs.select.result import Spending


def run(arguments: argparse.Namespace) -> None:
    """Search, and print and save the bits of every unit; under torchrun, in all of its processes together."""
    found = budgets(arguments)
    if len(found) > 1:
        raise ValueError(f"the flags make {len(found)} budgets; give each flag once, or see `ribs compare`")
    [budget] = found
    if arguments.out is not None:
        check_free(Path(arguments.out))
    choices, loss = candidates(arguments), load_loss(arguments.loss)
    model, loader = load(arguments, arguments.seed)
    held_out = None
    if arguments.held_out is not None:
        loader, held_out = hold_out(loader, arguments.samples, arguments.held_out)
    with processes() as first:
        model = model.to(own_device(arguments.device))
        result = ribs.search(
            model,
            loader,
            budget,
            units=arguments.units,
            recipe=arguments.recipe,
            skip=arguments.skip,
            loss=loss,
            algorithm=arguments.algorithm,
            update_size=arguments.update_size,
            iterations=arguments.iterations,
            calibration_samples=arguments.samples,
            **choices,
            **_reconstruction(arguments),
            profile=arguments.profile,
            execution=arguments.execution,
            max_seconds=arguments.max_seconds,
            cache_mib=arguments.cache_mib,
            store_mib=arguments.store_mib,
            journal=arguments.journal,
            seed=arguments.seed,
            progress=bars(arguments),
        )
    if not first:
        return
    if arguments.out is not None:
        result.save(arguments.out)
    document, text = as_json(result), result.summary()
    if held_out is not None:
        other = ribs.evaluate(model, result, held_out, loss=loss, samples=arguments.held_out, progress=bars(arguments))
        document["held_out"] = asdict(other)
        text += f"\nheld out: {other}, which nothing was chosen on"
    if arguments.json:
        print_json(document)
    else:
        print(text)


@contextmanager
def processes(backend: str = "gloo") -> Iterator[bool]:
    """Join the other processes that torchrun started, if any; whether this is the one that speaks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield True
        return
    dist.init_process_group(backend)
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def own_device(name: str) -> str:
    """Each process of one machine takes a GPU of its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name


def _reconstruction(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.reconstruct is None:
        return {}
    kind = METHODS[arguments.reconstruct]
    return {
        "reconstruct": kind(iterations=arguments.reconstruct_iterations),
        "finish": kind(iterations=arguments.finish_iterations),
    }


def as_json(result: ribs.Result) -> dict[str, object]:
    """The result without its model, for other programs."""
    return {
        "bits": result.bits,
        "recipe": result.recipe,
        "loss": result.loss,
        "standard_error": result.standard_error,
        "loss_as_searched": result.loss_as_searched,
        "bops": result.bops,
        "size_mib": result.size_mib,
        "limits": result.limits,
        "spending": spending_as_json(result.spending),
        "history": [
            {
                "predicted": record.predicted,
                "loss": record.loss,
                "interaction_error": record.interaction_error,
                "standard_error": record.standard_error,
                "bops": record.bops,
                "bits": record.bits,
                "spent": record.spent,
                "gaps": record.gaps,
            }
            for record in result.history
        ],
        "stopped": result.stopped,
        "forward_equivalents": result.cost_of_search.forward_equivalents,
        "seconds": result.cost_of_search.seconds,
    }


def spending_as_json(spending: Iterable[Spending]) -> dict[str, object]:
    """By name, with what is not bounded as None."""
    return {
        each.name: {
            "least": None if each.least is None else float(each.least),
            "most": None if each.most is None else float(each.most),
            "spent": float(each.spent),
            "unit": each.unit,
        }
        for each in spending
    }
