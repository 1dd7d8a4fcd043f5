"""The digits task: scikit-learn's 1797 handwritten digits on larger canvases, and networks trained on it.

It needs no download and trains in a minute, yet a network for it has the blocks, the batch norms and the
differing sensitivities of a network for photographs. Training and test canvases share no source digit.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

Split = Literal["train", "test"]

CANVAS = 32
# Mean and standard deviation of a two-digit canvas before normalisation. Fixed numbers, not statistics of the
# batch: an image must not depend on its neighbours.
MEAN, STD = 0.11, 0.23
# Part of every fingerprint. To be raised with any change below that alters what a network learns from, or
# how, and that no field of a recipe shows.
TASK_VERSION = 1

_log = logging.getLogger(__name__)


def two_digits(split: Split, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw canvases that show one digit on the left and one on the right.

    Returns: images (count, 1, 32, 32) float32, normalised; labels (count,) int64, ten times the left digit
    plus the right one. The same arguments give the same tensors, and the global random state is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    left, left_labels = _draw(split, count, generator, centre=-0.48, half_width=(0.42, 0.56))
    right, right_labels = _draw(split, count, generator, centre=0.48, half_width=(0.42, 0.56))
    return _finish(torch.maximum(left, right), generator), 10 * left_labels + right_labels


def one_digit(split: Split, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw canvases that show one digit in the middle, for networks that learn slowly.

    Returns: images (count, 1, 32, 32) float32, normalised; labels (count,) int64 from 0 to 9.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = _draw(split, count, generator, centre=0.0, half_width=(0.6, 0.9))
    return _finish(images, generator), labels


def batches(
    split: Split, digits: int, batch_size: int, count: int | None = None, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw batch after batch of fresh canvases with one or two digits; endless where count is None.

    Yields: images (batch_size, 1, 32, 32) and labels (batch_size,). A fixed count and seed make a fixed set.
    """
    draw = {1: one_digit, 2: two_digits}.get(digits)
    if draw is None:
        raise ValueError(f"[batches] digits={digits} is not supported; supported numbers are 1 and 2")
    # Seeds of batches lie far apart for separate sets, so that two sets do not share a batch. A generator only takes
    # the lower 32 bits of its seed; the odd factor scatters the sets over all of them.
    first = seed * 0x9E3779B1
    for index in itertools.count() if count is None else range(count):
        yield draw(split, batch_size, (first + index) % 2**32)


@functools.cache
def _source(split: Split) -> tuple[Tensor, Tensor]:
    """Return the source digits of a split: (n, 1, 8, 8) from 0 to 1, and labels (n,)."""
    if split not in ("train", "test"):
        raise ValueError(f"[digits] split={split!r} is not supported; supported splits are 'train' and 'test'")
    images, labels = _demo_module("sklearn.datasets").load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float().div(16).view(-1, 1, 8, 8)
    classes = torch.from_numpy(labels).long()
    # Every fourth digit of a class is for testing: stratified, and no version of a generator changes it.
    rank = F.one_hot(classes, 10).cumsum(0).gather(1, classes[:, None])[:, 0]
    chosen = (rank % 4 == 0) == (split == "test")
    return pixels[chosen], classes[chosen]


