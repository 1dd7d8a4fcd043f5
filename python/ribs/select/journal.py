"""The losses that a search has measured, on disk, so that a search which was killed goes on where it was.

A loss depends on nothing but the configuration and the shard (piece of the calibration set) it was measured on: the
journal is a table of those. In its folder, every rank (process of a distributed search) has two files:

    losses-<rank>.sqlite  what it measured. It alone writes there, and every rank reads all of them at opening: the next
                          run may have any number of ranks.
    losses-<rank>.lock    always empty, and locked while the rank lives. The system unlocks it when the process dies.
"""

from __future__ import annotations

import operator
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ribs.select.errors import JournalError
from ribs.select.journal_file import Key, begin_writing, connect, create, insert, losses_of, read

_MAX_CANDIDATES = 256  # a configuration is stored as a byte for each unit
_LOCK_SECONDS = 0.2  # of two that try at the same moment, one gets it


class Journal:
    """All losses known in a folder, and a place to record more: `with Journal("run/", identity) as journal: ...`.

    folder: made, with its parents, when missing; on a local disk.
    identity: what the losses depend on beside configuration and shard, {field: value}, such as checksums of model and
        data. It is stored with the losses, and must be the same whenever the folder is opened.
    rank: of this process among those that search together. Ranks may open the folder at the same time; where all must
        start from the same `known`, none may record before all have opened it.
    known: {(configuration, shard): [samples] float64 losses, read-only}; a configuration is one candidate index for
        each unit. Of a pair that several files hold, the losses in the first of them count.

    Raises: JournalError, before any loss is written, when the folder is in use by another process, belongs to another
        identity, is not writable, or holds a file that is damaged, of a newer format or not a journal; TypeError or
        ValueError for a bad identity or rank.
    """

    known: dict[Key, NDArray[np.float64]]

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, str], *, rank: int = 0) -> None:
        for field, value in identity.items():
            if not isinstance(field, str) or not isinstance(value, str):
                raise TypeError(f"[journal] identity[{field!r}]={value!r} is not allowed; give strings")
        if rank < 0:
            raise ValueError(f"[journal] rank={rank} is not allowed; give 0 or more")
        self._path = Path(folder).absolute() / f"losses-{rank}.sqlite"
        self._rows = 0
        self.known = {}
        with ExitStack() as opened:
            _lock(opened, self._path)
            self._read_all(identity)
            self._database = _open_for_writing(opened, self._path, identity)
            self._opened = opened.pop_all()

    def record(self, choice: Sequence[int], shard: int, losses: NDArray[np.float64]) -> None:
        """Keep the losses of a configuration on a shard: they are on the disk when this returns, and in `known`.

        choice: one candidate index for each unit, 0..255.
        shard: 0 or more.
        losses: [samples] float64; NaN and inf come back bit for bit.
        A pair that is known already is left as it is.

        Raises: JournalError when it cannot be written (a full disk), TypeError or ValueError for bad arguments.
            Everything recorded before is kept whatever happens.
        """
        key = tuple(map(operator.index, choice)), operator.index(shard)
        self._check(*key, losses)
        if key in self.known:
            return
        stored = losses.astype("<f8", copy=False).tobytes()
        try:
            insert(self._database, self._rows + 1, bytes(key[0]), key[1], stored)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"[journal] {self._path} cannot be written ({error}); everything measured so far is kept: free some "
                "space and make the same call again"
            ) from error
        self._rows += 1
        self.known[key] = losses_of(stored)

    def close(self) -> None:
        """Close the files and let others use the folder. Closing again does nothing."""
        self._opened.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_all(self, identity: Mapping[str, str]) -> None:
        for path in sorted(self._path.parent.glob("losses-*.sqlite")):
            rows = read(path, identity)
            for key, losses in rows:
                self.known.setdefault(key, losses)
            if path == self._path:
                self._rows = len(rows)
        units = sorted({len(choice) for choice, _ in self.known})
        if len(units) > 1:
            raise JournalError(
                f"[journal] {self._path.parent} holds configurations of different networks, of {units} units; delete "
                "its files or give another folder"
            )

    def _check(self, choice: tuple[int, ...], shard: int, losses: NDArray[np.float64]) -> None:
        if not all(0 <= index < _MAX_CANDIDATES for index in choice):
            raise ValueError(f"[journal] choice={choice} is not allowed; indices are 0..{_MAX_CANDIDATES - 1}")
        units = len(next(iter(self.known), (choice,))[0])
        if len(choice) != units:
            raise ValueError(f"[journal] choice has {len(choice)} units, and those recorded before have {units}")
        if not 0 <= shard < 2**63:
            raise ValueError(f"[journal] shard={shard} is not allowed; give 0 or more")
        if losses.dtype != np.float64 or losses.ndim != 1:
            raise TypeError(f"[journal] losses are {losses.dtype} of shape {losses.shape}; give [samples] float64")


def _lock(opened: ExitStack, path: Path) -> None:
    """Keep others from opening this path until `opened` is closed or this process dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = opened.enter_context(connect(path.with_suffix(".lock"), "rwc", _LOCK_SECONDS))
        database.execute("PRAGMA journal_mode = MEMORY")  # the lock makes another file otherwise
        begin_writing(database, "EXCLUSIVE")
    except (sqlite3.Error, OSError) as error:
        if str(error) == "database is locked":
            raise JournalError(
                f"[journal] {path.parent} is in use by another process; wait for its end or give another folder"
            ) from error
        raise _not_writable(path.parent, error) from error


def _open_for_writing(opened: ExitStack, path: Path, identity: Mapping[str, str]) -> sqlite3.Connection:
    try:
        if not path.exists():
            create(path, identity)
        database = opened.enter_context(connect(path, "rw"))
        begin_writing(database, "IMMEDIATE")
        database.execute("ROLLBACK")
    except (sqlite3.Error, OSError) as error:
        raise _not_writable(path, error) from error
    return database


def _not_writable(path: Path, error: Exception) -> JournalError:
    return JournalError(f"[journal] {path} cannot be written ({error}); make it writable or give another folder")
