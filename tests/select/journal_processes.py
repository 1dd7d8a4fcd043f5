"""Processes that record in a journal and are killed: `python journal_processes.py JOB FOLDER ...` runs one job below.

They run apart from pytest, since a fork of this small process takes a few milliseconds and copies no threads.
"""

import itertools
import os
import random
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from ribs.select.errors import JournalError
from ribs.select.journal import Journal

IDENTITY = {"model": "m" * 64, "seed": "0"}


@lru_cache(maxsize=4096)
def row(i: int, rank: int = 0, samples: int = 64) -> tuple[tuple[int, ...], int, np.ndarray]:
    """Row i of a rank: any bits, NaN and inf among them."""
    bits = np.random.default_rng([i, rank]).integers(0, 2**64, samples, dtype=np.uint64)
    bits[:3] = 0x7FF0000000000001 + i, 0x7FF0000000000000, 0xFFF8000000000000 + i
    return (rank, i % 7, i // 7 % 251, i // 1757), i % 3, bits.view(np.float64)


def journal(folder: Path, **options: int) -> Journal:
    return Journal(folder, IDENTITY, **options)


def written(folder: Path, count: int) -> Path:
    """A journal of the first rows, closed."""
    with journal(folder) as new:
        for i in range(count):
            new.record(*row(i))
    return folder / "losses-0.sqlite"


def assert_rows(known: dict, count: int, rank: int = 0, samples: int = 64) -> None:
    """`known` is exactly the first rows, bit for bit."""
    assert len(known) == count
    for i in range(count):
        choice, shard, losses = row(i, rank, samples)
        assert known[choice, shard].tobytes() == losses.tobytes(), i


def fork(body: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            body()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    return child


def ends(child: int) -> int:
    """How it ended: a signal's number, negative, or its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def record_forever(folder: Path, told: int, rank: int = 0, reopen_every: int = 1 << 60) -> None:
    """Goes on with the row after those known, and tells a byte after each."""
    while True:
        with journal(folder, rank=rank) as opened:
            first = sum(choice[0] == rank for choice, _ in opened.known)
            for i in range(first, first + reopen_every):
                opened.record(*row(i, rank))
                os.write(told, b".")


def kills(folder: Path, count: int) -> None:
    """Kill at any moment of opening, recording and closing: what was recorded is there, and at most one row more."""
    random.seed(0)
    done = unacknowledged = 0
    for _ in range(count):
        reading, telling = os.pipe()
        child = fork(lambda told=telling: record_forever(folder, told, reopen_every=4))
        os.close(telling)
        told = sum(len(os.read(reading, 1)) for _ in range(random.randrange(8)))
        time.sleep(random.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        assert ends(child) == -signal.SIGKILL
        told += len(os.read(reading, 1 << 16))
        os.close(reading)
        with journal(folder) as opened:
            assert done + told <= len(opened.known) <= done + told + 1
            assert_rows(opened.known, len(opened.known))
            unacknowledged += len(opened.known) - done - told
            done = len(opened.known)
    with journal(folder) as opened:
        for i in range(done, done + 10):
            opened.record(*row(i))
    with journal(folder) as opened:
        assert_rows(opened.known, done + 10)
    assert done > 3 * count
    print(f"{count} kills in {done} rows, {unacknowledged} of them on the disk but not told")


def kills_at_opening(folder: Path) -> None:
    """Die before every single call to SQLite or the system that the first opening makes."""

    def open_and_die(at: int, where: Path) -> None:
        calls = itertools.count()

        def watch(frame: object, event: str, called: object) -> None:
            on = getattr(called, "__self__", None)
            of_interest = isinstance(on, sqlite3.Connection) or getattr(on, "__name__", "") in ("posix", "_sqlite3")
            if event == "c_call" and of_interest and next(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        journal(where)
        sys.setprofile(None)

    for at in itertools.count():
        where = folder / str(at) / "deeper"
        if ends(fork(lambda at=at, where=where: open_and_die(at, where))) == 0:
            break
        with journal(where) as opened:
            assert opened.known == {}
            opened.record(*row(0))
        with journal(where) as opened:
            assert_rows(opened.known, 1)
        assert sorted(os.listdir(where)) == ["losses-0.lock", "losses-0.sqlite"]
    print(f"{at} calls")
    assert at > 20


def ranks_at_once(folder: Path, rounds: int, ranks: int) -> None:
    """Ranks that open the same new or old folder at the same moment and record at once."""
    for number in range(rounds):
        waiting, go = os.pipe()

        def rank_body(rank: int, first: int = number, waiting: int = waiting, go: int = go) -> None:
            os.close(go)
            os.read(waiting, 1)  # until all are there
            with journal(folder / str(first // 2), rank=rank) as opened:
                for i in range(first % 2 * 3, first % 2 * 3 + 3):
                    opened.record(*row(i, rank))

        children = [fork(lambda rank=rank: rank_body(rank)) for rank in range(ranks)]
        os.close(go)
        assert [ends(child) for child in children] == [0] * ranks
        os.close(waiting)
        with journal(folder / str(number // 2)) as opened:
            assert len(opened.known) == ranks * 3 * (number % 2 + 1)


def read_while_writing(folder: Path, times: int) -> None:
    """Rank 0 opens again and again while rank 1 records: it gets all that was recorded before, and only whole rows."""
    reading, telling = os.pipe()
    child = fork(lambda: record_forever(folder, telling, rank=1))
    told = 0
    for _ in range(times):
        told += len(os.read(reading, 1 << 16))
        with journal(folder, rank=0) as opened:
            assert len(opened.known) >= told
            assert_rows(opened.known, len(opened.known), rank=1)
    os.kill(child, signal.SIGKILL)
    assert ends(child) == -signal.SIGKILL
    print(f"{told} rows")


def full_disk(folder: Path, limit: int) -> None:
    """Files cannot grow beyond `limit` bytes: every row before the failure is kept, and the same journal goes on."""
    samples = 4096
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with journal(folder) as opened:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for i in itertools.count():
            try:
                opened.record(*row(i, 0, samples))
            except JournalError as error:
                print(error)
                break
        assert_rows(opened.known, i, 0, samples)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        if limit % 2:  # else as after a crash: the process ends here
            opened.record(*row(i, 0, samples))
            i += 1
    with journal(folder) as opened:
        assert_rows(opened.known, i, 0, samples)
    print(f"{i} rows")


def full_disk_at_opening(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    failed = 0
    for limit in range(0, 40_000, 2048):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            journal(folder / str(limit)).close()
        except JournalError as error:
            assert "cannot be written" in str(error)
            failed += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        written(folder / str(limit), 2)
    print(f"{failed} failed")
    assert 3 <= failed < 20


def hold(folder: Path) -> None:
    with journal(folder) as opened:
        opened.record(*row(0))
        print("open", flush=True)
        sys.stdin.read()


def without_permission(folder: Path) -> None:
    """Open as somebody who may not do all; root may, whatever the permissions say."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        journal(folder).close()
    except JournalError as error:
        print(error)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
