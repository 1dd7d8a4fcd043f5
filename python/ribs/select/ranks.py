"""The processes that share one search: who measures what, and how all of them come to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

Result = TypeVar("Result")


class Ranks:
    """All processes of an initialised `torch.distributed`, or this one alone; to be closed.

    alone: whether to leave the others out.

    Every process makes the same calls in the same order. Losses of samples are exchanged, never sums, so that what a
    search finds does not depend on how many processes there are.

    rank: number of this process.  count: how many there are.
    """

    def __init__(self, *, alone: bool = False) -> None:
        together = not alone and dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1
        # Losses lie in main memory; the default group may be of a kind that only moves what is on a GPU.
        self._group: Any = dist.new_group(backend="gloo") if self.count > 1 else None

    def close(self) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)

    def share(self, work: Sequence[float]) -> list[int]:
        """The jobs of this process: the largest job goes, one by one, to whoever has least to do."""
        loads, mine = [0.0] * self.count, []
        for job in sorted(range(len(work)), key=lambda job: (-work[job], job)):
            least = loads.index(min(loads))
            loads[least] += work[job]
            if least == self.rank:
                mine.append(job)
        return sorted(mine)

    def gather(
        self, measured: Sequence[NDArray[np.float64]], mine: Sequence[int], jobs: int
    ) -> list[NDArray[np.float64]]:
        """The results of all jobs, from those of each process's own, which `share` gave it."""
        found: dict[int, NDArray[np.float64]] = {}
        for own in self.exchange(dict(zip(mine, measured, strict=True))):
            found.update(own)
        return [found[job] for job in range(jobs)]

    def exchange(self, value: Any) -> list[Any]:
        """What each process gave, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._group)
        return values

    def first(self, value: Any) -> Any:
        """What rank 0 gave: for what differs between processes, such as the time."""
        return self.exchange(value)[0]

    def together(self, action: Callable[[], Result]) -> Result:
        """What `action` gives here, once it has succeeded in every process.

        Raises: what it raised here, or RuntimeError with what it raised elsewhere.
        """
        failed: Exception | None = None
        try:
            done = action()
        except Exception as error:
            failed = error
        failures = self.exchange(None if failed is None else f"{type(failed).__name__}: {failed}")
        if failed is not None:
            raise failed
        for rank, failure in enumerate(failures):
            if failure is not None:
                raise RuntimeError(f"[search] process {rank} cannot go on: {failure}")
        return done

    def check_same(self, identity: Mapping[str, str]) -> None:
        """Raise, in every process, ValueError naming what differs between them."""
        everyone = self.exchange(dict(identity))
        differing = [name for name in identity if len({other.get(name) for other in everyone}) > 1]
        if differing:
            ranks = {name: [other.get(name, "")[:12] for other in everyone] for name in differing}
            raise ValueError(
                f"[search] the processes do not search the same: {', '.join(differing)} differ, by rank {ranks}. Give "
                "every process the same model, data and arguments"
            )