def _draw(
    split: Split, count: int, generator: torch.Generator, centre: float, half_width: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Draw `count` source digits, each rotated, scaled, shifted and dimmed at random on a canvas of its own.

    centre, half_width: in canvas coordinates, where the canvas spans -1 to 1.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    pixels, classes = _source(split)
    index = torch.randint(len(classes), (count,), generator=generator)
    angle, size = uniform(-0.35, 0.35), uniform(*half_width)
    x, y = centre + uniform(-0.07, 0.07), uniform(-0.25, 0.25)
    cos, sin = angle.cos() / size, angle.sin() / size
    rows = [cos, sin, -cos * x - sin * y, -sin, cos, sin * x - cos * y]
    grid = F.affine_grid(torch.stack(rows, 1).view(count, 2, 3), [count, 1, CANVAS, CANVAS], align_corners=False)
    canvas = F.grid_sample(pixels[index], grid, align_corners=False)
    return canvas * uniform(0.5, 1.0).view(-1, 1, 1, 1), classes[index]


def _finish(canvas: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise and normalise: (n, 1, 32, 32) to the same."""
    noise = torch.randn(canvas.shape, generator=generator)
    return (canvas + 0.1 * noise - MEAN) / STD


@dataclass(frozen=True)
class Recipe:
    """How a network is made and trained: over one cycle of the learning rate.

    optimizer: "sgd" has Nesterov momentum; "adamw" is for transformers, which SGD trains badly.
    """

    build: Callable[[], nn.Module]
    digits: int  # on a canvas; 1: ten classes, 2: a hundred
    batches: int
    batch_size: int
    lr: float  # at the peak of the cycle
    weight_decay: float = 5e-4
    seed: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"


def _resnet() -> nn.Module:
    """Build a ResNet-18 with half the channels, in four stages of two basic blocks."""
    resnet = _demo_module("timm.models.resnet")
    network: nn.Module = resnet.ResNet(
        resnet.BasicBlock, (2, 2, 2, 2), channels=(32, 64, 128, 256), in_chans=1, num_classes=100
    )
    return network


def _resnet18() -> nn.Module:
    network: nn.Module = _demo_module("timm").create_model("resnet18", in_chans=1, num_classes=100)
    return network


def _mobilenet() -> nn.Module:
    network: nn.Module = _demo_module("timm").create_model("mobilenetv2_050", in_chans=1, num_classes=10)
    # timm scales the classifier for a thousand classes. With ten, the first loss would be 6 instead of
    # log(10), and 300 batches would end at 60 % instead of 85 %.
    nn.init.zeros_(network.get_parameter("classifier.weight"))
    return network


def _vit() -> nn.Module:
    """Build a transformer of four blocks over 64 patches of 4 x 4 pixels."""
    network: nn.Module = _demo_module("timm.models.vision_transformer").VisionTransformer(
        img_size=CANVAS, patch_size=4, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=3
    )
    return network


RECIPES: dict[str, Recipe] = {
    "demo": Recipe(_resnet, digits=2, batches=1200, batch_size=64, lr=0.1),
    "resnet18": Recipe(_resnet18, digits=2, batches=900, batch_size=64, lr=0.1),
    "mobilenetv2_050": Recipe(_mobilenet, digits=1, batches=600, batch_size=64, lr=0.05, weight_decay=1e-4),
    "vit": Recipe(_vit, digits=1, batches=4000, batch_size=64, lr=1e-3, weight_decay=0.05, optimizer="adamw"),
}


def demo_network(progress: bool = True) -> nn.Module:
    """Return the demo's ResNet for two digits in eval mode, trained in about a minute the first time."""
    return trained("demo", progress=progress)


def trained(name: str, *, progress: bool = True) -> nn.Module:
    """Return the network of a recipe in eval mode on the CPU, from the cache or freshly trained into it.

    name: a key of RECIPES. progress: show a bar with the loss while training.

    The cache is $RIBS_CACHE, else $XDG_CACHE_HOME/ribs, else ~/.cache/ribs. A corrupt file in it is deleted
    with a warning, and the network trained again.

    Raises: ValueError for an unknown name; ImportError where the extra `demo` is not installed.
    """
    if name not in RECIPES:
        raise ValueError(f"[trained] name={name!r} is not a recipe; recipes are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    # Only the CPU's generator is forked, so only it is seeded: torch.manual_seed would reseed every GPU too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        network = recipe.build()
        path = _cache_folder() / f"{name}-{_fingerprint(recipe, network)}.safetensors"
        if not _load(network, path):
            _train(network, recipe, name, progress)
            _store(network, path)
    return network.eval()


def _train(network: nn.Module, recipe: Recipe, name: str, progress: bool) -> None:
    optimizer = _optimizer(network, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.batches, pct_start=0.25)
    stream = batches("train", recipe.digits, recipe.batch_size, recipe.batches, recipe.seed)
    network.train()
    with tqdm(stream, f"training {name}", recipe.batches, unit="batch", disable=not progress) as bar:
        for step, (images, labels) in enumerate(bar):
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )


def _fingerprint(recipe: Recipe, network: nn.Module) -> str:
    """Name what a recipe trains: its numbers, the task, and the network's tensors with their shapes."""
    numbers = {key: value for key, value in vars(recipe).items() if key != "build"}
    # Younger than the first cached networks, whose names must stay.
    if recipe.optimizer == "sgd":
        del numbers["optimizer"]
    text = json.dumps([TASK_VERSION, numbers, _shapes(network.state_dict())])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in state.items()}


def _cache_folder() -> Path:
    """Return the folder of trained networks, which may not exist yet."""
    if own := os.environ.get("RIBS_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "ribs"


def _load(network: nn.Module, path: Path) -> bool:
    """Fill a network from a file; False where there is none, or none that is whole."""
    if not path.exists():
        return False
    try:
        state = load_file(path)
        # Checked here since load_state_dict would copy what fits before it raises, and training would then
        # start from something else than the seed's weights.
        if _shapes(state) != _shapes(network.state_dict()):
            raise ValueError("its tensors are not the network's")
    except (SafetensorError, ValueError) as error:
        _log.warning("%s is corrupt (%s): deleting it and training again", path, error)
        path.unlink(missing_ok=True)
        return False
    network.load_state_dict(state)
    return True


def _store(network: nn.Module, path: Path) -> None:
    """Write a network's weights so that a reader sees the whole file or none, whatever is interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename is atomic only within one file system.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(network.state_dict()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Return the top-1 accuracy in percent of a model in the mode and on the device that it is in.

    images: (n, ...); labels: (n,) int64, both on the model's device. Raises: ValueError for no images.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"[accuracy] got {len(images)} images and {len(labels)} labels; needs one label an image")
    with torch.no_grad():
        pairs = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs)
    return 100.0 * right / len(labels)


def _demo_module(name: str) -> ModuleType:
    """Import a module of the extra `demo`, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"the digits task needs {package}, which is not installed; run: pip install 'ribs-quant[demo]'"
        ) from error
