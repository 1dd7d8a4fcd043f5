"""The operators on a CUDA device, against copying the same tensor on it.

Run: python benchmarks/gpu.py
Each is captured as a CUDA graph, so that the time is that of its kernels, however slow the CPU is in launching them.
"""

from collections.abc import Callable

import timm
import torch
from timing import Case, medians, table
from torch import Tensor, nn

from ribs import ops

ROUNDS = 30


def captured(function: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """What a function launches, after one call that makes what is made once."""
    function()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def times(functions: dict[str, Callable[[], object]], flush: Tensor) -> dict[str, float]:
    """Median seconds by CUDA events, in turn; between two calls the cache is filled with something else."""
    graphs = {name: captured(function) for name, function in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(ROUNDS + 3):
        for name, graph in graphs.items():
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            if round_ >= 3:
                seconds[name].append(start.elapsed_time(end) / 1e3)
    return medians(seconds)


def steps(name: str, tensors: list[Tensor], axis: int | None, symmetric: bool, flush: Tensor) -> Case:
    """The search for steps of 2 to 8 bits, one tensor after another, checked against that of the CPU."""

    def search(x: Tensor) -> ops.StepSearch:
        return ops.search_steps(x, symmetric=symmetric, axis=axis)

    for x in tensors:
        assert all(torch.equal(a.cpu(), b) for a, b in zip(search(x), search(x.cpu()), strict=True)), name
    outs = [torch.empty_like(x) for x in tensors]
    took = times(
        {
            "copy_": lambda: [out.copy_(x) for out, x in zip(outs, tensors, strict=True)],
            "steps": lambda: [search(x) for x in tensors],
        },
        flush,
    )
    size = "x".join(map(str, tensors[0].shape)) if len(tensors) == 1 else f"{sum(x.numel() for x in tensors)} values"
    return Case(name, size, 0, took["steps"], {"/ copy_": took["steps"] / took["copy_"]})


def quantize(name: str, x: Tensor, axis: int | None, flush: Tensor) -> list[Case]:
    """Fake quantization; the share of the copy's bandwidth counts bytes that must move: 2 and 3 tensors."""
    channels = () if axis is None else (x.shape[axis],)
    step = torch.rand(channels, device=x.device) * 0.1 + 0.1
    zero = torch.zeros(channels, dtype=torch.int32, device=x.device)
    out, grad, grad_x = torch.empty_like(x), torch.randn_like(x), torch.empty_like(x)
    want = ops.twin.fake_quantize(x, step, zero, 0, 15, axis)
    assert torch.equal(ops.fake_quantize(x, step, zero, 0, 15, axis), want), name
    took = times(
        {
            "copy_": lambda: out.copy_(x),
            "forward": lambda: ops.fake_quantize(x, step, zero, 0, 15, axis, out=out),
            "backward": lambda: ops.fake_quantize_backward(grad, x, step, zero, 0, 15, axis, out=grad_x),
        },
        flush,
    )
    size = "x".join(map(str, x.shape))
    return [
        Case(f"{name} {key}", size, 0, took[key], {"% of copy bandwidth": 100 * moved / 2 * took["copy_"] / took[key]})
        for key, moved in (("forward", 2), ("backward", 3))
    ]


def main() -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    flush = torch.empty(1 << 27, dtype=torch.uint8, device=device)
    x = torch.randn(64, 64, 112, 112, device=device)
    layers = [m for m in timm.create_model("resnet18").to(device).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    weights = [layer.weight.detach() for layer in layers]
    rows = [
        steps("steps, post-ReLU", [x.relu()], None, False, flush),
        steps("steps, dense", [x], None, False, flush),
        steps("steps, rows", [torch.randn(512, 4608, device=device)], 0, True, flush),
        steps(f"steps, channels of {len(weights)} layers of ResNet-18", weights, 0, True, flush),
    ]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rows += quantize(f"fake-quant {dtype}", x.to(dtype), None, flush)
        rows += quantize(f"fake-quant {dtype} per channel", x.to(dtype), 1, flush)
    print(table(rows))


if __name__ == "__main__":
    main()
