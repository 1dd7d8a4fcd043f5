"""What the losses of a search depend on, in words and checksums, so that no losses of another search are taken for its.

The budget, the number of iterations and the like are not in it: they change what is measured, but no loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, treespec_dumps

import ribs
from ribs.quant.inputs import Inputs
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
    device = next(model.parameters()).device.type
    return {
        "model": _of_model(model),
        "data": _of_data(shards),
        "shards": " ".join(str(shard.samples) for shard in shards),
        "units": "; ".join(f"{unit.name}: {', '.join(unit.layers)}" for unit in plan.table.groups),
        "candidates": "; ".join(" ".join(f"{w}/{a}" for w, a in options) for options in plan.candidates),
        "loss": f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', type(loss).__qualname__)}",
        "recipe": recipe,
        "seed": str(seed),
        "device": device,
        "versions": f"ribs {ribs.__version__}, torch {torch.__version__}",
    }


def _of_model(model: nn.Module) -> str:
    """A checksum of every parameter and buffer, and of what the modules are."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        _text(digest, f"{name} {type(module).__qualname__} {module.extra_repr()}")
    _tensors(digest, [*model.named_parameters(), *model.named_buffers()])
    return digest.hexdigest()


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
