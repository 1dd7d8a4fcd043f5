"""What operators refuse, and the words they do it in: operator, argument, what came, what is allowed."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ribs.ops.layout import memory_order, same_layout, span
from ribs.ops.sketch import BINS, CELLS, OCTAVES, RESIDUAL_BITS, Sketch

MAX_CODE = 65536
HALF = (torch.float16, torch.bfloat16)
ONE: tuple[tuple[int, ...], ...] = ((), (1,))  # shapes of one number


def dtype(op: str, name: str, value: Tensor, *allowed: torch.dtype, hint: str) -> None:
    """Refuse a tensor of another dtype."""
    if value.dtype not in allowed:
        names = " or ".join(str(each) for each in allowed)
        raise TypeError(f"[{op}] {name} dtype={value.dtype} is not supported; it must be {names}; {hint}")


def axis(op: str, x: Tensor, value: int | None) -> None:
    """Refuse an axis that x does not have."""
    if value is not None and not -x.dim() <= value < x.dim():
        have = f"-{x.dim()}..{x.dim() - 1}" if x.dim() else "only None, since x has no dimensions"
        raise ValueError(f"[{op}] axis={value} is out of range for x of shape {tuple(x.shape)}; use {have}")


def quantizer(
    op: str,
    x: Tensor,
    step: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    axis_: int | None = None,
    floor: Tensor | None = None,
    signs: Tensor | None = None,
) -> None:
    """Refuse dtypes, shapes, devices and codes that do not make a quantizer of x.

    This is done twice for every tensor of a training step, so that it looks first and words messages after.
    """
    if not x.dtype == step.dtype == torch.float32:
        _elements(op, x, "step", step)
    if zero_point.dtype != torch.int32:
        dtype(op, "zero_point", zero_point, torch.int32, hint="convert it with .to(torch.int32)")
    if axis_ is not None:
        axis(op, x, axis_)
    device, shapes = x.device, ONE
    if axis_ is not None and (signs is None or step.numel() != 1):
        shapes = ((x.shape[axis_],),)
    for name, value in (("step", step), ("zero_point", zero_point), ("floor", floor)):
        if value is None:
            continue
        if value.shape not in shapes:
            allowed = "a scalar or [1] without an axis" if axis_ is None else f"[{x.shape[axis_]}]"
            raise ValueError(f"[{op}] {name} shape={list(value.shape)} does not fit axis={axis_}; it must be {allowed}")
        if value.device != device:
            _beside(op, x, name, value)
    if floor is not None and floor.dtype != step.dtype:
        dtype(op, "floor", floor, step.dtype, hint=f"convert it with .to({step.dtype})")
    if signs is not None:
        _channels(op, x, axis_, step, signs)
    if not -MAX_CODE <= qmin <= qmax <= MAX_CODE:
        raise ValueError(
            f"[{op}] qmin={qmin}, qmax={qmax} is not supported; "
            f"they must satisfy -{MAX_CODE} <= qmin <= qmax <= {MAX_CODE}"
        )


def _channels(op: str, x: Tensor, axis_: int | None, step: Tensor, signs: Tensor) -> None:
    """Refuse signs that are not those of channels."""
    if signs.dtype != step.dtype:
        dtype(op, "signs", signs, step.dtype, hint=f"convert them with .to({step.dtype})")
    if axis_ is None or tuple(signs.shape) != (x.shape[axis_],):
        raise ValueError(f"[{op}] signs shape={list(signs.shape)} does not fit axis={axis_}; give one for each index")
    _beside(op, x, "signs", signs)


def _elements(op: str, x: Tensor, name: str, step: Tensor) -> None:
    """Refuse dtypes of x that are not quantized, and steps of another one than theirs."""
    wide = (torch.float32, torch.float64)
    if x.device.type == "cuda":
        dtype(op, "x", x, *wide, *HALF, hint="convert it with .float()")
    else:
        dtype(op, "x", x, *wide, hint="convert it with .float(), or move it to CUDA, which takes half as well")
    want_step = torch.float32 if x.dtype in HALF else x.dtype
    dtype(op, name, step, want_step, hint=f"convert it with .to({want_step})")


def _beside(op: str, x: Tensor, name: str, value: Tensor) -> None:
    """Refuse a tensor on another device than x."""
    if value.device != x.device:
        raise ValueError(f"[{op}] {name} is on {value.device} but x is on {x.device}; move it with .to(x.device)")


def levels(op: str, x: Tensor, steps: Tensor, bits: int | None = None) -> None:
    """Refuse dtypes, shapes and devices that do not make levels for x: of nuLSQ, or with `bits` of log-sqrt2."""
    name, shapes, allowed = "step", [(), (1,)], "a scalar or [1]"
    if bits is None:
        name, shapes, allowed = "steps", [(2**width - 1,) for width in range(1, 9)], "[2**bits - 1] for bits 1..8"
    else:
        bit_widths(op, [bits])
    _elements(op, x, name, steps)
    if tuple(steps.shape) not in shapes:
        raise ValueError(f"[{op}] {name} shape={list(steps.shape)} is not supported; it must be {allowed}")
    _beside(op, x, name, steps)


def positive_step(op: str, step: Tensor, name: str = "step", *, floor: Tensor | None = None) -> None:
    """Refuse a step that is not positive and finite; reads the value, so for CPU tensors only."""
    if step.numel() == 0:
        return
    if floor is not None:
        step = torch.maximum(step.detach(), floor)
    if step.numel() == 1:  # in the time of one read, since this is done for every tensor of a forward pass
        low = high = step.item()
    else:
        low, high = (bound.item() for bound in step.aminmax())  # NaN if any is
    if not 0 < low <= high < math.inf:
        worst = step[~((step > 0) & (step < math.inf))].flatten()[0].item()
        raise ValueError(f"[{op}] {name}={worst} is not supported; every step must be positive and finite")


def like(op: str, name: str, value: Tensor, x: Tensor, called: str = "x") -> None:
    """Refuse a tensor that does not have the shape, dtype and device of x, which messages call something else."""
    if (value.shape, value.dtype, value.device) != (x.shape, x.dtype, x.device):
        got, want = (f"{list(each.shape)} of {each.dtype} on {each.device}" for each in (value, x))
        raise ValueError(f"[{op}] {name}={got} is not supported; it must be like {called}, {want}")


def output(op: str, out: Tensor, x: Tensor, grad: Tensor | None, step: Tensor, zero_point: Tensor) -> None:
    """Refuse an `out` into which the result for x, or the gradient of x, cannot be written in place."""
    like(op, "out", out, x)
    inputs = {"x": x, "step": step, "zero_point": zero_point} | ({} if grad is None else {"grad": grad})
    if torch.is_grad_enabled():
        for name, value in (*inputs.items(), ("out", out)):
            if value.requires_grad:
                raise ValueError(
                    f"[{op}] out= is not supported while gradients are recorded for {name}, since autograd does not "
                    f"see what is written; leave out= away, or call it under torch.no_grad()"
                )
    _written_as(op, x, {"out": out, "grad": out if grad is None else grad})
    _apart(op, out, inputs, ("x", "grad"))


def codes(op: str, qmin: int, qmax: int) -> torch.dtype:
    """Refuse codes that are more than a byte; returns the dtype of those that are not."""
    if 0 <= qmin <= qmax <= 255:
        return torch.uint8
    if -128 <= qmin <= qmax <= 127:
        return torch.int8
    raise ValueError(
        f"[{op}] qmin={qmin}, qmax={qmax} is not supported; codes must fit a byte: 0..255, or -128..127 as int8 "
        f"where qmin is negative"
    )


def codes_output(op: str, out: Tensor, x: Tensor, want: torch.dtype, step: Tensor, zero_point: Tensor) -> None:
    """Refuse an `out` into which the codes of x cannot be written."""
    if (out.shape, out.dtype, out.device) != (x.shape, want, x.device):
        raise ValueError(
            f"[{op}] out={list(out.shape)} of {out.dtype} on {out.device} is not supported; "
            f"it must be {list(x.shape)} of {want} on {x.device}, for these codes of x"
        )
    _written_as(op, x, {"out": out})
    _apart(op, out, {"x": x, "step": step, "zero_point": zero_point}, ())


def no_nan(op: str, nan: bool) -> None:
    """Refuse values without a code."""
    if nan:
        raise ValueError(f"[{op}] x holds NaN, which has no code; find where it comes from, or use fake_quantize")


def _written_as(op: str, x: Tensor, like_x: dict[str, Tensor]) -> None:
    """Refuse tensors that do not have the strides of x, which must be dense."""
    if memory_order(x) is None:
        raise ValueError(
            f"[{op}] x strides={x.stride()} is not supported with out=; "
            f"x must be dense, without gaps or repetitions: pass x.contiguous()"
        )
    for name, value in like_x.items():
        if not same_layout(value, x):
            raise ValueError(
                f"[{op}] {name} strides={value.stride()} is not supported with out=; "
                f"they must be those of x, {x.stride()}, as in torch.empty_like(x)"
            )


def _apart(op: str, out: Tensor, inputs: dict[str, Tensor], in_place: tuple[str, ...]) -> None:
    """Refuse an `out` that overlaps an input without being one that may be overwritten."""
    start, end = span(out)
    for name, value in inputs.items():
        first, last = span(value)
        if first < end and start < last and not (first == start and name in in_place):
            allowed = f", or {' or '.join(in_place)} itself" if in_place else ""
            raise ValueError(f"[{op}] out overlaps {name} in memory; it must be apart from it{allowed}")


def bit_widths(op: str, bits: Iterable[int]) -> tuple[int, ...]:
    """Refuse bit-widths outside 1..8; returns them as a tuple."""
    if isinstance(bits, int) or not isinstance(bits, Iterable):
        raise TypeError(f"[{op}] bits={bits!r} is not a sequence; pass for instance bits=[4] or range(2, 9)")
    widths = tuple(bits)
    if not widths:
        raise ValueError(f"[{op}] bits is empty; give at least one of 1..8")
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, int):
            raise TypeError(f"[{op}] bits={width!r} is not an int; supported bits are the ints 1..8")
        if not 1 <= width <= 8:
            raise ValueError(f"[{op}] bits={width} is not supported; supported bits are 1..8")
    return widths


def searchable(op: str, x: Tensor, axis_: int | None) -> None:
    """Refuse tensors that have no MSE-optimal step."""
    dtype(op, "x", x, torch.float32, hint="convert it with .float()")
    axis(op, x, axis_)
    if x.numel() == 0:
        raise ValueError(f"[{op}] x of shape {list(x.shape)} is empty; there is no step to find")


def power(op: str, p: float) -> None:
    """Refuse powers that give no sensible error."""
    if not 1 <= p <= 8:
        raise ValueError(f"[{op}] p={p} is not supported; it must lie in 1..8, 2 for the squared error")


def sketch_options(op: str, axis_: int | None, exact: bool) -> None:
    """Refuse what a sketch has forgotten."""
    if axis_ is not None:
        raise ValueError(f"[{op}] axis={axis_} does not go with a sketch, which has no axes; sketch each channel")
    if exact:
        raise ValueError(f"[{op}] exact=True does not go with a sketch, which has no single values; pass the tensor")


def sketch(op: str, x: Sketch) -> None:
    """Refuse tensors that no values can have led to: native code indexes by them."""
    places, counts, residuals = x.places, x.counts, x.residuals
    wrong = None
    shapes = {"places": (len(places),), "counts": (len(places), BINS), "residuals": (len(places), BINS),
              "squares": (CELLS,), "totals": (2,), "extremes": (2,)}  # fmt: skip
    for name, shape in shapes.items():
        part = getattr(x, name)
        if part.dtype != (torch.float32 if name == "extremes" else torch.int64) or tuple(part.shape) != shape:
            raise ValueError(f"[{op}] the sketch's {name} are {part.dtype} {list(part.shape)}; that is no sketch's")
    if bool(((places < 0) | (places >= 2 * OCTAVES)).any()) or bool((places[1:] <= places[:-1]).any()):
        wrong = "its places are not ascending numbers of octaves"
    elif bool((places % OCTAVES == OCTAVES - 1).any()) or not bool(x.extremes.isfinite().all()):
        wrong = "it holds values that are not finite"
    elif bool((counts < 0).any()) or bool(((residuals < 0) | (residuals > counts << RESIDUAL_BITS)).any()):
        wrong = "its sums of residuals do not fit its counts"
    elif x.count < 1 or x.zeros < 0 or int(counts.sum()) + x.zeros != x.count or bool((x.squares < 0).any()):
        wrong = "its totals do not fit its counts"
    if wrong:
        raise ValueError(f"[{op}] the sketch was damaged: {wrong}; make it again with ribs.ops.sketch")


def finite(op: str, nan: int, infinite: int) -> None:
    """Refuse values that are not finite, given how many there are."""
    if nan or infinite:
        raise ValueError(f"[{op}] x has {nan} NaN and {infinite} infinite values; all values must be finite")


def cost_arguments(op: str, bits: Tensor, macs: Tensor, weights: Tensor) -> None:
    """Refuse shapes, dtypes, devices and totals that config_cost cannot add up exactly."""
    for name, value in (("bits", bits), ("macs", macs), ("weights", weights)):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"[{op}] {name} dtype={value.dtype} is not supported; it must be an integer dtype")
        if value.device != bits.device:
            raise ValueError(f"[{op}] {name} is on {value.device} but bits is on {bits.device}; move it there")
    if bits.dim() != 3 or bits.shape[2] != 2:
        raise ValueError(f"[{op}] bits shape={list(bits.shape)} is not supported; it must be [configs, layers, 2]")
    for name, value in (("macs", macs), ("weights", weights)):
        if tuple(value.shape) != (bits.shape[1],):
            raise ValueError(f"[{op}] {name} shape={list(value.shape)} must be [{bits.shape[1]}], one per layer")
    cost_range(op, bits, macs, weights)


def cost_range(op: str, bits: Tensor, macs: Tensor, weights: Tensor) -> None:
    """Refuse negative numbers, and totals that int64 might not hold, counted in Python integers."""
    if bits.numel() == 0:
        return
    for name, value in (("bits", bits), ("macs", macs), ("weights", weights)):
        lowest = int(value.min())
        if lowest < 0:
            raise ValueError(f"[{op}] {name} has the value {lowest}; all must be 0 or more")
    widest = int(bits.max())
    for name, value, factor in (("macs", macs, widest**2), ("weights", weights, widest)):
        total = sum(value.tolist()) * factor
        if total >= 2**63:
            raise OverflowError(
                f"[{op}] {len(value)} layers of {name} at up to {widest} bits cost up to {total}, "
                f"more than int64 holds; count in larger units"
            )
