"""The facts of a training run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how fast a network is trained; at first as in LSQ (Esser et al., 2019, section 3).

    epochs: passes over the loader.
    lr: the learning rate of weights, norms and biases, which falls to 0 along a cosine; for networks at 8 bits LSQ has
        0.001.  step_lr: of steps and offsets; by default lr too.
    warm_up: epochs in which learning rates rise from 0 first.
    momentum: of SGD.  weight_decay: of weights; for ResNet-18 LSQ has 2.5e-5 at 2 bits, 5e-5 at 3 and 1e-4 at 4.
    label_smoothing: of labels, 0..1.
    distillation: the share of the loss that is the divergence from the teacher's outputs; the rest is of the labels,
        which are not needed at 1.  temperature: of that divergence.
    features: pairs of names, of a module of the network and one of the teacher, such as (("layer4", "layer4"),): the
        loss has besides the mean over them of the squared difference of their outputs, divided by the mean square of
        the teacher's (FitNets, Romero et al., 2015, without a regressor: shapes are equal), times feature_weight.
    ema: the decay of an average of the weights that is evaluated and returned in their place; None for none.
    progressive: bits of the stages before the last, such as (8, 5): all stages have as many epochs, and in these no
        unit has fewer bits (PROFIT, Park and Yoo, 2020). Steps are found anew where a stage begins.
    dampening: of oscillating weights: how much `ribs.qat.dampening` adds to the loss; it rises from 0 along a cosine.
    freezing: the frequency of oscillations above which `ribs.qat.Freezing` holds a weight; None for never.
    clip: the largest norm of all gradients together; None for no limit.
    most_skipped: how many steps in a row may be skipped because their gradients are NaN or infinite.
    seed: of the order of samples, augmentation and dropout.
    """

    epochs: int = 90
    lr: float = 0.01
    step_lr: float | None = None
    warm_up: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    distillation: float = 1.0
    temperature: float = 1.0
    features: tuple[tuple[str, str], ...] = ()
    feature_weight: float = 1.0
    ema: float | None = None
    progressive: tuple[int, ...] = ()
    dampening: float = 0.0
    freezing: float | None = None
    clip: float | None = None
    most_skipped: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, "at least 1", epochs=self.epochs)
        _check(self.lr > 0, "a positive number", lr=self.lr)
        _check(self.step_lr is None or self.step_lr >= 0, "a number of at least 0, or None", step_lr=self.step_lr)
        _check(0 <= self.warm_up < self.epochs, "at least 0 and less than epochs", warm_up=self.warm_up)
        _check(0 <= self.momentum < 1, "0..1, below 1", momentum=self.momentum)
        _check(self.weight_decay >= 0, "at least 0", weight_decay=self.weight_decay)
        _check(0 <= self.label_smoothing < 1, "0..1, below 1", label_smoothing=self.label_smoothing)
        _check(0 <= self.distillation <= 1, "a share in 0..1", distillation=self.distillation)
        _check(self.temperature > 0, "a positive number", temperature=self.temperature)
        holds = all(isinstance(pair, tuple) and len(pair) == 2 for pair in self.features)
        _check(holds, "a tuple of pairs of names (of the network, of the teacher)", features=self.features)
        _check(self.feature_weight > 0, "a positive number", feature_weight=self.feature_weight)
        _check(self.ema is None or 0 <= self.ema < 1, "0..1, below 1, or None", ema=self.ema)
        falling = sorted(self.progressive, reverse=True) == list(self.progressive)
        holds = falling and set(self.progressive) <= set(range(1, 9)) and len(self.progressive) < self.epochs
        _check(holds, "falling bits in 1..8, fewer than epochs", progressive=self.progressive)
        _check(self.dampening >= 0, "at least 0", dampening=self.dampening)
        holds = self.freezing is None or 0 < self.freezing <= 1
        _check(holds, "a frequency in 0..1, above 0, or None", freezing=self.freezing)
        _check(self.clip is None or self.clip > 0, "a positive number, or None", clip=self.clip)
        _check(self.most_skipped >= 0, "at least 0", most_skipped=self.most_skipped)

    def least_bits(self, epoch: int) -> int:
        """The fewest bits that a unit has in an epoch; 1 in the last stage, whose bits are those given."""
        return (*self.progressive, 1)[epoch * (len(self.progressive) + 1) // self.epochs]


def _check(holds: bool, allowed: str, **fact: object) -> None:
    if not holds:
        [(name, value)] = fact.items()
        raise ValueError(f"[Training] {name}={value} is not supported; give {allowed}")
