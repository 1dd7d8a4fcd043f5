"""The journal: nothing recorded is lost, whatever happens to the process, its disk and its neighbours."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import journal_processes
from journal_processes import IDENTITY, assert_rows, journal, row, written
from ribs.select.errors import JournalError
from ribs.select.journal import Journal

SCRIPT = journal_processes.__file__


def run(job: str, folder: Path, *arguments: int) -> str:
    command = [sys.executable, SCRIPT, job, str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_round_trip(tmp_path):
    """Any bits, also NaNs with a payload, any number of samples, units and candidates."""
    rng = np.random.default_rng(0)
    for case in range(12):
        units, rows = int(rng.integers(0, 60)), {}
        with journal(tmp_path / str(case) / "deeper") as first:
            for _ in range(int(rng.integers(0, 12))):
                key = tuple(rng.integers(0, 256, units).tolist()), int(rng.integers(0, 2**63))
                bits = rng.integers(0, 2**64, 2 * int(rng.integers(0, 1000)), dtype=np.uint64)
                bits[rng.random(bits.shape) < 0.2] |= np.uint64(0x7FF0000000000000)
                losses = bits.view(np.float64)[:: int(rng.integers(1, 3))]
                first.record(np.array(key[0], dtype=np.int64), np.int64(key[1]), losses)
                rows.setdefault(key, losses.copy())
                losses[:] = 0  # the caller's array is its own
            known = first.known
        with journal(tmp_path / str(case) / "deeper") as second:
            for found in (known, second.known):
                assert list(found) == list(rows)
                assert all(found[key].tobytes() == rows[key].tobytes() for key in rows)
                assert all(losses.dtype == np.float64 and not losses.flags.writeable for losses in found.values())


def test_numbers_of_ranks_may_change(tmp_path):
    """Each run knows all that any rank of any run before recorded, and only writes its own files."""
    done = {}
    for run_number, world in enumerate([1, 4, 2, 3, 1]):
        ranks = [journal(tmp_path, rank=rank) for rank in range(world)]
        assert all(rank.known.keys() == done.keys() for rank in ranks)
        before = {path.name: path.read_bytes() for path in tmp_path.glob("*.sqlite")}
        for rank, opened in enumerate(ranks):
            choice, shard, losses = row(run_number, rank)
            opened.record(choice, shard, losses)
            done[choice, shard] = losses
            opened.close()
            opened.close()
        for name in before.keys() - {f"losses-{rank}.sqlite" for rank in range(world)}:
            assert (tmp_path / name).read_bytes() == before[name]
    with journal(tmp_path, rank=7) as last:
        assert {key: losses.tobytes() for key, losses in last.known.items()} == {
            key: losses.tobytes() for key, losses in done.items()
        }


def test_a_known_pair_stays_as_it_was(tmp_path):
    with journal(tmp_path) as zero, journal(tmp_path, rank=1) as one:
        one.record((1, 2), 0, np.ones(3))
        zero.record((1, 2), 0, np.zeros(3))
        zero.record((1, 2), 0, np.ones(3))
    for rank in range(3):
        with journal(tmp_path, rank=rank) as again:
            assert again.known[(1, 2), 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("field", IDENTITY)
def test_another_identity_is_refused(tmp_path, field):
    written(tmp_path, 3)
    changed = {**IDENTITY, field: "other"}
    missing = {name: value for name, value in IDENTITY.items() if name != field}
    for identity, here in ((changed, "'other'"), (missing, "missing")):
        with pytest.raises(JournalError, match=rf"another search: {field} is .* there and {here} here\. Give another"):
            Journal(tmp_path, identity)
    with pytest.raises(JournalError, match="more is missing there and '1' here"):
        Journal(tmp_path, {**IDENTITY, "more": "1"}, rank=1)  # and in the files of other ranks
    with journal(tmp_path, rank=1) as again:
        assert_rows(again.known, 3)


def test_every_difference_of_identity_is_shown_where_it_is(tmp_path):
    start = "a" * 1000
    Journal(tmp_path, {"units": f"{start}1{start}", "same": "\udcff", "seed": "0"}).close()
    with pytest.raises(JournalError) as caught:
        Journal(tmp_path, {"units": f"{start}2{start}", "same": "\udcff", "seed": "1"})
    shown = r"seed is '0' there and '1' here; units is ...'a+1a+'... there and ...'a+2a+'... here"
    assert re.search(shown, str(caught.value))
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_in_use_until_the_other_process_dies(tmp_path):
    with subprocess.Popen(
        [sys.executable, SCRIPT, "hold", str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match=re.escape(f"{tmp_path} is in use by another process")):
            journal(tmp_path)
        other.kill()
    with journal(tmp_path) as mine:
        assert_rows(mine.known, 1)
        with pytest.raises(JournalError, match="in use"):
            journal(tmp_path)
    journal(tmp_path).close()


def test_kills_while_recording(tmp_path):
    print(run("kills", tmp_path, 100))


def test_kills_at_every_step_of_the_first_opening(tmp_path):
    print(run("kills_at_opening", tmp_path))


def test_ranks_that_open_at_the_same_moment(tmp_path):
    run("ranks_at_once", tmp_path, 4, 4)


def test_reading_while_another_rank_writes(tmp_path):
    print(run("read_while_writing", tmp_path, 30))


def test_waits_for_a_rank_that_holds_its_file_for_a_moment(tmp_path):
    """As SQLite does when it recovers a file, or closes it."""
    path = written(tmp_path, 2)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            closing(sqlite3.connect(path, timeout=0)) as other,
        ):
            other.execute("SELECT * FROM losses")
        end = threading.Timer(0.2, holder.close)
        end.start()
        with journal(tmp_path, rank=1) as opened:
            assert_rows(opened.known, 2)
        end.join()


# First nothing fits, then the log beside the file is full, then the file, into which SQLite moves the log at times.
@pytest.mark.parametrize("limit", [100, 300_000, 300_001, 4_500_000, 4_500_001])
def test_full_disk(tmp_path, limit):
    said = run("full_disk", tmp_path, limit)
    kept = "everything measured so far is kept: free some space and make the same call again"
    assert re.search(rf"losses-0\.sqlite cannot be written \(.+\); {kept}", said)


def test_full_disk_at_opening(tmp_path):
    print(run("full_disk_at_opening", tmp_path))


@pytest.mark.parametrize("name", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_one(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(
        JournalError, match=rf"{name} cannot be written \(.+\); make it writable or give another folder"
    ):
        journal(tmp_path / name)


@pytest.mark.parametrize("names", [("losses-0.sqlite",), ("losses-0.lock",), ("losses-0.sqlite.new",)])
def test_folders_in_the_place_of_files(tmp_path, names):
    (tmp_path / names[0]).mkdir()
    with pytest.raises(JournalError, match=r"cannot be (read|written)"):
        journal(tmp_path)


@pytest.mark.parametrize("name", ["a b", "50%41?mode=ro#x", "ü", "'"])
def test_odd_names_of_folders(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(Path(name), 1)
    assert sorted(os.listdir(tmp_path / name)) == ["losses-0.lock", "losses-0.sqlite"]
    with journal(tmp_path / name) as opened:
        assert_rows(opened.known, 1)


@pytest.fixture
def open_to_all():
    """A folder that other users reach, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("folder_mode", "lock_mode", "file_mode", "message"),
    [
        (0o555, 0o666, 0o666, "cannot be (read|written)"),
        (0o777, 0o444, 0o666, "cannot be written"),
        (0o777, 0o666, 0o444, "cannot be written"),
        (0o777, 0o666, 0o000, "cannot be read"),
        (0o777, 0o666, 0o666, ""),
    ],
    ids=["folder", "lock", "losses", "unreadable", "all permitted"],
)
def test_permissions(open_to_all, folder_mode, lock_mode, file_mode, message):
    written(open_to_all, 2).chmod(file_mode)
    (open_to_all / "losses-0.lock").chmod(lock_mode)
    open_to_all.chmod(folder_mode)
    said = run("without_permission", open_to_all)
    assert re.search(message, said) if message else not said


