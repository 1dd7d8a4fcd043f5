"""`ribs evaluate`: top-1 accuracy on a folder of labelled images."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

import ribs
from ribs.cli.models import image_folder, input_size, load_model
from ribs.cli.output import bars, print_json


def run(arguments: argparse.Namespace) -> None:
    """Print the accuracy of a saved result."""
    model = load_model(arguments.model, checkpoint=None, pretrained=False)  # its weights are those saved
    result = ribs.load(arguments.saved, model.to(arguments.device))
    images = labelled_images(
        Path(arguments.data),
        model,
        input_size(model, arguments.input_size),
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    found = evaluate(result.model, images, progress=bars(arguments))
    if arguments.json:
        accuracy = {"top1": found.top1, "standard_error": found.standard_error, "images": found.images}
        print_json({**accuracy, "bops": result.bops, "size_mib": result.size_mib})
    else:
        print(f"top-1 {found}, at {result.bops / 1e9:.6g} GBOPs and {result.size_mib:.4g} MiB")


@dataclass(frozen=True)
class Accuracy:
    """right: how many of `images` were named rightly."""

    right: int
    images: int

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.right / self.images

    @property
    def standard_error(self) -> float:
        """Of `top1` in percent, the images being a sample of all there could be."""
        return 100 * math.sqrt(self.right * (self.images - self.right) / self.images**3)

    def __str__(self) -> str:
        return f"{self.top1:.2f} % +- {self.standard_error:.2f} of {self.images} images"


def labelled_images(
    folder: Path,
    model: nn.Module,
    size: tuple[int, ...],
    *,
    batch_size: int,
    workers: int,
    limit: int | None = None,
    seed: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of images and labels from a folder with a folder for each class, prepared as timm evaluates the model.

    size: (channels, height, width) of one image.  limit: take this many, drawn by `seed`; all by default.
    Raises: ValueError for a folder that is missing or has another number of classes than the model.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; it should hold the labelled images, a folder for each class")
    if limit is not None and limit < 1:
        raise ValueError(f"{limit} images are too few to evaluate on; give at least 1")
    images = image_folder(folder, model, size)
    found, known = len(images.reader.class_to_idx), getattr(model, "num_classes", None)
    if known is not None and found != known:
        raise ValueError(
            f"{folder} has images of {found} classes and the model knows {known}: its labels would not be the model's"
        )
    if limit is not None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        images = Subset(images, order[:limit].tolist())
    return DataLoader(images, batch_size, num_workers=workers)


def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, progress: bool = True, label: str = "evaluating"
) -> Accuracy:
    """Top-1 accuracy of a model in the mode and on the device that it is in.

    batches: of images (n, ...) and labels (n,) int64, on any device.  label: of the bar.
    Raises: ValueError for no images, and for outputs that are not finite (n, classes).
    """
    device = next(model.parameters()).device
    right = images = 0
    with torch.no_grad():
        for x, labels in tqdm(batches, label, unit="batch", disable=not progress):
            logits = model(x.to(device))
            if logits.dim() != 2 or len(logits) != len(labels) or not bool(logits.isfinite().all()):
                raise ValueError(
                    f"[evaluate] the model's output {tuple(logits.shape)} for {len(labels)} images is not finite "
                    f"logits of shape ({len(labels)}, classes)"
                )
            right += int((logits.argmax(1) == labels.to(device)).sum())
            images += len(labels)
    if images == 0:
        raise ValueError("[evaluate] there are no images")
    return Accuracy(right, images)
