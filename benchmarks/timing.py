"""How benchmarks measure and print: interleaved rounds, medians, a Markdown table."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Case:
    """A row: what ran, on how much, with how many threads, the median in seconds, and ratios by column."""

    name: str
    size: str
    threads: int
    seconds: float
    ratios: dict[str, float] = field(default_factory=dict)


def interleave(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every function once a round, in turn, so that what else the machine does meets all of them.

    Args:
        functions: by name; a function on CUDA must wait for its device before it returns.
        rounds: how often, after one call that does not count.

    Returns: seconds by name, one a round.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def seconds_of(device: str) -> float:
    """Of this process on a processor, so that others beside it hardly count; of the clock on a GPU, once it is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in seconds.items()}


def table(rows: Sequence[Case]) -> str:
    """Lay rows out in Markdown, with a column for every ratio that any of them has."""
    columns = list(dict.fromkeys(name for row in rows for name in row.ratios))
    lines = [["case", "size", "threads", "median ms", *columns]]
    for row in rows:
        ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in columns]
        lines.append([row.name, row.size, str(row.threads), f"{row.seconds * 1e3:.3f}", *ratios])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
