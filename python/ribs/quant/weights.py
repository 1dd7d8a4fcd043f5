"""Quantized weights, made once for each choice of bits while there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ribs.quant.watch import Watch


class Sized(Protocol):
    """What can be kept: anything that knows how many bytes it takes."""

    @property
    def nbytes(self) -> int: ...


Made = TypeVar("Made", bound=Sized)


@dataclass
class Room:
    """Bytes that the layers of a network share for what they keep: at most `limit`, of which `used` are taken."""

    limit: int
    used: int = 0


@dataclass
class _Entry:
    made: Any
    room: Room | None  # where its bytes are counted


class KeptWeights:
    """What was made of the weights of one layer, by their bits and by form.

    What was last made is always kept, so that a network at fixed bits never makes it twice; of other bits only what
    there was room for, whose bytes are counted.
    """

    def __init__(self) -> None:
        self.room: Room | None = None
        self._entries: dict[tuple[int, str], _Entry] = {}
        self._watch = Watch()

    def __reduce__(self) -> Any:
        return KeptWeights, ()  # copies and files begin empty; what is packed cannot be copied

    def get(self, bits: int, form: str, sources: tuple[Tensor, ...], make: Callable[[], Made]) -> Made:
        """Give what `make` made for these bits and this form, or have it made when the sources changed since."""
        if self._watch.changed(*sources):
            self.drop(lambda bits, form: True)
        entry = self._entries.get((bits, form))
        if entry is None:
            entry = self._entries[bits, form] = self._entry(make())
            if entry.room is None:
                self._drop(key for key, other in self._entries.items() if other.room is None and key[0] != bits)
        made: Made = entry.made
        return made

    @property
    def made(self) -> list[Any]:
        """All that is kept."""
        return [entry.made for entry in self._entries.values()]

    def forget_but(self, made: list[Any]) -> None:
        """Forget all that is not among `made`."""
        self._drop(key for key, entry in self._entries.items() if not any(entry.made is each for each in made))

    def drop(self, which: Callable[[int, str], bool]) -> None:
        """Forget all that `which(bits, form)` is true of."""
        self._drop(key for key in self._entries if which(*key))

    def leave(self, room: Room | None, bits: int) -> None:
        """Go back to another room, or to none, with nothing but what belongs to these bits."""
        self.drop(lambda other, form: other != bits)
        for entry in self._entries.values():
            if entry.room is self.room:
                entry.room = None
        self.room = room

    def _entry(self, made: Made) -> _Entry:
        if self.room is None or self.room.used + made.nbytes > self.room.limit:
            return _Entry(made, None)
        self.room.used += made.nbytes
        return _Entry(made, self.room)

    def _drop(self, keys: Iterable[tuple[int, str]]) -> None:
        for key in list(keys):
            entry = self._entries.pop(key)
            if entry.room is not None:
                entry.room.used -= entry.made.nbytes
