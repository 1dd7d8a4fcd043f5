"""Searches shared by several processes, against the same search alone."""

import os
import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ribs.select.ranks import Ranks
from small import content, counting, in_children, journaled, loader, network, search, usual_loss


def together(folder, count, action) -> list[str]:
    """What `action(rank)` returned, or the error it raised, in each of `count` processes."""

    def process(rank):
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
        try:
            answer = action(rank)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        (folder / f"answer-{rank}").write_text(str(answer))
        dist.destroy_process_group()

    children = in_children(*(lambda rank=rank: process(rank) for rank in range(count)))
    for child in children:
        os.waitpid(child, 0)
    found = [folder / f"answer-{rank}" for rank in range(count)]
    return [path.read_text() if path.exists() else "" for path in found]


@pytest.mark.parametrize("profile", ["full", "race"])
@pytest.mark.parametrize("count", [2, 4])
def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path, count, profile):
    expected = content(search(profile=profile))
    assert together(tmp_path, count, lambda rank: content(search(profile=profile))) == [expected] * count


def test_every_loss_is_measured_once(tmp_path):
    search(journal=tmp_path / "alone")
    together(tmp_path, 3, lambda rank: search(journal=tmp_path / "journal"))
    assert sorted(journaled(tmp_path / "journal")) == sorted(journaled(tmp_path / "alone"))
    shares = [len(journaled(tmp_path / "journal", rank)) for rank in range(3)]
    assert min(shares) > 0.1 * sum(shares)


def test_after_a_death_the_search_goes_on_with_any_number_of_processes(tmp_path):
    expected = content(search())

    def dies(rank):
        calls = []

        def before():
            if rank == 1 and len(calls) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(1)

        return content(search(journal=tmp_path / "journal", loss=usual_loss(before)))

    survivor, victim = together(tmp_path, 2, dies)
    assert victim == ""
    assert survivor.startswith(("RuntimeError", "DistBackendError")), "the other process must not go on alone"
    kept, calls = journaled(tmp_path / "journal"), []
    assert len(kept) >= 12 - len(loader())
    assert content(search(journal=tmp_path / "journal", loss=counting(calls))) == expected
    search(journal=tmp_path / "alone")
    assert len(calls) == len(loader()) + len(journaled(tmp_path / "alone")) - len(kept)


DIFFERENT = {
    "model": lambda rank: {"model": network(rank)},
    "data": lambda rank: {"data": loader(samples=8)[: 2 + rank]},
    "budget": lambda rank: {"budget": "4/4" if rank else "3/3"},
    "seed": lambda rank: {"seed": rank},
}


@pytest.mark.parametrize("field", DIFFERENT)
def test_processes_that_differ_all_say_so(tmp_path, field):
    answers = together(tmp_path, 2, lambda rank: search(**DIFFERENT[field](rank)))
    for answer in answers:
        assert answer.startswith("ValueError: [search] the processes do not search the same")
        assert field in answer


def test_an_error_in_one_process_ends_all(tmp_path):
    (tmp_path / "journal" / "losses-1.lock").mkdir(parents=True)  # it cannot be opened
    answers = together(tmp_path, 2, lambda rank: search(journal=tmp_path / "journal"))
    assert answers[1].startswith("JournalError")
    assert answers[0].startswith("RuntimeError: [search] process 1 cannot go on: JournalError")


def test_one_process_alone():
    ranks = Ranks()
    assert (ranks.rank, ranks.count, ranks.share([3.0, 1.0])) == (0, 1, [0, 1])
    rows = [np.array([1.0, np.nan])]
    assert ranks.gather(rows, [0], 1)[0] is rows[0]
    with pytest.raises(ZeroDivisionError):
        ranks.together(lambda: 1 / 0)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_cover_the_work_evenly(count):
    work = torch.rand(40, generator=torch.Generator().manual_seed(count)).tolist()
    shares = []
    for rank in range(count):
        ranks = Ranks()
        ranks.rank, ranks.count = rank, count
        shares.append(ranks.share(work))
    assert sorted(job for share in shares for job in share) == list(range(40))
    loads = [sum(work[job] for job in share) for share in shares]
    assert max(loads) - min(loads) <= max(work)


def test_numbers_come_through_bit_for_bit(tmp_path):
    rows = [np.array([np.nan, -0.0, 1e-310]), np.array([np.inf, 1 / 3, -np.inf]), np.zeros(3)]

    def gathered(rank):
        ranks = Ranks()
        mine = ranks.share([1.0] * 3)
        found = ranks.gather([rows[job] for job in mine], mine, 3)
        return all(a.tobytes() == b.tobytes() for a, b in zip(found, rows, strict=True))

    assert together(tmp_path, 2, gathered) == ["True", "True"]
