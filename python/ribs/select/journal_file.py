"""One file of a journal: an SQLite database of one identity and of rows of losses.

Nothing that is read is trusted. The schema must be the one below to the letter, so that no view or trigger runs; rows
must be numbered without gaps; and all values have a checksum, because SQLite only notices damage to its own structure.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ribs.select.errors import JournalError

Key = tuple[tuple[int, ...], int]  # configuration, shard

FORMAT = 1  # PRAGMA user_version
_APPLICATION = int.from_bytes(b"RIBS", "big")  # PRAGMA application_id
_TABLES = {
    "identity": "CREATE TABLE identity (fields BLOB NOT NULL, checksum BLOB NOT NULL)",
    "losses": (
        "CREATE TABLE losses (id INTEGER PRIMARY KEY, choice BLOB NOT NULL, shard INTEGER NOT NULL, "
        "losses BLOB NOT NULL, checksum BLOB NOT NULL)"
    ),
}
_SCHEMA = {(b"table", name.encode(), name.encode(), sql.encode()) for name, sql in _TABLES.items()}
_BUSY_SECONDS = 30.0  # another rank holds its file for moments when it recovers or closes it
_SHOWN = 32  # characters of a value in a message


@contextmanager
def connect(path: Path, mode: str, seconds: float = _BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
    """A connection in which every statement commits by itself, and is on the disk then.

    mode: "ro", "rw", or "rwc", which creates the file when it is missing.
    seconds: how long to wait for others that hold the file.
    """
    uri = f"{path.as_uri()}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None)) as database:
        database.text_factory = bytes  # in a damaged file text need not be valid
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA synchronous = FULL")
        yield database


def begin_writing(database: sqlite3.Connection, kind: str) -> None:
    """Begin a transaction that keeps other writers out ("IMMEDIATE") or everybody ("EXCLUSIVE").

    Raises: sqlite3.Error or OSError, also where the file cannot be written.
    """
    database.execute(f"BEGIN {kind}")
    # Of a write-protected file SQLite begins to read, without a lock or an error, and fails at the first write.
    database.execute(f"PRAGMA user_version = {FORMAT}")


def create(path: Path, identity: Mapping[str, str]) -> None:
    """A file without losses. It appears whole: what a killed process leaves has another name, and is replaced.

    Raises: sqlite3.Error or OSError.
    """
    new = path.with_name(f"{path.name}.new")
    for left in path.parent.glob(f"{new.name}*"):
        left.unlink()
    fields = json.dumps(dict(identity), sort_keys=True).encode()
    with connect(new, "rwc") as database:
        database.execute("PRAGMA journal_mode = MEMORY")
        database.execute("BEGIN")
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {FORMAT}")
        for sql in _TABLES.values():
            database.execute(sql)
        database.execute("INSERT INTO identity VALUES (?, ?)", (fields, _checksum(fields)))
        database.execute("COMMIT")
        # Not before: the file could be renamed while what was written is still in its log, under the old name.
        database.execute("PRAGMA journal_mode = WAL")
    os.replace(new, path)


def insert(database: sqlite3.Connection, number: int, choice: bytes, shard: int, losses: bytes) -> None:
    """Add row `number`, counted from 1. Raises: sqlite3.Error or OSError, and then the row is not there."""
    row = (number, choice, shard, losses)
    database.execute("INSERT INTO losses VALUES (?, ?, ?, ?, ?)", (*row, _row_checksum(*row)))


def read(path: Path, identity: Mapping[str, str]) -> list[tuple[Key, NDArray[np.float64]]]:
    """All rows of a file in the order they were recorded. The file is not changed; others may be writing it.

    Raises: JournalError when it is damaged, of a newer format, of another identity or not a journal.
    """
    try:
        with connect(path, "ro") as database:
            _check_format(path, database)
            _check_identity(path, database, identity)
            rows = database.execute("SELECT id, choice, shard, losses, checksum FROM losses ORDER BY id")
            return [_parse(number, row) for number, row in enumerate(rows, start=1)]
    except sqlite3.OperationalError as error:
        raise JournalError(
            f"[journal] {path} cannot be read ({error}); where neither permissions nor the disk explain it, it is "
            "damaged: delete it, so that its losses are measured again, or give another folder"
        ) from error
    except (sqlite3.Error, ValueError) as error:
        if "not a database" in str(error):
            raise _foreign(path) from error
        raise JournalError(
            f"[journal] {path} is damaged ({error}); delete it, so that its losses are measured again, or give another "
            "folder"
        ) from error


def losses_of(stored: bytes) -> NDArray[np.float64]:
    """[samples] float64, read-only."""
    return np.frombuffer(stored, "<f8").astype(np.float64, copy=False)


def _check_format(path: Path, database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
        raise _foreign(path)
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > FORMAT:
        raise JournalError(
            f"[journal] {path} was written by a newer ribs (format {version}; this one reads {FORMAT}); update ribs or "
            "give another folder"
        )
    schema = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchmany(len(_SCHEMA) + 1)
    if version != FORMAT or len(schema) != len(_SCHEMA) or set(schema) != _SCHEMA:
        raise ValueError("its tables are not those of a journal")
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != b"ok":
        raise ValueError(found.decode(errors="replace"))


def _check_identity(path: Path, database: sqlite3.Connection, identity: Mapping[str, str]) -> None:
    rows = database.execute("SELECT fields, checksum FROM identity").fetchmany(2)
    if len(rows) != 1 or not isinstance(rows[0][0], bytes) or _checksum(rows[0][0]) != rows[0][1]:
        raise ValueError("its identity is not what was written")
    stored = json.loads(rows[0][0])
    differences = [
        f"{field} is {_show(stored.get(field), identity.get(field))} there and "
        f"{_show(identity.get(field), stored.get(field))} here"
        for field in sorted({*stored, *identity})
        if stored.get(field) != identity.get(field)
    ]
    if differences:
        raise JournalError(
            f"[journal] {path} holds losses of another search: {'; '.join(differences)}. Give another folder, or the "
            "model, data and options that this one was made with"
        )


def _parse(number: int, row: tuple[object, ...]) -> tuple[Key, NDArray[np.float64]]:
    stored, choice, shard, losses, checksum = row
    if not (isinstance(choice, bytes) and isinstance(shard, int) and isinstance(losses, bytes)):
        raise ValueError(f"row {number} has values of other types")
    if stored != number or shard < 0 or len(losses) % 8 or _row_checksum(number, choice, shard, losses) != checksum:
        raise ValueError(f"row {number} is not what was written")
    return (tuple(choice), shard), losses_of(losses)


def _row_checksum(number: int, choice: bytes, shard: int, losses: bytes) -> bytes:
    # The row's number and the length of the choice are in it, so that no row and no byte can pass for another.
    return _checksum(struct.pack("<3q", number, shard, len(choice)) + choice + losses)


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _show(value: str | None, other: str | None) -> str:
    """A value of the identity; of a long one the part where it begins to differ from the other."""
    if value is None:
        return "missing"
    if len(value) <= _SHOWN:
        return repr(value)
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(value, other or "", strict=False))))
    start = max(0, common - _SHOWN // 4)
    return f"{'...' * (start > 0)}{value[start : start + _SHOWN]!r}{'...' * (start + _SHOWN < len(value))}"


def _foreign(path: Path) -> JournalError:
    return JournalError(
        f"[journal] {path} is not a journal of ribs, or its first bytes are damaged; move it away or give another "
        "folder"
    )
