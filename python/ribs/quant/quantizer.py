"""Fake quantization with a step for every candidate bit-width, kept together: choosing bits is choosing an index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ribs import ops
from ribs.ops.twin_levels import log_sqrt2_table, nonuniform_table
from ribs.quant.recipe import ShareLevels
from ribs.quant.watch import Watch

FLOAT_BITS = 32  # "not quantized", in configurations and costs alike
Steps = tuple[Tensor, Tensor]  # (step, zero point), each [K], or [K, channels] with an axis


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """(qmin, qmax): signed codes around zero when symmetric, unsigned codes otherwise."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)


class Quantizer(nn.Module, ABC):
    """Rounds a tensor to few levels at the chosen bits; passes it through at 32.

    choices: the bit-widths it has steps for; none until calibrated.
    observer: sees what comes in, while the quantizer is calibrated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.choices: tuple[int, ...] = ()
        self.bits = FLOAT_BITS
        self.observer: Observer | None = None

    def set_bits(self, bits: int) -> None:
        """Raises: ValueError for bits without a step."""
        if bits != FLOAT_BITS and bits not in self.choices:
            raise ValueError(f"[set_bits] bits={bits} has no step; calibrated bits are {self.choices} (32 is float)")
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.update(x)
        return self.unobserved(x)

    def unobserved(self, x: Tensor) -> Tensor:
        """What comes out for x, which the observer does not see."""
        return x if self.bits == FLOAT_BITS else self.rounded(x)

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """X at the chosen bits, which are not 32."""


class FakeQuantizer(Quantizer):
    """Levels at equal distances: a step and a zero point for every candidate bit-width.

    step, zero_point: [K] per tensor, or [K, channels] along `axis`; empty until calibrated.
    learns: whether it and what it rounds are being trained, so that nothing rounded is kept for the next call.
    """

    learns = False
    step: Tensor
    zero_point: Tensor

    def __init__(self, *, symmetric: bool, axis: int | None = None) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.axis = axis
        self._watch = Watch()
        self._numbers: list[tuple[float, int]] = []
        self.register_buffer("step", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))

    def set_steps(self, choices: Sequence[int], step: Tensor, zero_point: Tensor) -> None:
        self.choices, self.step, self.zero_point = tuple(choices), step, zero_point

    def rounded(self, x: Tensor) -> Tensor:
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

    @property
    def is_per_tensor(self) -> bool:
        """Whether one step and zero point make codes of all that comes in."""
        return self.axis is None

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"bits={self.bits}, {kind}" + ("" if self.axis is None else f", axis={self.axis}")


class ShareQuantizer(Quantizer):
    """Levels at unequal distances, for values between 0 and 1 most of which are small: what softmax gives.

    levels: "nonuniform", those of nuLSQ, or "log_sqrt2", powers of the square root of a half (`ribs.ops`).
    step: the steps of all candidate bit-widths, one after the other; 2^bits - 1 of each in nuLSQ, one in log-sqrt2.
    """

    step: Tensor

    def __init__(self, levels: ShareLevels) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("step", torch.empty(0))

    def set_steps(self, choices: Sequence[int], steps: Sequence[Tensor]) -> None:
        """steps: for each bit-width, [2^bits - 1] or [1]."""
        self.choices, self.step = tuple(choices), torch.cat(list(steps))

    def steps_of(self, bits: int) -> Tensor:
        sizes = [2**each - 1 if self.levels == "nonuniform" else 1 for each in self.choices]
        steps: Tensor = self.step.split(sizes)[self.choices.index(bits)]
        return steps

    @property
    def table(self) -> tuple[Tensor, Tensor]:
        """At the chosen bits: levels from zero up, and the least value that is rounded to each but the first."""
        steps = self.steps_of(self.bits)
        return nonuniform_table(steps) if self.levels == "nonuniform" else log_sqrt2_table(steps, self.bits)

    def rounded(self, x: Tensor) -> Tensor:
        steps = self.steps_of(self.bits)
        if self.levels == "nonuniform":
            return ops.fake_quantize_nonuniform(x, steps)
        return ops.fake_quantize_log_sqrt2(x, steps, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, {self.levels}"


class Observer(ABC):
    """Finds the steps of a quantizer for several bit-widths from what comes into it.

    name: of the layer.  choices: the bit-widths.  batches: how many it has seen.
    """

    quantizer: Quantizer

    def __init__(self, name: str, choices: Sequence[int]) -> None:
        self.name = name
        self.choices = tuple(choices)
        self.batches = 0

    def update(self, x: Tensor) -> None:
        """Raises: ValueError naming the place if x holds NaN or Inf."""
        try:
            self.see(x)
        except ValueError as error:
            raise ValueError(f"[calibrate] the activations entering {self.name!r}: {error}") from None
        self.batches += 1

    @abstractmethod
    def see(self, x: Tensor) -> None:
        """Take in one batch."""

    @abstractmethod
    def settle(self, device: torch.device) -> None:
        """Give the quantizer its steps, on a device."""


class StepAverage(Observer):
    """The running mean over batches of a tensor's steps (RIBS, section 3.3, "Update of Step size").

    find: f(x, choices, symmetric=, axis=) -> the steps and zero points of one batch.
    """

    def __init__(self, name: str, choices: Sequence[int], quantizer: FakeQuantizer, find: Callable[..., Steps]) -> None:
        super().__init__(name, choices)
        self.quantizer: FakeQuantizer = quantizer
        self.find = find
        self._step = torch.zeros(())
        self._zero_point = torch.zeros(())

    def see(self, x: Tensor) -> None:
        step, zero_point = self.steps_of(x)
        if not bool(step.isfinite().all()):  # on CUDA the operator does not wait to find out
            raise ValueError("they hold NaN or Inf")
        self._step = self._step + (step.double().cpu() - self._step) / (self.batches + 1)
        self._zero_point = self._zero_point + (zero_point.double().cpu() - self._zero_point) / (self.batches + 1)

    def steps_of(self, x: Tensor) -> Steps:
        """Those of one batch."""
        return self.find(x, self.choices, symmetric=self.quantizer.symmetric, axis=self.quantizer.axis)

    def settle(self, device: torch.device) -> None:
        """The mean zero point is rounded, so that zero stays exact."""
        step, zero_point = self._step.float(), self._zero_point.round().int()
        self.quantizer.set_steps(self.choices, step.to(device), zero_point.to(device))


class Pooled(Observer):
    """The sum of the sketches of all batches."""

    def __init__(self, name: str, choices: Sequence[int]) -> None:
        super().__init__(name, choices)
        self._sketch: ops.Sketch | None = None

    def see(self, x: Tensor) -> None:
        sketch = ops.sketch(x)
        self._sketch = sketch if self._sketch is None else self._sketch + sketch

    @property
    def sketch(self) -> ops.Sketch:
        assert self._sketch is not None
        return self._sketch


class PooledSteps(Pooled):
    """The MSE-optimal steps of all batches of a tensor together."""

    def __init__(self, name: str, choices: Sequence[int], quantizer: FakeQuantizer) -> None:
        super().__init__(name, choices)
        self.quantizer: FakeQuantizer = quantizer

    def settle(self, device: torch.device) -> None:
        found = ops.search_steps(self.sketch, self.choices, symmetric=self.quantizer.symmetric)
        self.quantizer.set_steps(self.choices, found.step.to(device), found.zero_point.to(device))


class PooledLevels(Pooled):
    """The MSE-optimal levels of softmax outputs, of all batches together."""

    def __init__(self, name: str, choices: Sequence[int], quantizer: ShareQuantizer) -> None:
        super().__init__(name, choices)
        self.quantizer: ShareQuantizer = quantizer

    def settle(self, device: torch.device) -> None:
        steps: Sequence[Tensor]
        if self.quantizer.levels == "nonuniform":
            steps = ops.search_levels(self.sketch, self.choices).steps
        else:
            steps = ops.search_log_sqrt2(self.sketch, self.choices).step.split(1)
        self.quantizer.set_steps(self.choices, [each.to(device) for each in steps])
