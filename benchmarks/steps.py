"""The search for steps of all bit-widths, against copying the same tensor and against other libraries.

Run: python benchmarks/steps.py [threads ...]
Brevitas takes part where it is installed.
"""

import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from timing import Case, interleave, medians, table
from torch import Tensor

from ribs import ops

BITS = range(2, 9)
Run = Callable[[], object]


def true_errors(x: Tensor, step: Tensor, zero_point: Tensor, bits: int, symmetric: bool) -> Tensor:
    """Mean squared error in float64 of each row of x, [rows, n], under its own step."""
    low = torch.full_like(step, -(2 ** (bits - 1))) if symmetric else -zero_point
    step, low = step.double()[:, None], low.double()[:, None]
    code = torch.minimum(torch.maximum((x.double() / step).round(), low), low + 2**bits - 1)
    return (x.double() - code * step).square().mean(1)


def excess(rows: Tensor, symmetric: bool) -> tuple[list[float], list[float], list[float]]:
    """Percent by bit-width, means over rows: error above the proven least one, and what is claimed of it.

    First the check: no claim of the search may be wrong.
    """
    found = ops.search_steps(rows, BITS, symmetric=symmetric, axis=0)
    least = ops.search_steps(rows, BITS, symmetric=symmetric, axis=0, exact=True)
    above, gap, highest = [], [], []
    for k, bits in enumerate(BITS):
        got = true_errors(rows, found.step[k], found.zero_point[k], bits, symmetric)
        best = true_errors(rows, least.step[k], least.zero_point[k], bits, symmetric)
        assert (found.mse[k] >= got * (1 - 1e-4)).all() and (found.lower_bound[k] <= best * (1 + 1e-6)).all()
        above.append(100 * float((got / best - 1).mean()))
        highest.append(100 * float((got / best - 1).max()))
        gap.append(100 * float((found.mse[k] / found.lower_bound[k] - 1).mean()))
    return above, highest, gap


def histogram_observer(x: Tensor, symmetric: bool) -> list[tuple[Tensor, Tensor]]:
    """torch's observer: one histogram, then its search for every bit-width, told the true number of levels."""
    from torch.ao.quantization import HistogramObserver

    observer = HistogramObserver(
        dtype=torch.qint8 if symmetric else torch.quint8,
        qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
    )
    observer(x)
    answers = []
    for bits in BITS:
        low = -(2 ** (bits - 1)) if symmetric else 0
        observer.quant_min, observer.quant_max, observer.dst_nbins = low, low + 2**bits - 1, 2**bits
        scale, zero_point = observer.calculate_qparams()
        answers.append((scale, torch.zeros_like(scale) if symmetric else zero_point))
    return answers


def vectorised_loop(rows: Tensor, symmetric: bool, candidates: int = 80) -> list[tuple[Tensor, Tensor]]:
    """Shrink the range of every row in equal parts and keep the best, as reconstruction methods calibrate."""
    answers = []
    for bits in BITS:
        top = rows.abs().amax(1) / (2 ** (bits - 1) - 1 if symmetric else 2**bits - 1)
        low = -(2 ** (bits - 1)) if symmetric else 0
        best = torch.full_like(top, torch.inf)
        step = top.clone()
        for i in range(candidates):
            s = top * (1 - i / 100)
            code = (rows / s[:, None]).round().clamp(low, low + 2**bits - 1)
            error = (rows - code * s[:, None]).square().mean(1)
            step, best = torch.where(error < best, s, step), torch.minimum(error, best)
        answers.append((step, torch.zeros_like(step)))
    return answers


def brevitas_steps(rows: Tensor, per_channel: bool) -> list[tuple[Tensor, Tensor]]:
    """Brevitas's weight quantizers that minimise the squared error."""
    from brevitas.nn import QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloatMSE, Int8WeightPerTensorFloatMSE

    answers = []
    for bits in BITS:
        quantizer = Int8WeightPerChannelFloatMSE if per_channel else Int8WeightPerTensorFloatMSE
        layer = QuantLinear(rows.shape[1], rows.shape[0], False, weight_quant=quantizer, weight_bit_width=bits)
        layer.weight.data.copy_(rows)
        layer.eval()
        scale = layer.quant_weight().scale.detach().flatten()
        answers.append((scale, torch.zeros_like(scale)))
    return answers


