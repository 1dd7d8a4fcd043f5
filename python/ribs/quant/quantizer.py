"""Fake quantization with a step for every candidate bit-width, kept together: choosing bits is choosing an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ribs import ops
from ribs.quant.watch import Watch

FLOAT_BITS = 32  # "not quantized", in configurations and costs alike


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """(qmin, qmax): signed codes around zero when symmetric, unsigned codes otherwise."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)


class FakeQuantizer(nn.Module):
    """Rounds a tensor to the codes of the chosen bits and back; passes it through at 32 bits.

    choices: the bit-widths it has steps for.
    step, zero_point: [K] per tensor, or [K, channels] along `axis`; empty until calibrated.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, *, symmetric: bool, axis: int | None = None) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.axis = axis
        self.choices: tuple[int, ...] = ()
        self.bits = FLOAT_BITS
        self.observer: StepAverage | PooledSteps | None = None
        self._watch = Watch()
        self._numbers: list[tuple[float, int]] = []
        self.register_buffer("step", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))

    def set_steps(self, choices: Sequence[int], step: Tensor, zero_point: Tensor) -> None:
        self.choices, self.step, self.zero_point = tuple(choices), step, zero_point

    def set_bits(self, bits: int) -> None:
        """Raises: ValueError for bits without a step."""
        if bits != FLOAT_BITS and bits not in self.choices:
            raise ValueError(f"[set_bits] bits={bits} has no step; calibrated bits are {self.choices} (32 is float)")
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.update(x)
        if self.bits == FLOAT_BITS:
            return x
        return ops.fake_quantize(x, *self.present, *code_range(self.bits, self.symmetric), self.axis)

    def codes(self, x: Tensor) -> Tensor:
        """The integers that x is rounded to at the chosen bits, which are not 32."""
        return ops.quantize(x, *self.present, *code_range(self.bits, self.symmetric), self.axis)

    @property
    def present(self) -> tuple[Tensor, Tensor]:
        """(step, zero_point) of the chosen bits."""
        index = self.choices.index(self.bits)
        return self.step[index], self.zero_point[index]

    @property
    def scalars(self) -> tuple[float, int]:
        """(step, zero_point) of the chosen bits of a quantizer per tensor, as numbers."""
        step, zero_point = self.step, self.zero_point
        if self._watch.changed(step, zero_point):
            self._numbers = list(zip(step.tolist(), zero_point.tolist(), strict=True))
        return self._numbers[self.choices.index(self.bits)]

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"bits={self.bits}, {kind}" + ("" if self.axis is None else f", axis={self.axis}")


class StepAverage:
    """The running mean over batches of a tensor's MSE-optimal steps (RIBS, section 3.3, "Update of Step size")."""

    def __init__(self, name: str, choices: Sequence[int], *, symmetric: bool) -> None:
        self.name = name
        self.choices = tuple(choices)
        self.symmetric = symmetric
        self.batches = 0
        self._step = torch.zeros(len(self.choices), dtype=torch.float64)
        self._zero_point = torch.zeros(len(self.choices), dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        """Raises: ValueError naming the place if x holds NaN or Inf."""
        with _named(self.name):
            found = ops.search_steps(x, self.choices, symmetric=self.symmetric)
            if not bool(found.step.isfinite().all()):  # on CUDA the operator does not wait to find out
                raise ValueError("they hold NaN or Inf")
        self.batches += 1
        self._step += (found.step.double().cpu() - self._step) / self.batches
        self._zero_point += (found.zero_point.double().cpu() - self._zero_point) / self.batches

    def result(self) -> tuple[Tensor, Tensor]:
        """(step, zero_point), each [K]; the mean zero point is rounded, so that zero stays exact."""
        return self._step.float(), self._zero_point.round().int()


class PooledSteps:
    """The MSE-optimal steps of all batches of a tensor together, from the sum of their sketches."""

    def __init__(self, name: str, choices: Sequence[int], *, symmetric: bool) -> None:
        self.name = name
        self.choices = tuple(choices)
        self.symmetric = symmetric
        self.batches = 0
        self._sketch: ops.Sketch | None = None

    def update(self, x: Tensor) -> None:
        """Raises: ValueError naming the place if x holds NaN or Inf."""
        with _named(self.name):
            sketch = ops.sketch(x)
        self.batches += 1
        self._sketch = sketch if self._sketch is None else self._sketch + sketch

    def result(self) -> tuple[Tensor, Tensor]:
        """(step, zero_point), each [K]."""
        assert self._sketch is not None
        found = ops.search_steps(self._sketch, self.choices, symmetric=self.symmetric)
        return found.step, found.zero_point


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say in which layer an operator refused its input."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"[calibrate] the activations entering {name!r}: {error}") from None
