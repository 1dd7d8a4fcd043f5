"""Searches that keep a journal: interrupted ones end with the same result, foreign ones are refused."""

import os
import random
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch

import ribs
from ribs.select.errors import JournalError
from ribs.select.identity import _of_loss
from ribs.select.journal import Journal
from ribs.select.loss import Dense, KLDivergence
from small import content, counting, in_children, journaled, loader, network, search

KILLS = 100


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_result(tmp_path):
    """A hundred kills at random moments, each followed by the same call to its end."""
    expected = content(search())
    started = time.perf_counter()
    search(journal=tmp_path / "timed")
    length = time.perf_counter() - started
    total = len(journaled(tmp_path / "timed"))
    moments, kept = random.Random(0), []
    for number in range(KILLS):
        folder = tmp_path / str(number)
        [child] = in_children(lambda folder=folder: search(journal=folder))
        time.sleep(moments.random() * length)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        before = len(journaled(folder)) if folder.exists() else 0
        kept.append(before)
        measured = []
        assert content(search(journal=folder, loss=counting(measured))) == expected
        # The float outputs are checked by their own loss; beyond them nothing known is measured again.
        assert len(measured) == len(loader()) + total - before
    assert len(set(kept)) > 5, "the kills must fall in different places"


def test_the_work_lost_is_one_probe(tmp_path):
    """Stopped in the middle of each measurement in turn, it measures that one again and none before it."""
    calls = []
    expected = content(search(loss=counting(calls)))
    for at in range(4, len(calls), 7):
        folder = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            search(journal=folder, loss=counting([], stop_at=at))
        again = []
        assert content(search(journal=folder, loss=counting(again))) == expected
        assert len(again) == len(loader()) + len(calls) - at


def test_another_budget_uses_what_is_journaled(tmp_path):
    search(journal=tmp_path, algorithm="paper")
    measured = []
    result = search(journal=tmp_path, budget="3/3", loss=counting(measured), algorithm="paper")
    alone = []
    assert content(result) == content(search(budget="3/3", loss=counting(alone), algorithm="paper"))
    # The first profile is the same; what is found from it is not.
    assert len(measured) <= len(alone) - 3 * 7


@pytest.mark.parametrize(
    "budget",
    [
        {"size": ("2/2", "4/4"), "average_bits": 4.5},
        {"activation_memory": "60% of 8/8"},
        {"costs": {"latency": (lambda unit, bits: bits[0], "3/3")}},
        {"bops": "4/4", "accounting": "deployment"},
    ],
    ids=lambda budget: "-".join(budget),
)
def test_so_does_a_budget_of_anything_else(tmp_path, budget):
    search(journal=tmp_path)
    measured, alone = [], []
    result = search(journal=tmp_path, budget=ribs.Budget(**budget), loss=counting(measured))
    assert content(result) == content(search(budget=ribs.Budget(**budget), loss=counting(alone)))
    assert len(measured) <= len(alone) - 3 * 7


def changed_weight():
    model = network()
    weight = model[2].weight.data.view(-1)
    weight[5] = torch.nextafter(weight[5], torch.tensor(9.0))
    return model


def changed_sample():
    data = loader()
    data[1][3, 0, 0, 0] += 1e-6
    return data


def other_loss(reference, output):
    return (reference - output).square().sum(1)


FOREIGN = {
    "model": {"model": changed_weight()},
    "data": {"data": changed_sample()},
    "shards": {"data": [torch.cat(loader())]},
    "candidates": {"bits": (2, 3, 8)},
    "units": {"units": {"both": ["0", "2"]}},
    "loss": {"loss": other_loss},
    "recipe": {"pool_batches": True},
    "seed": {"seed": 1},
}


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journal")
    search(journal=folder, iterations=1)
    return folder


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"pins": {"first": 8}}, "candidates"),
        ({"allowed": {"*": (2, 4)}}, "candidates"),
        ({"activation_bits": (4, 8)}, "candidates"),
        ({"target": "imx500", "activation_bits": 8}, "candidates"),
        ({"ties": [["0", "5"]]}, "units"),
    ],
    ids=str,
)
def test_other_candidates_are_another_search(journal, options, field):
    with pytest.raises(JournalError, match=rf"\b{field}\b"):
        search(journal=journal, budget="6/6", **options)


