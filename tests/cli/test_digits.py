"""The digits task, and the cache of its trained networks, with recipes that train in a moment."""

import dataclasses
import itertools
import logging
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")

from ribs.cli import digits

DRAWS = {"one": (digits.one_digit, 10), "two": (digits.two_digits, 100)}
draws = pytest.mark.parametrize(("draw", "classes"), DRAWS.values(), ids=DRAWS)


def _tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(196, 10),
    )


TINY = digits.Recipe(_tiny, digits=1, batches=6, batch_size=8, lr=0.1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a table with one tiny recipe."""
    monkeypatch.setenv("RIBS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digits, "RECIPES", {"tiny": TINY})
    return tmp_path / "cache"


@pytest.fixture
def trainings(monkeypatch):
    """The names of the recipes trained so far."""
    names = []
    train = digits._train

    def counted(network, recipe, name, progress):
        names.append(name)
        train(network, recipe, name, progress)

    monkeypatch.setattr(digits, "_train", counted)
    return names


def _assert_same(left: nn.Module, right: nn.Module) -> None:
    torch.testing.assert_close(left.state_dict(), right.state_dict(), rtol=0, atol=0)


@draws
def test_canvases_have_their_shapes_and_are_normalised(draw, classes):
    images, labels = draw("train", 2000, 0)
    assert images.shape == (2000, 1, 32, 32) and images.dtype == torch.float32
    assert labels.shape == (2000,) and labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(classes))
    assert abs(images.mean()) < 0.15 and 0.85 < images.std() < 1.15


@draws
def test_a_seed_decides_the_canvases(draw, classes):
    images, labels = draw("test", 40, 7)
    again, labels_again = draw("test", 40, 7)
    other, _ = draw("test", 40, 8)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert not torch.equal(images, other)


def test_left_digit_is_the_tens():
    # The mean canvas of a left 0 is dark in the middle of its ring, that of a left 1 is bright there; the
    # right halves of both average over all digits.
    images, labels = digits.two_digits("train", 8000, 0)
    ring, stroke = images[labels // 10 == 0].mean(0)[0], images[labels // 10 == 1].mean(0)[0]
    difference = (ring - stroke).abs()
    assert difference[:, :16].max() > 5 * difference[:, 16:].max()


def test_splits_share_no_source_digit_and_cover_all():
    train, train_labels = digits._source("train")
    test, test_labels = digits._source("test")
    assert len(train) + len(test) == 1797
    assert not {tuple(x.flatten().tolist()) for x in train} & {tuple(x.flatten().tolist()) for x in test}
    assert (test_labels.bincount() / (test_labels.bincount() + train_labels.bincount()) - 0.25).abs().max() < 0.01


def test_batches_are_fresh_and_repeatable():
    first, second = (list(digits.batches("test", 2, 8, count=3, seed=5)) for _ in range(2))
    assert len(first) == 3 and not torch.equal(first[0][0], first[1][0])
    assert all(torch.equal(a, b) for a, b in zip(itertools.chain(*first), itertools.chain(*second), strict=True))
    endless = list(itertools.islice(digits.batches("test", 2, 8, seed=5), 4))
    assert torch.equal(endless[2][0], first[2][0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next(digits.batches("train", 3, 8)), "digits=3 is not supported"),
        (lambda: digits.two_digits("validation", 8, 0), "split='validation' is not supported"),
        (lambda: digits.trained("vgg"), "name='vgg' is not a recipe; recipes are demo"),
        (lambda: digits.accuracy(nn.Identity(), torch.ones(2, 3), torch.ones(1)), "2 images and 1 labels"),
        (lambda: digits.accuracy(nn.Identity(), torch.ones(0, 3), torch.ones(0)), "0 images"),
    ],
    ids=["digits", "split", "name", "labels", "empty"],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_accuracy_counts_right_answers_in_percent():
    logits = torch.eye(4)[[0, 1, 2, 3, 0, 0, 0, 0]]
    labels = torch.tensor([0, 1, 2, 0, 1, 1, 1, 1])
    assert digits.accuracy(nn.Identity(), logits, labels, batch_size=3) == 37.5


def test_training_is_cached_and_reused(cache, trainings):
    first, second = (digits.trained("tiny", progress=False) for _ in range(2))
    assert trainings == ["tiny"]
    _assert_same(first, second)
    assert not first.training and not second.training
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]  # and no temporary file


def test_training_repeats_bit_for_bit(cache, monkeypatch, tmp_path):
    first = digits.trained("tiny", progress=False)
    monkeypatch.setenv("RIBS_CACHE", str(tmp_path / "other"))
    torch.rand(5)  # the state of the global generator must not matter
    _assert_same(first, digits.trained("tiny", progress=False))


CHANGES = {"lr": {"lr": 0.2}, "batches": {"batches": 8}, "seed": {"seed": 1}, "optimizer": {"optimizer": "adamw"}}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_recipe_trains_again(cache, trainings, monkeypatch, change):
    digits.trained("tiny", progress=False)
    monkeypatch.setattr(digits, "RECIPES", {"tiny": dataclasses.replace(TINY, **change)})
    digits.trained("tiny", progress=False)
    assert len(trainings) == 2 and len(list(cache.iterdir())) == 2


def test_networks_cached_by_earlier_versions_keep_their_names():
    # Names of files that exist: a new field of a recipe must not orphan them.
    pytest.importorskip("timm")
    names = {"demo": "e1cd564c5d89", "mobilenetv2_050": "8a027f4553d0"}
    found = {name: digits._fingerprint(digits.RECIPES[name], digits.RECIPES[name].build()) for name in names}
    assert found == names


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" * len(data),
        lambda data: digits.save({"another": torch.ones(3)}),
    ],
    ids=["empty", "cut", "garbage", "foreign"],
)
def test_a_corrupt_file_is_replaced(cache, trainings, caplog, damage):
    first = digits.trained("tiny", progress=False)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        _assert_same(first, digits.trained("tiny", progress=False))
    assert "is corrupt" in caplog.text and len(trainings) == 2
    assert path.read_bytes() == whole


def test_an_interrupted_write_leaves_nothing(cache, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        digits.trained("tiny", progress=False)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("full", [False, True], ids=["cached", "trained"])
def test_the_global_generator_is_left_alone(cache, full):
    if not full:
        digits.trained("tiny", progress=False)
    before = torch.random.get_rng_state()
    digits.trained("tiny", progress=False)
    digits.two_digits("train", 8, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("RIBS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert digits._cache_folder() == tmp_path / ".cache" / "ribs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert digits._cache_folder() == tmp_path / "xdg" / "ribs"
    monkeypatch.setenv("RIBS_CACHE", str(tmp_path / "own"))
    assert digits._cache_folder() == tmp_path / "own"


@pytest.mark.parametrize("name", digits.RECIPES)
def test_recipes_build_networks_for_their_task(name):
    pytest.importorskip("timm")
    recipe = digits.RECIPES[name]
    ((images, _),) = digits.batches("train", recipe.digits, 2, count=1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        assert recipe.build().eval()(images).shape == (2, 10**recipe.digits)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm.*ribs-quant\[demo\]"):
        digits._resnet18()
