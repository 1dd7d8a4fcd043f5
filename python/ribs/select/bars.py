"""Progress bars of a search."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Bars:
    """One bar for the calibration and one for the search; silent unless `show`."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._search: tqdm[None] | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._search is not None:
            self._search.close()

    def say(self, text: str) -> None:
        if self._show:
            tqdm.write(text, file=sys.stderr)

    def calibration(self, batches: Iterable[Item]) -> Iterable[Item]:
        total = len(batches) if isinstance(batches, Sized) else None
        bar: Iterable[Item] = tqdm(batches, desc="steps", unit="batch", total=total, disable=not self._show)
        return bar

    def start_search(self, probes: int) -> None:
        layout = "{l_bar}{bar}| {n:.0f}/{total_fmt} probes [{elapsed}<{remaining}{postfix}]"
        self._search = tqdm(total=probes, desc="search", bar_format=layout, disable=not self._show)

    def probed(self, probes: float) -> None:
        assert self._search is not None
        # Fractions of probes need not add up to a whole number exactly.
        self._search.update(min(probes, self._search.total - self._search.n))

    def measured(self, loss: float) -> None:
        assert self._search is not None
        self._search.set_postfix_str(f"loss {loss:.4g}")
