"""`ribs qat`: the best bits within a budget, or given ones, and training at them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import ribs
from ribs.cli.evaluate import labelled_images
from ribs.cli.flags import BUDGETS, budgets, candidates, read_bits
from ribs.cli.models import image_folder, import_timm, input_size, load_data, load_model
from ribs.cli.output import bars, print_json
from ribs.cli.search import as_json, own_device, processes
from ribs.io.folder import check_free
from ribs.qat import Fitted, Training, fit
from ribs.qat.run import import_accelerate
from ribs.select.cost import AnyBits


def run(arguments: argparse.Namespace) -> None:
    """Find bits, train, and print and save what came of it; under torchrun, in all of its processes together."""
    budget = _budget(arguments)
    if arguments.out is not None:
        check_free(Path(arguments.out))
    device = own_device(arguments.device)
    model = load_model(arguments.model, checkpoint=arguments.checkpoint, pretrained=not arguments.random_weights)
    size = input_size(model, arguments.input_size)
    data, batches = Path(arguments.data), {"batch_size": arguments.batch_size, "workers": arguments.workers}
    _, validation = (labelled_images(data / split, model, size, **batches) for split in ("train", "val"))
    options = {**batches, "augment": arguments.augment, "least_crop": arguments.least_crop}
    training = training_images(data / "train", model, size, **options)
    teacher = _teacher(arguments, device)
    with processes("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo") as first:
        fitted = fit(
            model.to(device),
            training,
            _result(arguments, model.to(device), size, budget),
            training=_facts(arguments),
            teacher=teacher,
            validation=validation,
            folder=arguments.checkpoints,
            method=arguments.method,
            per_channel=arguments.per_channel,
            optimizer=lambda groups: _optimizer(arguments, groups),
            accelerator=import_accelerate().Accelerator(mixed_precision=arguments.precision, cpu=device == "cpu"),
            progress=bars(arguments),
        )
    if first and arguments.out is not None:
        fitted.result.save(arguments.out)
    if first:
        _print(arguments, fitted)


def _budget(arguments: argparse.Namespace) -> ribs.Budget | None:
    """The budget, or None for bits that are given."""
    if arguments.at is None:
        found = budgets(arguments)
        if len(found) > 1:
            raise ValueError(f"the flags make {len(found)} budgets; give each flag once")
        return found[0]
    if arguments.budget_cost or any(getattr(arguments, flag) for flag in BUDGETS.values()):
        raise ValueError(f"--at {arguments.at!r} has its bits, so there is nothing to bound; give it or a budget")
    return None


def _result(
    arguments: argparse.Namespace, model: nn.Module, size: tuple[int, ...], budget: ribs.Budget | None
) -> ribs.Result:
    """What is trained: a saved result, the network at given bits, or that of a search."""
    if budget is None and Path(arguments.at).is_dir():
        return ribs.load(arguments.at, model)
    loader = load_data(
        Path(arguments.data) / "train",
        model,
        size,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    options: dict[str, Any] = {"units": arguments.units, "recipe": arguments.recipe, "skip": arguments.skip}
    options |= {"calibration_samples": arguments.samples, "progress": bars(arguments)}
    if budget is None:
        return ribs.quantize(model, loader, _bits(arguments.at), **options)
    # The paper's way before training: one program over the losses of all units (RIBS, section 4.3).
    return ribs.search(
        model, loader, budget, algorithm="paper", iterations=1, seed=arguments.seed, **candidates(arguments), **options
    )


def _bits(text: str) -> AnyBits | Path:
    """W, W/A, or the path of a table."""
    parts = text.split("/")
    if len(parts) <= 2 and all(part.isdigit() for part in parts):
        return int(text) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
    return Path(text)


def training_images(
    folder: Path,
    model: nn.Module,
    size: tuple[int, ...],
    *,
    batch_size: int,
    workers: int,
    augment: str | None,
    least_crop: float = 0.35,
) -> DataLoader[Any]:
    """Shuffled batches of images, cropped, flipped and augmented at random by timm, with their labels.

    size: (channels, height, width) of one image.  augment: timm's policy.
    least_crop: the least share of an image that a crop shows.
    """
    images = image_folder(folder, model, size, {"auto_augment": augment, "scale": (least_crop, 1.0)})
    more = len(images) > batch_size
    return DataLoader(images, batch_size, shuffle=True, num_workers=workers, drop_last=more)


def _teacher(arguments: argparse.Namespace, device: str) -> nn.Module | None:
    if arguments.teacher is None:
        return None
    teacher = load_model(arguments.teacher, checkpoint=arguments.teacher_checkpoint, pretrained=True)
    return teacher.to(device)


def _facts(arguments: argparse.Namespace) -> Training:
    return Training(
        epochs=arguments.epochs,
        lr=arguments.lr,
        step_lr=arguments.step_lr,
        warm_up=arguments.warm_up,
        momentum=arguments.momentum,
        weight_decay=arguments.weight_decay,
        label_smoothing=arguments.label_smoothing,
        distillation=arguments.distillation,
        temperature=arguments.temperature,
        features=_features(arguments.features),
        feature_weight=arguments.feature_weight,
        ema=arguments.ema,
        progressive=tuple(read_bits("--progressive", arguments.progressive)) if arguments.progressive else (),
        dampening=arguments.dampening,
        freezing=arguments.freezing,
        clip=arguments.clip,
        most_skipped=arguments.most_skipped,
        seed=arguments.seed,
    )


def _features(text: str | None) -> tuple[tuple[str, str], ...]:
    """Pairs of names; one without "=" is that of both."""
    if text is None:
        return ()
    pairs = [name.partition("=") for name in text.split(",")]
    return tuple((own, other or own) for own, _, other in pairs)


def _optimizer(arguments: argparse.Namespace, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """One of timm's by name; the groups have learning rates and weight decay of their own."""
    import_timm()
    create = import_module("timm.optim").create_optimizer_v2
    made: torch.optim.Optimizer = create(groups, arguments.optimizer, arguments.lr, 0.0, arguments.momentum)
    return made


def _print(arguments: argparse.Namespace, fitted: Fitted) -> None:
    if arguments.json:
        print_json({"result": as_json(fitted.result), "history": [asdict(each) for each in fitted.history]})
        return
    print(f"{fitted.result.summary()}\n")
    for each in fitted.history:
        print(f"epoch {each.number + 1}: loss {each.loss:.4g}, top-1 {each.accuracy:.2f} %")
