"""Models and data named on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader

from ribs.select.loss import LOSSES, TaskLoss


def load_model(name: str, *, checkpoint: str | None, pretrained: bool) -> nn.Module:
    """A timm model, or what `package.module:function` returns (this runs that code), in eval mode.

    checkpoint: a file whose weights must fit exactly; nothing in it is ever executed.
    Raises: ValueError for names that lead nowhere and checkpoints that do not fit.
    """
    model = _call(name) if ":" in name else _timm_model(name, pretrained=pretrained and checkpoint is None)
    if checkpoint is not None:
        _load_checkpoint(model, Path(checkpoint))
    return model.eval()


def load(arguments: argparse.Namespace, seed: int) -> tuple[nn.Module, Any]:
    """The model and the calibration data that flags name.

    Raises: as `load_model`, `input_size` and `load_data`.
    """
    model = load_model(arguments.model, checkpoint=arguments.checkpoint, pretrained=not arguments.random_weights)
    size = input_size(model, arguments.input_size)
    batches = {"batch_size": arguments.batch_size, "workers": arguments.workers}
    return model, load_data(Path(arguments.data), model, size, seed=seed, **batches)


def hold_out(loader: Iterable[Any], samples: int, held_out: int) -> tuple[list[Any], list[Any]]:
    """Whole batches with the first `samples` samples, and those that follow with `held_out`, read in one go.

    Raises: ValueError for data that end before, and none to hold out.
    """
    if held_out < 1:
        raise ValueError(f"--held-out {held_out} is not allowed; give at least 1")
    first, after, missing = list[Any](), list[Any](), [samples, held_out]
    for batch in loader:
        own = 0 if missing[0] > 0 else 1
        (first, after)[own].append(batch)
        missing[own] -= _samples(batch)
        if missing[1] <= 0:
            return first, after
    raise ValueError(
        f"--data ends {missing[1]} samples before {held_out} could be held out, after the batches of the {samples} "
        "calibration samples; give fewer as --held-out or --samples"
    )


def _samples(batch: Any) -> int:
    return next(len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.dim() > 0)


def load_loss(name: str) -> TaskLoss:
    """One of `ribs.losses` by name, or what `package.module:name` is (this runs that module).

    Raises: ValueError for names that lead nowhere.
    """
    if ":" in name:
        loss: TaskLoss = _own(name)
        return loss
    if name not in LOSSES:
        raise ValueError(f"--loss {name!r} is not supported; give one of {', '.join(LOSSES)}, or package.module:name")
    return LOSSES[name]


def _own(name: str) -> Any:
    """What a name in a module of the user's own is."""
    module, _, own = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's own file in the present folder
    try:
        return getattr(import_module(module), own)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {error}") from error


def _call(name: str) -> nn.Module:
    built = _own(name)()
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name!r} returned {type(built).__name__}, not a torch.nn.Module")
    return built


def _timm_model(name: str, *, pretrained: bool) -> nn.Module:
    timm = import_timm()
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name}*")[:5]
        raise ValueError(f"timm has no model {name!r}; {f'near it: {near}' if near else 'see timm.list_models()'}")
    model: nn.Module = timm.create_model(name, pretrained=pretrained)
    return model


def import_timm() -> Any:
    """Raises: ImportError that says how to install it."""
    try:
        return import_module("timm")
    except ImportError as error:
        raise ImportError('named models and image folders need timm: pip install "ribs-quant[timm]"') from error


def _load_checkpoint(model: nn.Module, path: Path) -> None:
    if path.suffix == ".safetensors":
        state: Any = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model: {error}") from None


def input_size(model: nn.Module, given: str | None) -> tuple[int, ...]:
    """(channels, height, width) of one image: as given ("3x224x224"), else timm's for the model, else 3x224x224."""
    if given is not None:
        try:
            size = tuple(int(part) for part in given.lower().split("x"))
        except ValueError:
            size = ()
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"--input-size {given!r} cannot be read; give CxHxW such as 3x224x224")
        return size
    config = getattr(model, "pretrained_cfg", None) or {}
    return tuple(config.get("input_size") or (3, 224, 224))


def load_data(path: Path, model: nn.Module, size: tuple[int, ...], *, batch_size: int, seed: int, workers: int) -> Any:
    """Batches from a folder of images (shuffled by `seed`), or from a torch file of tensors (in order).

    A torch file holds a tensor, a tuple led by the input, or a dict of tensors, samples first.
    """
    if not path.exists():
        raise ValueError(f"--data {path} does not exist")
    if path.is_file():
        return _slices(torch.load(path, map_location="cpu", weights_only=True), batch_size)
    dataset = image_folder(path, model, size)
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size, shuffle=True, generator=generator, num_workers=workers)


def image_folder(path: Path, model: nn.Module, size: tuple[int, ...], training: dict[str, Any] | None = None) -> Any:
    """The images of a folder with those of each class in a folder of their own, as timm evaluates the model on them.

    Items are (image, index of the class among the names of all in natural order).
    training: options of timm's transforms for training, which then take the place of those for evaluation.
    """
    import_timm()
    data = import_module("timm.data")
    config = data.resolve_data_config({"input_size": size}, model=model)
    if training is not None:
        config = {name: config[name] for name in ("input_size", "interpolation", "mean", "std")}
        config |= {"is_training": True, **training}
    return data.ImageDataset(str(path), transform=data.create_transform(**config))


def _slices(data: Any, batch_size: int) -> Iterable[Any]:
    tensors = [leaf for leaf in tree_leaves(data) if isinstance(leaf, torch.Tensor) and leaf.dim() > 0]
    if not tensors:
        raise ValueError("--data: the file holds no tensors; it must hold a tensor, a tuple or a dict of tensors")
    samples = tensors[0].shape[0]
    return [
        tree_map(lambda leaf, start=start: leaf[start : start + batch_size], data)
        for start in range(0, samples, batch_size)
    ]
