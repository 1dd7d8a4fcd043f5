"""What runs in this thread, of the forwards whose products go elsewhere."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any


@dataclass
class Running:
    """A call of a redirected forward, or, with None, of a layer whose product is its own.

    seen, added: products and sums so far.
    """

    redirected: Any
    seen: int = 0
    added: int = 0


_thread = threading.local()


def running() -> list[Running]:
    """What runs in this thread: a product belongs to the last, the innermost, alone."""
    if not hasattr(_thread, "running"):
        _thread.running = []
    return _thread.running  # type: ignore[no-any-return]


class Apart:
    """Within, products stay where they are."""

    def __enter__(self) -> None:
        running().append(Running(None))

    def __exit__(self, *error: object) -> None:
        running().pop()