def tensor_peers(x: Tensor, symmetric: bool) -> dict[str, Callable[[], list[tuple[Tensor, Tensor]]]]:
    peers = {
        "HistogramObserver": lambda: histogram_observer(x, symmetric),
    }
    if x.numel() < 1 << 22:  # it would take minutes
        peers["torch loop, 80"] = lambda: vectorised_loop(x.reshape(1, -1), symmetric)
    rows = x.reshape(x.shape[0], -1)
    if symmetric and find_spec("brevitas"):
        peers["Brevitas"] = lambda: brevitas_steps(rows, False)
    return peers


def row_peers(rows: Tensor) -> dict[str, Callable[[], list[tuple[Tensor, Tensor]]]]:
    peers = {"torch loop, 80": lambda: vectorised_loop(rows, True)}
    if find_spec("brevitas"):
        peers["Brevitas"] = lambda: brevitas_steps(rows, True)
    return peers


def measure(name: str, x: Tensor, axis: int | None, symmetric: bool, with_peers: bool, rounds: int = 15) -> Case:
    """Time the search beside a copy, and the slow peers once, each with its error beside ours."""
    rows = x.reshape(1, -1) if axis is None else x
    out = torch.empty_like(x)
    seconds = medians(
        interleave(
            {"copy_": lambda: out.copy_(x), "ours": lambda: ops.search_steps(x, BITS, symmetric=symmetric, axis=axis)},
            rounds,
        )
    )
    ratios = {"of copy_": seconds["ours"] / seconds["copy_"]}
    found = ops.search_steps(rows, BITS, symmetric=symmetric, axis=0)
    mine = [true_errors(rows, found.step[k], found.zero_point[k], b, symmetric).mean() for k, b in enumerate(BITS)]
    for peer, run in (tensor_peers(x, symmetric) if axis is None else row_peers(x)).items() if with_peers else ():
        start = time.perf_counter()  # once: some take half a minute
        answers = run()
        ratios[f"{peer} / ours"] = (time.perf_counter() - start) / seconds["ours"]
        for k, (bits, (step, zero_point)) in enumerate(zip(BITS, answers, strict=True)):
            step, zero_point = (each.float().expand(len(rows)) for each in (step, zero_point))
            error = true_errors(rows, step, zero_point, bits, symmetric).mean()
            assert mine[k] <= error * (1 + 1e-6), f"{peer} is better at {bits} bits: {error} < {mine[k]}"
    size = "x".join(map(str, x.shape))
    return Case(name, size, torch.get_num_threads(), seconds["ours"], ratios)


def main(threads: list[int]) -> None:
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.manual_seed(0)
    weights = torch.randn(512, 4608) * torch.rand(512, 1).exp()
    cases = [
        ("activation, post-ReLU", torch.randn(64, 64, 56, 56).relu(), None, False),
        ("tensor, dense, symmetric", weights, None, True),
        ("tensor, dense, asymmetric", weights, None, False),
        ("rows, symmetric", weights, 0, True),
        ("rows, symmetric", torch.randn(512, 576), 0, True),
        ("rows, symmetric", torch.randn(512, 64), 0, True),
        ("rows, symmetric", torch.randn(960, 9), 0, True),
    ]
    print("Percent above the proven least error at 2..8 bits, mean (largest) over rows, and the certified gap:")
    for name, x, axis, symmetric in cases:
        rows = x.reshape(1, -1) if axis is None else x[:64]
        above, highest, gap = excess(rows, symmetric)
        shown = " ".join(f"{mean:.3f} ({top:.2f})" for mean, top in zip(above, highest, strict=True))
        certified = "" if axis is not None else "; gap " + " ".join(f"{each:.3f}" for each in gap)
        print(f"- {name}, {'x'.join(map(str, x.shape))}: {shown}{certified}")
    results = []
    for count in threads:
        torch.set_num_threads(count)
        results += [measure(name, x, axis, symmetric, count == threads[0]) for name, x, axis, symmetric in cases]
    print(table(results))


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [1])
