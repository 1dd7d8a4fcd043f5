"""Task losses between the float and the quantized network's outputs: no labels needed. Public as `ribs.losses`.

A task loss is f(float output, quantized output) -> [samples] losses, or f(float output, quantized output, inputs) with
the `ribs.quant.inputs.Inputs` that the network was called with. Any function will do; those here find the tensor to
compare in the output of most networks by themselves, and take `at` where they do not: a key, attribute or position.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ribs.quant.inputs import Inputs
from ribs.quant.tree import tensors

TaskLoss = Callable[..., Tensor]
Place = str | int | None
Distance = Literal["cosine", "mse"]


@dataclass(frozen=True, kw_only=True)
class KLDivergence:
    """KL(float || quantized) of softmax outputs at temperature 1 for each sample (RIBS, section 4).

    at: where the [samples, classes] logits are. By default they are the output itself, what it calls "logits", the
        first item of a tuple or list, or the only tensor that it holds.
    """

    at: Place = None

    def __call__(self, reference: Any, output: Any) -> Tensor:
        """[samples] float64.

        Raises: TypeError for outputs without such logits.
        """
        logits = find_tensor(reference, self.at), find_tensor(output, self.at)
        if logits[0].dim() != 2 or logits[0].shape[1] < 2:
            raise TypeError(
                f"[loss] the model's output is {_shape(logits[0])}, not [samples, classes] logits; pass loss="
                "ribs.losses.Dense() for logits of pixels or boxes, LanguageModel() for those of tokens, Embedding() "
                "for what is no logits, or f(float_output, quantized_output) that returns the [samples] losses"
            )
        return _kl(*logits, dim=1)


@dataclass(frozen=True, kw_only=True)
class Dense:
    """The KL divergence of the classes at every pixel, box or other position, averaged over those of a sample.

    at: where the logits are, as for `KLDivergence`.  dim: their dimension of classes.
    """

    at: Place = None
    dim: int = 1

    def __call__(self, reference: Any, output: Any) -> Tensor:
        """[samples] float64.

        Raises: TypeError for logits that have no such dimension, or a single class in it.
        """
        logits = find_tensor(reference, self.at), find_tensor(output, self.at)
        dims = range(-logits[0].dim() + 1, logits[0].dim())
        if self.dim == 0 or self.dim not in dims or logits[0].shape[self.dim] < 2:
            raise TypeError(
                f"[loss] the model's output is {_shape(logits[0])}, and has no classes along dim={self.dim}; give the "
                "dimension of at least two classes, or loss=ribs.losses.Embedding(distance='mse') for what is no logits"
            )
        return _mean(_kl(*logits, dim=self.dim))


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """How far apart vectors, or any other numbers, are.

    at: where they are, as for `KLDivergence`.
    distance: "cosine" is 1 - the cosine of the angle between vectors along the last dimension, averaged over those of a
        sample; "mse" the mean squared difference of all numbers of a sample.
    """

    at: Place = None
    distance: Distance = "cosine"

    def __post_init__(self) -> None:
        if self.distance not in get_args(Distance):
            raise ValueError(f"[loss] distance={self.distance!r} is not supported; give one of {get_args(Distance)}")

    def __call__(self, reference: Any, output: Any) -> Tensor:
        """[samples] float64."""
        left, right = find_tensor(reference, self.at).double(), find_tensor(output, self.at).double()
        if self.distance == "mse":
            return _mean((left - right).square())
        # Half the squared distance of unit vectors: exactly 0 for the same ones, as 1 - cosine is not.
        return _mean((F.normalize(left, dim=-1) - F.normalize(right, dim=-1)).square().sum(-1) / 2)


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """The KL divergence of the next token at every token, averaged over those of a sample that count.

    at: where the [samples, tokens, vocabulary] logits are, as for `KLDivergence`.
    mask: the input of [samples, tokens] that tells which tokens count, by name or position: those at which it is not
        `ignore_index`. By default the input "attention_mask", and all tokens of networks that are not given one.
    """

    at: Place = None
    mask: Place = None
    ignore_index: int = 0

    def __call__(self, reference: Any, output: Any, inputs: Inputs) -> Tensor:
        """[samples] float64; 0 for a sample in which no token counts.

        Raises: TypeError for other logits, and for a mask that is not there, of another shape, or one that is added.
        """
        logits = find_tensor(reference, self.at), find_tensor(output, self.at)
        if logits[0].dim() != 3 or logits[0].shape[2] < 2:
            raise TypeError(
                f"[loss] the model's output is {_shape(logits[0])}, not [samples, tokens, vocabulary] logits; give "
                "their place by `at`, or another loss"
            )
        divergence = _kl(*logits, dim=2)
        counts = self._counts(inputs, divergence)
        return divergence.where(counts, 0.0).sum(1) / counts.sum(1).clamp(min=1)

    def _counts(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """[samples, tokens] bool."""
        name = "attention_mask" if self.mask is None else self.mask
        given: dict[Place, Any] = dict([*enumerate(inputs.args), *inputs.kwargs.items()])
        if self.mask is None and name not in given:
            return torch.ones_like(tokens, dtype=torch.bool)
        mask = given.get(name)
        if not isinstance(mask, Tensor) or mask.shape != tokens.shape:
            got = f"is {_shape(mask)}" if isinstance(mask, Tensor) else "is not there"
            raise TypeError(
                f"[loss] the mask {name!r} {got}, for {tuple(tokens.shape)} tokens; give the name or position of an "
                f"input of that shape as `mask`; there are {list(given)}"
            )
        if mask.is_floating_point() and bool((mask < 0).any()):
            raise TypeError(f"[loss] the mask {name!r} is one to be added; give one that is 1 where a token counts")
        return mask != self.ignore_index


kl_divergence = KLDivergence()
LOSSES: dict[str, TaskLoss] = {
    "kl-divergence": kl_divergence,
    "dense": Dense(),
    "embedding": Embedding(),
    "language-model": LanguageModel(),
}


def measure(loss: TaskLoss, reference: Any, output: Any, inputs: Inputs) -> Tensor:
    """[samples] losses by any task loss.

    Raises: ValueError for a loss of another shape.
    """
    losses: Any = loss(reference, output, inputs) if _takes_inputs(loss) else loss(reference, output)
    if not isinstance(losses, Tensor) or losses.shape != (inputs.samples,):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"[loss] returned {got} for {inputs.samples} samples; it must be [samples]")
    return losses


def check_loss(loss: TaskLoss) -> None:
    """Raises: TypeError for what is no task loss, such as the class of one."""
    if isinstance(loss, type) or not callable(loss):
        name = f"{loss.__name__}(), an object of the class" if isinstance(loss, type) else "one of ribs.losses"
        raise TypeError(f"[loss] loss={loss!r} is not supported; give {name}, or f(float_output, quantized_output)")


def find_tensor(output: Any, at: Place = None) -> Tensor:
    """The tensor of an output that is compared.

    Raises: TypeError that says what the output holds.
    """
    found = _usual(output) if at is None else _item(output, at)
    if isinstance(found, Tensor):
        return found
    held = [f"{name!r}: {_shape(value)}" for name, value in _items(output).items()]
    where = (
        f"at={at!r} is no tensor of the model's output" if at is not None else "the model's output has no plain logits"
    )
    raise TypeError(
        f"[loss] {where}: it is a {type(output).__name__}" + (f" of {', '.join(held)}" if held else "") + "; pass the "
        "place of a tensor, such as loss=ribs.losses.KLDivergence(at='logits'), or f(float_output, quantized_output)"
    )


def _usual(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    named = _item(output, "logits")
    if isinstance(named, Tensor):
        return named
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return held[0] if len(held := tensors(output)) == 1 else None


def _item(output: Any, at: str | int) -> Any:
    if isinstance(at, str) and not isinstance(output, Mapping):
        return getattr(output, at, None)
    return _items(output).get(at)


def _items(output: Any) -> dict[str | int, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    names = [field.name for field in fields(output)] if is_dataclass(output) else []
    return {name: getattr(output, name) for name in names}


def _shape(value: Any) -> str:
    return f"a {tuple(value.shape)} tensor" if isinstance(value, Tensor) else type(value).__name__


def _kl(reference: Tensor, output: Tensor, dim: int) -> Tensor:
    """KL divergence along one dimension, in float64; classes that have no probability have no part in it."""
    log_p, log_q = (torch.log_softmax(logits.double(), dim) for logits in (reference, output))
    return torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(dim)


def _mean(values: Tensor) -> Tensor:
    """[samples] means over all other dimensions."""
    return values.reshape(len(values), -1).mean(1)


def _takes_inputs(loss: TaskLoss) -> bool:
    """Whether a third argument has to be given."""
    try:
        parameters = inspect.signature(loss).parameters.values()
    except ValueError:  # a builtin's
        return False
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in by_place and each.default is each.empty for each in parameters) == 3
