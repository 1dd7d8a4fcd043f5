from typing import Any

def build_info() -> dict[str, Any]: ...
def fake_quantize_partials(outer: int, channels: int, inner: int, /) -> int: ...
def fake_quantize(
    x: int,
    step: int,
    zero_point: int,
    out: int,
    element: int,
    outer: int,
    channels: int,
    inner: int,
    qmin: int,
    qmax: int,
    threads: int,
    stream: int,
    /,
) -> None: ...
def quantize(
    x: int,
    step: int,
    zero_point: int,
    out: int,
    element: int,
    outer: int,
    channels: int,
    inner: int,
    qmin: int,
    qmax: int,
    threads: int,
    stream: int,
    /,
) -> bool: ...
def fake_quantize_backward(
    grad: int,
    x: int,
    step: int,
    zero_point: int,
    grad_x: int,
    grad_step: int,
    partials: int,
    element: int,
    outer: int,
    channels: int,
    inner: int,
    qmin: int,
    qmax: int,
    threads: int,
    stream: int,
    /,
) -> None: ...
def fake_quantize_levels_partials(n: int, top: int, /) -> int: ...
def fake_quantize_levels(
    x: int, steps: int, out: int, element: int, log_sqrt2: bool, top: int, n: int, threads: int, stream: int, /
) -> None: ...
def fake_quantize_levels_backward(
    grad: int,
    x: int,
    steps: int,
    grad_x: int,
    sums: int,
    partials: int,
    element: int,
    log_sqrt2: bool,
    top: int,
    n: int,
    threads: int,
    stream: int,
    /,
) -> None: ...
def search_levels(means: int, counts: int, n: int, bits: tuple[int, ...], steps: int, saved: int, /) -> None: ...
def search_steps_workspace(rows: int, n: int, exact: bool, /) -> int: ...
def search_steps(
    x: int,
    rows: int,
    n: int,
    bits: tuple[int, ...],
    symmetric: bool,
    exact: bool,
    step: int,
    zero_point: int,
    mse: int,
    lower_bound: int,
    nonfinite: int,
    workspace: int,
    sorted: int,
    threads: int,
    stream: int,
    /,
) -> None: ...
def sketch(x: int, n: int, parts: tuple[int, ...], workspace: int, threads: int, stream: int, /) -> int: ...
def search_sketch(
    rows: int,
    parts: tuple[int, ...],
    n: int,
    bits: tuple[int, ...],
    symmetric: bool,
    step: int,
    zero_point: int,
    mse: int,
    lower_bound: int,
    nonfinite: int,
    /,
) -> None: ...
def config_cost(
    bits: int,
    macs: int,
    weights: int,
    bops: int,
    weight_bits: int,
    configs: int,
    layers: int,
    threads: int,
    stream: int,
    /,
) -> None: ...
def pack_bits(
    codes: int,
    packed: int,
    invalid: int,
    rows: int,
    n: int,
    bytes: int,
    bits: int,
    threads: int,
    stream: int,
    /,
) -> None: ...
def unpack_bits(
    packed: int,
    codes: int,
    invalid: int,
    rows: int,
    n: int,
    bytes: int,
    bits: int,
    threads: int,
    stream: int,
    /,
) -> None: ...