BAD = {
    "index 256": (((0, 256), 0, np.zeros(2)), ValueError, r"choice=\(0, 256\) is not allowed; indices are 0..255"),
    "index -1": (((0, -1), 0, np.zeros(2)), ValueError, r"choice=\(0, -1\)"),
    "units": (((0, 1, 2), 0, np.zeros(2)), ValueError, "has 3 units, and those recorded before have 2"),
    "shard": (((0, 1), -1, np.zeros(2)), ValueError, "shard=-1 is not allowed"),
    "large shard": (((0, 1), 2**63, np.zeros(2)), ValueError, "shard=9223372036854775808 is not allowed"),
    "float32": (((0, 1), 0, np.zeros(2, np.float32)), TypeError, r"float32 of shape \(2,\)"),
    "byte order": (((0, 1), 0, np.zeros(2, ">f8")), TypeError, r">f8|big"),
    "two axes": (((0, 1), 0, np.zeros((2, 2))), TypeError, r"float64 of shape \(2, 2\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused(tmp_path, case):
    arguments, error, message = BAD[case]
    with journal(tmp_path) as opened:
        opened.record((7, 7), 0, np.zeros(2))
        with pytest.raises(error, match=message):
            opened.record(*arguments)
        assert len(opened.known) == 1


def test_bad_identity_and_rank(tmp_path):
    with pytest.raises(TypeError, match=r"identity\['seed'\]=0 is not allowed; give strings"):
        Journal(tmp_path / "new", {"seed": 0})
    with pytest.raises(ValueError, match="rank=-1 is not allowed"):
        journal(tmp_path / "new", rank=-1)
    assert not (tmp_path / "new").exists()
