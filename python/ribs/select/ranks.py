"""The processes that share one search: who measures what, and how all of them come to know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


class Ranks:
    """All processes of an initialised `torch.distributed`, or this one alone.

    Every process makes the same calls in the same order. Losses of samples are exchanged, never sums, so that what a
    search finds does not depend on how many processes there are.

    rank: number of this process.  count: how many there are.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1
        # Losses lie in main memory; the default group may be of a kind that only moves what is on a GPU.
        self._group: Any = dist.new_group(backend="gloo") if self.count > 1 else None

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
        self, measured: Sequence[NDArray[np.float64]], mine: Sequence[int], jobs: int, samples: int
    ) -> list[NDArray[np.float64]]:
        """The [samples] results of all jobs, from those of each process's own, which `share` gave it."""
        if self.count == 1:
            return list(measured)
        # NaN may be a result, so that ownership is sent beside the numbers.
        own = torch.zeros(jobs, samples + 1, dtype=torch.float64)
        for job, losses in zip(mine, measured, strict=True):
            own[job, :samples] = torch.from_numpy(losses)
            own[job, samples] = 1
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(everyone, own, group=self._group)
        found: list[NDArray[np.float64]] = []
        for job in range(jobs):
            [row] = [rows[job, :samples] for rows in everyone if rows[job, samples] == 1]
            found.append(row.numpy().copy())
        return found

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
