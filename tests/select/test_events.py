"""What a search tells while it runs, against its result, its journal, and losses measured apart."""

import logging

import pytest
import torch.distributed as dist

import ribs
from small import content, journaled, loader, network, search
from test_ranks import together


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A search with a journal, and what it told: (result, journal, iterations, probes)."""
    journal, iterations, probes = tmp_path_factory.mktemp("journal"), [], []
    found = search(journal=journal, on_iteration=iterations.append, on_probe=probes.append)
    return found, journal, iterations, probes


def test_iterations_are_those_of_the_history(told):
    found, _, iterations, _ = told
    assert [each.record for each in iterations] == list(found.history)
    assert [(each.number, each.at_most) for each in iterations] == [(n, 3) for n in range(1, len(found.history) + 1)]
    for name, end in (("forward_equivalents", found.cost_of_search.forward_equivalents), ("seconds", None)):
        values = [getattr(each, name) for each in iterations]
        assert values == sorted(values) and values[0] > 0
        assert end is None or values[-1] <= end


def test_probes_are_the_losses_in_the_journal(told):
    _, journal, _, probes = told
    assert len({(tuple(each.bits.items()), each.shard) for each in probes}) == len(probes)
    assert len(probes) == len(journaled(journal))


@pytest.mark.parametrize("number", [0, -1])
def test_a_loss_that_is_told_is_that_of_its_network(told, number):
    probe = told[3][number]
    made = ribs.quantize(network(), loader(), probe.bits, progress=False)
    data = loader()[probe.shard]
    expected = ribs.losses.kl_divergence(network()(data).detach(), made.model(data).detach()).mean().item()
    assert (probe.loss, probe.samples) == (pytest.approx(expected, rel=1e-5), len(data))


@pytest.mark.parametrize(("name", "last"), [("on_iteration", 1), ("on_probe", 2)])
def test_what_a_callback_raises_ends_the_search_and_leaves_the_journal(told, tmp_path, name, last):
    events = []

    def stop(event):
        events.append(event)
        if len(events) == last:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        search(journal=tmp_path, **{name: stop})
    assert len(events) == last
    kept, probes = journaled(tmp_path), []
    assert 0 < len(kept) < len(told[3])
    assert content(search(journal=tmp_path, on_probe=probes.append)) == content(told[0])
    assert len(kept) + len(probes) == len(told[3])


def test_only_the_first_process_is_told_and_all_of_them_end(told, tmp_path):
    def count(rank):
        counts = [], []
        search(on_iteration=counts[0].append, on_probe=counts[1].append)
        return list(map(len, counts))

    first = [len(told[2]), len(told[3])]
    assert together(tmp_path, 2, count) == [str(first), "[0, 0]"]

    def stop(event):
        raise LookupError(f"enough of {dist.get_rank()}")

    (tmp_path / "again").mkdir()
    first, second = together(tmp_path / "again", 2, lambda rank: search(on_iteration=stop))
    assert first == "LookupError: enough of 0"
    assert second == "RuntimeError: [search] process 0 cannot go on: LookupError: enough of 0"


def test_the_log_is_silent_until_it_is_asked(caplog, capfd):
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("ribs").handlers)
    search()
    assert capfd.readouterr() == ("", "")
    with caplog.at_level(logging.INFO, "ribs"):
        found = search()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("3 units, 3 iterations")
    assert lines[1].startswith(f"iteration 1 of at most 3: loss {found.history[0].loss:.6g} +- ")
    assert len(lines) == 1 + len(found.history)
    assert all(record.name.startswith("ribs.") and record.levelno == logging.INFO for record in caplog.records)


def test_the_log_has_every_probe(caplog, told):
    with caplog.at_level(logging.DEBUG, "ribs"):
        search()
    probes = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(probes) == len(told[3])
    assert probes[0] == f"shard 0: loss {told[3][0].loss:.6g} of 8 samples at {told[3][0].bits}"
