"""The folder of a training run: the last state, to go on from, the best, and what happened."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ribs.select.files import write_file

LAST, BEST, HISTORY = "last.pt", "best.pt", "history.json"


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set.

    loss: its mean, over the steps that were made.  skipped: steps that were not, for NaN or infinite gradients.
    accuracy: top-1 in percent on the validation set after it; None without one.
    """

    number: int
    loss: float
    skipped: int
    accuracy: float | None


class Folder:
    """Where a run is kept; with None for the path, nowhere.

    identity: what the run depends on, by name, as text; one of another identity is not gone on from.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: dict[str, str]) -> None:
        self.path = None if path is None else Path(path)
        self.identity = identity

    def read(self) -> dict[str, Any] | None:
        """The last state, on the CPU; None where there is none.

        Raises: ValueError for a file that is damaged or of another run; OSError where it cannot be read.
        """
        if self.path is None or not (self.path / LAST).exists():
            return None
        state = self._load(LAST)
        for name, here in self.identity.items():
            there = state["identity"].get(name)
            if there != here:
                raise ValueError(
                    f"[fit] folder={str(self.path)!r} holds a run with {name}={there}, and this has {name}={here}; "
                    "give another folder, or the arguments of that run"
                )
        return state

    def read_best(self) -> dict[str, Any]:
        """The network of the best epoch."""
        return self._load(BEST)

    def write(self, state: dict[str, Any], history: list[Epoch], *, best: dict[str, Any] | None) -> None:
        """Keep a state, and the best network where there is a new one; each file appears whole.

        Raises: OSError, and then what was there still is.
        """
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if best is not None:
            write_file(self.path / BEST, _bytes(best))
        write_file(self.path / LAST, _bytes({**state, "identity": self.identity}))
        write_file(self.path / HISTORY, (json.dumps([asdict(each) for each in history], indent=1) + "\n").encode())

    def _load(self, name: str) -> dict[str, Any]:
        assert self.path is not None
        content = (self.path / name).read_bytes()
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"[fit] {self.path / name} is damaged: {error}; remove it to begin anew") from None
        return state


def _bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
