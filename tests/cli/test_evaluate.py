"""Top-1 accuracy on folders of images whose classes are known."""

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("timm")

from PIL import Image

from ribs.cli.evaluate import Accuracy, evaluate, labelled_images

# timm leaves the file of an image for Python to close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
SIZE = (3, 8, 8)
# Brightness tells the classes apart. In natural order: class2 before class10.
LEVELS = {"class1": 30, "class2": 120, "class10": 220}


class Brightness(nn.Module):
    """Names the class whose level is nearest to the mean pixel, after undoing timm's default normalisation."""

    def __init__(self, levels):
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels) / 255)
        self.num_classes = len(levels)

    def forward(self, x):
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = x * std[:, None, None] + mean[:, None, None]
        return -(pixels.mean((1, 2, 3))[:, None] - self.levels).abs()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level in LEVELS.items():
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (10, 12), (level + index,) * 3).save(tmp_path / name / f"{index}.png")
    return tmp_path


def accuracy(model, folder, **options):
    return evaluate(model, labelled_images(folder, model, SIZE, batch_size=5, workers=0, **options), progress=False)


def test_labels_are_the_folders_in_natural_order(folder):
    assert accuracy(Brightness(list(LEVELS.values())), folder) == Accuracy(right=12, images=12)


def test_wrong_answers_count(folder):
    # The last two classes swapped: only the first is named rightly.
    found = accuracy(Brightness([30, 220, 120]), folder)
    assert found == Accuracy(right=4, images=12)
    assert found.top1 == pytest.approx(100 / 3)
    assert found.standard_error == pytest.approx(100 * (1 / 3 * 2 / 3 / 12) ** 0.5)
    assert str(found) == "33.33 % +- 13.61 of 12 images"


def test_a_limit_draws_images_of_all_classes_by_seed(folder):
    model = Brightness(list(LEVELS.values()))

    def labels(seed, limit):
        loader = labelled_images(folder, model, SIZE, batch_size=5, workers=0, limit=limit, seed=seed)
        return torch.cat([batch[1] for batch in loader]).tolist()

    assert labels(0, 7) == labels(0, 7) and len(labels(0, 7)) == 7
    assert labels(0, 12) != labels(1, 12) and sorted(labels(1, 12)) == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(labels(0, 7))) > 1


def test_a_folder_of_other_classes_is_refused(folder):
    with pytest.raises(ValueError, match="images of 3 classes and the model knows 2"):
        accuracy(Brightness([30, 120]), folder)
    with pytest.raises(ValueError, match="is no folder"):
        accuracy(Brightness([30, 120]), folder / "val")
    with pytest.raises(ValueError, match="0 images are too few"):
        accuracy(Brightness([30, 120, 220]), folder, limit=0)


def test_what_is_no_logits_is_refused():
    model = nn.Linear(4, 3)
    with pytest.raises(
        ValueError, match=r"output \(2, 5, 3\) for 2 images is not finite logits of shape \(2, classes\)"
    ):
        evaluate(model, [(torch.ones(2, 5, 4), torch.zeros(2, dtype=torch.int64))], progress=False)
    with pytest.raises(ValueError, match="not finite"):
        evaluate(model, [(torch.full((2, 4), float("nan")), torch.zeros(2, dtype=torch.int64))], progress=False)
    with pytest.raises(ValueError, match="there are no images"):
        evaluate(model, [], progress=False)
