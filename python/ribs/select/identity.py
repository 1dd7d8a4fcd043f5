"""What the losses of a search depend on, in words and checksums, so that no losses of another search are taken for its.

The budget, the number of iterations and the like are not in it: they change what is measured, but no loss.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, treespec_dumps

import ribs
from ribs.quant.inputs import Inputs
from ribs.recon.methods import Method
from ribs.select.loss import TaskLoss
from ribs.select.plan import Plan


def identity(
    model: nn.Module,
    shards: Sequence[Inputs],
    plan: Plan,
    loss: TaskLoss,
    *,
    recipe: str,
    seed: int,
) -> dict[str, str]:
    """{field: value} of everything that a loss depends on but the configuration and the shard, and the seed.

    recipe: how the network is quantized and run, in words.
    """
    return {
        "model": _of_model(model),
        "data": _of_data(shards),
        "shards": " ".join(str(shard.samples) for shard in shards),
        "units": "; ".join(f"{unit.name}: {', '.join(unit.layers)}" for unit in plan.table.groups),
        "candidates": "; ".join(" ".join(f"{w}/{a}" for w, a in options) for options in plan.candidates),
        "loss": _of_loss(loss),
        "recipe": recipe,
        "seed": str(seed),
        **_machine(model),
    }


def identity_of_reconstruction(
    model: nn.Module, batches: Sequence[Inputs], method: Method, loss: TaskLoss, *, seed: int, store_mib: float
) -> dict[str, str]:
    """{field: value} of everything that a reconstruction depends on.

    model: quantized, as it is before.
    """
    return {
        "model": _of_model(model),
        "data": _of_data(batches),
        "method": f"{method}; pieces of at most {store_mib:g} MiB",
        "loss": _of_loss(loss),
        "seed": str(seed),
        **_machine(model),
    }


def _machine(model: nn.Module) -> dict[str, str]:
    versions = f"ribs {ribs.__version__}, torch {torch.__version__}"
    return {"device": next(model.parameters()).device.type, "versions": versions}


def _of_model(model: nn.Module) -> str:
    """A checksum of every parameter and buffer, and of what the modules are."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        _text(digest, f"{name} {type(module).__qualname__} {module.extra_repr()}")
    _tensors(digest, [*model.named_parameters(), *model.named_buffers()])
    return digest.hexdigest()


def _of_loss(loss: TaskLoss) -> str:
    """Its name, and a checksum of what it is made of."""
    digest = hashlib.sha256()
    _value(digest, loss)
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    return f"{getattr(loss, '__module__', '')}.{name} {digest.hexdigest()[:16]}"


def _value(digest: hashlib._Hash, value: Any, inside: tuple[int, ...] = ()) -> None:
    """What a loss is or holds: functions by their code, objects by their class and what they hold."""
    _text(digest, type(value).__name__)
    parts: list[Any] = []
    if id(value) in inside:  # a function that calls itself holds itself
        return
    if isinstance(value, Tensor):
        _tensors(digest, [("", value)])
    elif isinstance(value, nn.Module):
        _text(digest, _of_model(value))
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
        _text(digest, repr(value))
    elif isinstance(value, (set, frozenset)):
        _text(digest, repr(sorted(map(repr, value))))
    elif isinstance(value, CodeType):
        parts = [value.co_code, value.co_names, *value.co_consts]
    elif isinstance(value, FunctionType):
        cells = inspect.getclosurevars(value).nonlocals
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, Mapping):
        parts = [each for item in value.items() for each in item]
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif isinstance(value, type):
        parts = [value.__module__, value.__qualname__]
    elif hasattr(value, "__dict__"):
        parts = [type(value), vars(value)]
    for part in parts:
        _value(digest, part, (*inside, id(value)))


def _of_data(shards: Sequence[Inputs]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        leaves, spec = tree_flatten((shard.args, dict(shard.kwargs)))
        _text(digest, treespec_dumps(spec))
        _tensors(digest, ((str(index), leaf) for index, leaf in enumerate(leaves)))
    return digest.hexdigest()


def _tensors(digest: hashlib._Hash, named: Iterable[tuple[str, object]]) -> None:
    for name, value in named:
        if not isinstance(value, Tensor):
            _text(digest, f"{name} {value!r}")
            continue
        _text(digest, f"{name} {value.dtype} {tuple(value.shape)}")
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _text(digest: hashlib._Hash, text: str) -> None:
    encoded = text.encode()
    digest.update(len(encoded).to_bytes(8, "little") + encoded)
