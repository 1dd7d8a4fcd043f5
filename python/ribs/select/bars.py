"""Progress bars of a search, and what is said in words."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_log = logging.getLogger(__name__)


class Bars:
    """One bar for the calibration and one for the search, for people if `show`; words go to the log as well.

    first: whether this process is the one that speaks.
    """

    def __init__(self, show: bool, *, first: bool = True) -> None:
        self._show, self._first = show and first, first
        self._search: tqdm[None] | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._search is not None:
            self._search.close()

    def say(self, text: str) -> None:
        if self._first:
            _log.info("%s", text)
        if self._show:
            tqdm.write(f"ribs: {text}", file=sys.stderr)

    def calibration(self, batches: Iterable[Item]) -> Iterable[Item]:
        # Not a disabled bar: even that takes a lock shared with forked processes, which one killed may hold forever.
        if not self._show:
            return batches
        total = len(batches) if isinstance(batches, Sized) else None
        bar: Iterable[Item] = tqdm(batches, desc="steps", unit="batch", total=total)
        return bar

    def start_search(self, work: float) -> None:
        """work: how much is ahead, in forward equivalents."""
        if self._show:
            layout = "{l_bar}{bar}| {n:.1f}/{total:.0f} forward equivalents [{elapsed}<{remaining}{postfix}]"
            self._search = tqdm(total=work, desc="search", bar_format=layout)

    def worked(self, work: float) -> None:
        if self._search is not None:
            # The work ahead was an estimate.
            self._search.total = max(self._search.total, self._search.n + work)
            self._search.update(work)

    def measured(self, loss: float) -> None:
        if self._search is not None:
            self._search.set_postfix_str(f"loss {loss:.4g}")


def duration(seconds: float) -> str:
    """In words: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
