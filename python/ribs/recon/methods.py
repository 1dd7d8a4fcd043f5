"""The methods of reconstruction, as facts: what is learned at a time, from what, for how long and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Whole = Literal["layer", "block"]


@dataclass(frozen=True)
class Phase:
    """One pass over the network: its pieces are optimised one after the other.

    whole: what is a piece.
    rounding: whether the rounding of weights is learned.  steps: whether the steps of activations are.
    activations: whether activations are quantized meanwhile.
    float_inputs: whether a piece gets the inputs of the float network; otherwise those of the network as quantized so
        far.
    keep: the probability with which a value is quantized, at the piece's input and in each activation quantizer.
    power: of the error, which is summed over dimension 1 and averaged over the others.
    fisher: weigh the error of each value by the square of (1 + the size of the task loss's gradient there).
    """

    whole: Whole
    iterations: int
    rounding: bool = False
    steps: bool = False
    activations: bool = True
    float_inputs: bool = False
    keep: float = 1.0
    power: float = 2.0
    fisher: bool = False


@dataclass(frozen=True, kw_only=True)
class AdaRound:
    """Layer by layer, whether each weight goes up or down (Nagel et al., Up or Down?, 2020).

    Activations stay in float meanwhile, and their steps as calibrated. The constants are those of BRECQ's code.

    iterations: steps of Adam for each layer.  batch_size: samples of one step.
    weight_lr: the learning rate of the rounding variables.
    warm_up: the share of the iterations before the regulariser begins.
    beta: its sharpness then and at the end, linear in between.
    penalty: its weight, the papers' lambda; they have 0.1 for MobileNetV2.
    """

    iterations: int = 20_000
    batch_size: int = 32
    weight_lr: float = 1e-3
    warm_up: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    penalty: float = 0.01

    def __post_init__(self) -> None:
        _at_least(1, iterations=self.iterations, batch_size=self.batch_size)
        _positive(weight_lr=self.weight_lr)
        _at_least(0, penalty=self.penalty)
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"[reconstruct] warm_up={self.warm_up} is not supported; it must lie in 0..1, below 1")
        if len(self.beta) != 2 or min(self.beta) < 1:
            raise ValueError(f"[reconstruct] beta={self.beta} is not supported; give two numbers of at least 1")

    @property
    def step_lr(self) -> float:
        """The learning rate of the steps of activations."""
        return 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("layer", self.iterations, rounding=True, activations=False),)

    def beta_at(self, iteration: int) -> float:
        """The sharpness of the regulariser in one step; 0 while there is none."""
        first = self.warm_up * self.iterations
        if iteration < first:
            return 0.0
        start, end = self.beta
        return start + (end - start) * (iteration - first) / (self.iterations - first)


@dataclass(frozen=True, kw_only=True)
class BRECQ(AdaRound):
    """Block by block, first the rounding of weights, then the steps of activations (Li et al., BRECQ, 2021).

    activation_lr: the learning rate of the steps, which falls to 0 along a cosine.
    activation_share: the iterations of the second pass, as a share of the first's.
    activation_power: of the error in the second pass.
    fisher: weigh the errors of the first pass by the diagonal of the Fisher information, as in the paper; the authors'
        script does not.
    """

    activation_lr: float = 4e-4
    activation_share: float = 0.25
    activation_power: float = 2.4
    fisher: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(activation_lr=self.activation_lr)
        _at_least(0, activation_share=self.activation_share)
        _at_least(1, activation_power=self.activation_power)

    @property
    def step_lr(self) -> float:
        return self.activation_lr

    @property
    def phases(self) -> tuple[Phase, ...]:
        second = round(self.iterations * self.activation_share)
        phases = (
            Phase("block", self.iterations, rounding=True, activations=False, fisher=self.fisher),
            Phase("block", second, steps=True, float_inputs=True, power=self.activation_power),
        )
        return phases if second else phases[:1]


@dataclass(frozen=True, kw_only=True)
class QDrop(AdaRound):
    """Block by block, rounding and steps together, with activations quantized at random (Wei et al., QDrop, 2022).

    activation_lr: the learning rate of the steps, which falls to 0 along a cosine.
    keep: the probability with which a value is quantized, drawn anew in every step.
    """

    activation_lr: float = 4e-5
    keep: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(activation_lr=self.activation_lr)
        if not 0 <= self.keep <= 1:
            raise ValueError(f"[reconstruct] keep={self.keep} is not supported; a probability lies in 0..1")

    @property
    def step_lr(self) -> float:
        return self.activation_lr

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("block", self.iterations, rounding=True, steps=True, keep=self.keep),)


Method = AdaRound | BRECQ | QDrop
METHODS: dict[str, type[AdaRound]] = {"adaround": AdaRound, "brecq": BRECQ, "qdrop": QDrop}


def _at_least(least: float, **facts: float) -> None:
    for name, value in facts.items():
        if isinstance(value, bool) or not value >= least:
            raise ValueError(f"[reconstruct] {name}={value} is not supported; give at least {least}")


def _positive(**facts: float) -> None:
    for name, value in facts.items():
        if not value > 0:
            raise ValueError(f"[reconstruct] {name}={value} is not supported; give a positive number")