def scaled(by):
    return lambda reference, output: by * other_loss(reference, output)


def again(reference, output, deep=1):
    return again(reference, output, deep - 1) if deep else other_loss(reference, output)


LOSSES = {
    "usual": KLDivergence,
    "at": lambda: KLDivergence(at=0),
    "other class": Dense,
    "function": lambda: other_loss,
    "lambda": lambda: lambda reference, output: other_loss(reference, output),
    "other code": lambda: lambda reference, output: other_loss(output, reference),
    "other constant": lambda: lambda reference, output: 2 * other_loss(reference, output),
    "closure": lambda: scaled(1.0),
    "other closure": lambda: scaled(2.0),
    "tensor": lambda: scaled(torch.ones(1)),
    "other tensor": lambda: scaled(torch.ones(1) * 2),
    "module": lambda: scaled(torch.nn.Linear(1, 1)),
    "calls itself": lambda: again,
    "partial": lambda: partial(again, deep=2),
    "other partial": lambda: partial(again, deep=3),
    "method": lambda: ribs.Budget(bops=1).terms,
}


def test_every_loss_is_told_from_every_other_and_is_itself():
    def words(build):
        torch.manual_seed(0)
        return _of_loss(build())

    found = {name: words(build) for name, build in LOSSES.items()}
    assert len(set(found.values())) == len(LOSSES)
    assert found == {name: words(build) for name, build in LOSSES.items()}


@pytest.mark.parametrize("field", FOREIGN)
def test_a_foreign_journal_is_refused(journal, field):
    with pytest.raises(JournalError, match=rf"\b{field}\b"):
        search(journal=journal, **FOREIGN[field])


def test_a_loader_that_yields_other_data_is_found(journal):
    """A shuffling loader without a seed: the second call is refused, and names the data."""
    shuffled = [batch[torch.randperm(len(batch))] for batch in loader()]
    with pytest.raises(JournalError, match="data"):
        search(data=shuffled, journal=journal)


def test_a_loader_that_can_be_read_once_is_enough(tmp_path):
    once = iter(loader())
    assert content(search(data=once, journal=tmp_path)) == content(search())
    assert list(once) == []


def test_a_journal_in_use_is_refused(tmp_path):
    with Journal(tmp_path, {"model": "x"}), pytest.raises(JournalError, match="in use"):
        search(journal=tmp_path)


def test_refused_before_any_work(journal):
    class Counts(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Counts.calls += 1
            return x

    model = torch.nn.Sequential(*network(), Counts()).eval()
    with pytest.raises(JournalError):
        search(model, journal=journal)
    assert Counts.calls <= 1, "only the trace may have run"


def test_a_full_disk_ends_the_search_and_keeps_what_was_measured(tmp_path, monkeypatch):
    expected, records = content(search()), Journal.record

    def full(self, choice, shard, losses):
        if len(self.known) == 9:
            raise JournalError("[journal] cannot be written (database or disk is full)")
        records(self, choice, shard, losses)

    with monkeypatch.context() as patched, pytest.raises(JournalError, match="full"):
        patched.setattr(Journal, "record", full)
        search(journal=tmp_path)
    measured = []
    assert content(search(journal=tmp_path, loss=counting(measured))) == expected
    alone = []
    search(loss=counting(alone))
    assert len(measured) == len(alone) - 9


def test_non_finite_losses_come_back_from_the_journal(tmp_path):
    def poisoned(reference, output):
        losses = (reference - output).square().sum(1)
        return torch.where(losses.mean() > 1.0, torch.nan, losses)

    with pytest.warns(RuntimeWarning, match="NaN or Inf"):
        first = search(journal=tmp_path, loss=poisoned)
    with pytest.warns(RuntimeWarning, match="NaN or Inf"):
        second = search(journal=tmp_path, loss=poisoned)
    assert content(first) == content(second)
    assert np.isfinite(first.loss)
