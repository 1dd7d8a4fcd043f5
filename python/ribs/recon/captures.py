"""Steps of an optimisation captured on a GPU: their kernels are launched again at once, without Python in between.

A captured step reads and writes the memory that it was captured on. All that changes from one step to the next - the
batch, what random numbers decide, learning rates - is therefore written to one place in memory before each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch

LEAST = 8  # steps of which it pays to capture one

Run = Callable[[], None]

_log = logging.getLogger(__name__)


class Capture(Protocol):
    def uncaptured(self, run: Run) -> None:
        """Do a run as it is, where captured ones are done: before it is captured, or when it cannot be."""

    def __call__(self, run: Run) -> Run:
        """Capture what a run launches, which it does not do meanwhile; returns what launches it.

        Raises: RuntimeError for a run that waits for the device, or does what cannot be captured.
        """


class CaptureOnCuda:
    """Captures runs as CUDA graphs that share their memory: only the last one may still be launched."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream, self._pool = device, torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        # Without any graph the memory is given back, and no other graph can have it.
        self._last: torch.cuda.CUDAGraph | None = None

    def uncaptured(self, run: Run) -> None:
        # What autograd keeps of variables belongs to the stream of its first use, which must be the one captured.
        present = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(present)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            run()
        present.wait_stream(self._stream)

    def __call__(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        # torch.cuda.graph also gives back all memory that is free, which is slow: pieces are many.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool)
            try:
                run()
            finally:
                graph.capture_end()
        self._last = graph
        return graph.replay


CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": CaptureOnCuda}  # by type of device


class Captures:
    """The captured steps of one optimisation after the other."""

    def __init__(self, device: torch.device) -> None:
        make = CAPTURES.get(device.type)
        self._capture = make(device) if make else None

    def repeated(self, run: Run, times: int) -> Run:
        """What does a run each time it is called, so many times; captured at its second call, where that can be."""
        if self._capture is None or times < LEAST:
            return run
        capture, calls, launch = self._capture, 0, run

        def again() -> None:
            nonlocal calls, launch
            calls += 1
            if calls == 1:
                capture.uncaptured(run)
                return
            if calls == 2:
                launch = self._captured(capture, run)
            launch()

        return again

    def _captured(self, capture: Capture, run: Run) -> Run:
        try:
            return capture(run)
        except RuntimeError as error:
            self._capture = None
            reason = str(error).partition("\n")[0]
            _log.info("steps of this reconstruction are not captured as CUDA graphs, which is slower: %s", reason)
            return lambda: capture.uncaptured(run)
