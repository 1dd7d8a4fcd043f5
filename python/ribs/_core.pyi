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
def search_steps_sorts(n: int, /) -> bool: ...
def search_steps_workspace(rows: int, n: int, /) -> int: ...
def search_steps(
    x: int,
    rows: int,
    n: int,
    bits: tuple[int, ...],
    symmetric: bool,
    step: int,
    zero_point: int,
    mse: int,
    nonfinite: int,
    workspace: int,
    sorted: int,
    threads: int,
    stream: int,
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
