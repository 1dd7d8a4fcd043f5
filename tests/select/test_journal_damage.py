"""Files of a journal that are damaged or not of a journal: an error that says so, never a crash or wrong losses."""

import random
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from journal_processes import assert_rows, journal, row, written
from ribs.select.errors import JournalError


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def outcome(folder: Path, count: int) -> str:
    """Opens a folder whose files may be damaged: "exact", "prefix" (of rows) or what the error says."""
    try:
        with journal(folder) as opened:
            assert_rows(opened.known, len(opened.known))
            return "exact" if len(opened.known) == count else "prefix"
    except JournalError as error:
        said = str(error).replace("or its first bytes are damaged", "")
        # The last is what SQLite makes of a damaged format number in the header: a file that it may only read.
        (said,) = re.findall("damaged|newer ribs|not a journal|readonly database", said)
        return said


def mutated(content: bytes, rng: random.Random) -> bytes:
    at, kind = rng.randrange(len(content)), rng.randrange(6)
    some = rng.randbytes(rng.choice([1, 2, 8, 64, 512, 4096]))
    if kind < 3:
        at = rng.choice([at, rng.randrange(120), at // 4096 * 4096 + rng.randrange(40)])  # headers as often as the rest
    return {
        0: content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
        1: content[:at] + some[:1] + content[at + 1 :],
        2: content[:at] + some + content[at + len(some) :],
        3: content[:at],
        4: content[:at] + some + content[at:],
        5: content[:at] + content[at + len(some) :],
    }[kind]


def test_damage_anywhere_is_an_error_or_harmless(tmp_path):
    """2400 mutations of a file: the right data or a JournalError, and a file that is refused is not touched."""
    path = written(tmp_path, 30)
    content, rng = path.read_bytes(), random.Random(0)
    seen = []
    for _ in range(2400):
        damaged = mutated(content, rng)
        path.unlink()  # writing over a file waits for the disk
        path.write_bytes(damaged)
        seen.append(outcome(tmp_path, 30))
        if seen[-1] not in ("exact", "prefix"):
            assert path.read_bytes() == damaged
        for left in tmp_path.glob("losses-0.sqlite-*"):
            left.unlink()
    print({kind: seen.count(kind) for kind in sorted(set(seen))})
    assert "prefix" not in seen
    assert seen.count("damaged") > 1000
    path.write_bytes(content)
    assert outcome(tmp_path, 30) == "exact"


def test_damage_to_the_log_of_a_killed_process(tmp_path):
    """SQLite drops a log from its first damaged part on: rows that came before are read, and no others."""
    killed = tmp_path / "killed"
    with journal(killed) as opened:
        for i in range(20):
            opened.record(*row(i))
        files = {name: (killed / name).read_bytes() for name in ("losses-0.sqlite", "losses-0.sqlite-wal")}
    assert len(files["losses-0.sqlite-wal"]) > 20 * 64 * 8
    rng, seen = random.Random(1), []
    for case in range(120):
        (tmp_path / str(case)).mkdir()
        for name, content in files.items():
            log = name.endswith("-wal") and case > 0
            (tmp_path / str(case) / name).write_bytes(mutated(content, rng) if log else content)
        seen.append(outcome(tmp_path / str(case), 20))
    assert seen[0] == "exact"
    assert set(seen) <= {"exact", "prefix", "damaged"}
    assert "prefix" in seen


WRONG = {
    "a loss": "UPDATE losses SET losses = zeroblob(512) WHERE id = 4",
    "a shard": "UPDATE losses SET shard = shard + 1 WHERE id = 4",
    "a choice": "UPDATE losses SET choice = x'00010101' WHERE id = 4",
    "bytes moved from the choice to the losses": "UPDATE losses SET choice = choice || substr(losses, 1, 1), "
    "losses = substr(losses, 2) WHERE id = 4",
    "rows exchanged": "UPDATE losses SET id = CASE id WHEN 4 THEN -5 WHEN 5 THEN 4 ELSE id END",
    "a row removed": "DELETE FROM losses WHERE id = 4",
    "the last row renumbered": "UPDATE losses SET id = 99 WHERE id = 10",
    "a row repeated": "INSERT INTO losses SELECT 11, choice, shard, losses, checksum FROM losses WHERE id = 4",
    "text": "UPDATE losses SET losses = 'text', checksum = 'text' WHERE id = 4",
    "invalid text": "UPDATE losses SET choice = CAST(x'ff' AS TEXT) WHERE id = 4",
    "a number": "UPDATE losses SET losses = 4 WHERE id = 4",
    "a shard of text": "UPDATE losses SET shard = 'x' WHERE id = 4",
    "much": "UPDATE losses SET losses = zeroblob(10000000) WHERE id = 4",
    "identity": "UPDATE identity SET fields = replace(fields, 'seed', 'seen')",
    "no identity": "DELETE FROM identity",
    "two identities": "INSERT INTO identity SELECT * FROM identity",
    "a table more": "CREATE TABLE more(x)",
    "a table less": "DROP TABLE identity",
    "an index": "CREATE INDEX more ON losses(shard)",
    "a trigger": "CREATE TRIGGER more AFTER INSERT ON losses BEGIN DELETE FROM losses; END",
    "a version before the first": "PRAGMA user_version = 0",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_sound_database_of_wrong_values_is_damaged(tmp_path, case):
    path = written(tmp_path, 10)
    sql(path, WRONG[case])
    for rank in (0, 1):
        with pytest.raises(JournalError, match=rf"{re.escape(str(path))} is damaged .*delete it.* another folder"):
            journal(tmp_path, rank=rank)


def test_a_view_that_never_ends_is_not_asked(tmp_path):
    path = written(tmp_path, 1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    columns = "i AS id, x'00' AS choice, 0 AS shard, x'' AS losses, x'' AS checksum"
    sql(path, "DROP TABLE losses", f"CREATE VIEW losses AS {endless} SELECT {columns} FROM n")
    with pytest.raises(JournalError, match="is damaged"):
        journal(tmp_path)


def test_damage_that_only_later_writing_would_meet(tmp_path):
    """The header says that there are free pages, and there are none."""
    path = written(tmp_path, 10)
    content = path.read_bytes()
    path.write_bytes(content[:32] + bytes([0, 0, 0, 2, 0, 0, 0, 1]) + content[40:])
    with pytest.raises(JournalError, match="is damaged"):
        journal(tmp_path)


def test_configurations_of_different_networks(tmp_path):
    with journal(tmp_path) as zero, journal(tmp_path, rank=1) as one:
        zero.record((1, 2), 0, np.ones(1))
        one.record((1, 2, 3), 0, np.ones(1))
    with pytest.raises(JournalError, match=r"different networks, of \[2, 3\] units"):
        journal(tmp_path)


def other_database(path: Path) -> None:
    """With a log, as its killed writer left it."""
    original = path.with_name("original")
    with closing(sqlite3.connect(original, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE mine(x)")
        for end in ("", "-wal"):
            path.with_name(f"{path.name}{end}").write_bytes(original.with_name(f"original{end}").read_bytes())


OTHERS = {
    "another sqlite file": (other_database, "is not a journal of ribs"),
    "a text file": (lambda path: path.write_text("bits\n" * 1000), "is not a journal of ribs"),
    "a short text file": (lambda path: path.write_text("bits\n"), "is not a journal of ribs"),
    "an empty file": (lambda path: path.touch(), "is not a journal of ribs"),
    "random bytes": (lambda path: path.write_bytes(random.Random(0).randbytes(9000)), "is not a journal of ribs"),
    "a newer version": (
        lambda path: sql(written(path.parent, 2), "PRAGMA user_version = 2"),
        r"was written by a newer ribs \(format 2; this one reads 1\); update ribs",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_refused_and_not_touched(tmp_path, case):
    make, message = OTHERS[case]
    path = tmp_path / "losses-0.sqlite"
    make(path)
    log = path.with_name(f"{path.name}-wal")
    content = path.read_bytes(), log.exists() and log.read_bytes()
    for rank in (0, 1):
        with pytest.raises(JournalError, match=f"{re.escape(str(path))} {message}.* another folder"):
            journal(tmp_path, rank=rank)
        assert path.read_bytes() == content[0]
        assert (log.exists() and log.read_bytes()) in (content[1], b"")
        assert not (tmp_path / "losses-1.sqlite").exists()
