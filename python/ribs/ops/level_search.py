"""The steps of least squared error for levels at unequal distances, from the sketch of a tensor."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ribs import _core
from ribs.ops import check
from ribs.ops.levels import fake_quantize_log_sqrt2
from ribs.ops.sketch import Sketch
from ribs.ops.steps import sketch
from ribs.ops.twin_levels import PERCENTILES, LevelSearch, LogSearch

_LEVELS = "search_levels"
_LOG_SQRT2 = "search_log_sqrt2"


def search_levels(x: Tensor | Sketch, bits: Iterable[int] = range(2, 9)) -> LevelSearch:
    """Find the steps of `fake_quantize_nonuniform` with the least squared error of x, for every bit-width.

    Levels of least error that contain zero cut the sorted values into runs, all but the first with its mean as the
    level. The best runs are found by dynamic programming over the bins of a sketch, merged to at most 4096 groups,
    for all bit-widths at once, and then moved bin by bin until none wants to (Lloyd's algorithm). Values below zero
    are rounded to zero. Where there are fewer different values than levels, the widest steps are halved until there
    are enough, and steps are 1 where no value is positive. It runs on the CPU, wherever x is.

    Args:
        x: float32 of any layout, finite, not empty; or a sketch, for instance the sum of several.
        bits: bit-widths among 1..8, by default 2 to 8; their order is kept.

    Returns: `LevelSearch(steps, mse)`: for each bit-width float32 steps [2^bits - 1], positive, and their mean
    squared error, float32 [len(bits)]; it is an upper bound, since bins are not cut.

    Raises:
        TypeError: x is not float32, or bits are not ints.
        ValueError: a bit-width is out of range, the sketch is damaged, or x is empty or not finite.
    """
    widths = check.bit_widths(_LEVELS, bits)
    found = _sketched(_LEVELS, x)
    means, counts = _bins(found)
    positive = means > 0
    means, counts = means[positive].contiguous(), counts[positive].contiguous()
    steps = torch.empty(len(widths), 255)
    saved = torch.empty(len(widths), dtype=torch.float64)
    _core.search_levels(means.data_ptr(), counts.data_ptr(), len(means), widths, steps.data_ptr(), saved.data_ptr())
    mse = ((found.square - saved) / found.count).clamp(min=0).float()
    device = found.places.device
    rows = (row[: 2**width - 1].to(device) for row, width in zip(steps, widths, strict=True))
    return LevelSearch(tuple(rows), mse.to(device))


def search_log_sqrt2(x: Tensor | Sketch, bits: Iterable[int] = range(2, 9)) -> LogSearch:
    """Choose the step of `fake_quantize_log_sqrt2` of least squared error among upper percentiles of x.

    These are the 99.9th, 99.99th and 99.999th (Li et al., RepQ-ViT, 2023) that are positive, or the largest value
    where none is; a step of 1 where no value is positive.

    Args:
        x: as for `search_levels`.
        bits: bit-widths among 1..8, by default 2 to 8; their order is kept.

    Returns: `LogSearch(step, mse)` of float32 [len(bits)] each; at equal errors the larger step.

    Raises:
        TypeError: x is not float32, or bits are not ints.
        ValueError: as for `search_levels`.
    """
    widths = check.bit_widths(_LOG_SQRT2, bits)
    found = _sketched(_LOG_SQRT2, x)
    means, counts = _bins(found)
    rank = counts.cumsum(0)
    at = [int(torch.searchsorted(rank, found.count * percentile)) for percentile in PERCENTILES]
    steps = means[at].float()
    steps = steps[steps > 0] if bool(steps.max() > 0) else means[-1:].float()
    steps = steps if bool(steps[0] > 0) else torch.ones(1)
    inside = found.square - float(counts @ means.square())  # of bins: what no step changes
    values = means.float()
    errors = [
        [float(counts @ (means - fake_quantize_log_sqrt2(values, step, width)).square()) for step in steps]
        for width in widths
    ]
    error, best = torch.tensor(errors, dtype=torch.float64).flip(1).min(1)
    mse = ((error + inside) / found.count).clamp(min=0).float()
    device = found.places.device
    return LogSearch(steps.flip(0)[best].to(device), mse.to(device))


def _sketched(op: str, x: Tensor | Sketch) -> Sketch:
    if isinstance(x, Sketch):
        check.sketch(op, x)
        return x
    check.searchable(op, x, None)
    return sketch(x)


def _bins(x: Sketch) -> tuple[Tensor, Tensor]:
    """Give the means of bins, ascending, and their counts, on the CPU."""
    means, counts = (each.cpu() for each in x.means())
    order = means.argsort()
    return means[order], counts[order]
