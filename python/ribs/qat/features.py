"""What modules of a network gave, for a teacher to be followed there too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ribs.select.loss import find_tensor

TINY = 1e-12  # a feature of zeros has no mean square to divide by


@contextmanager
def seen(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within, {name: what the module of that name gave when it was last called}.

    Raises: ValueError for a name that the network does not have.
    """
    found: dict[str, Tensor] = {}

    def keeps(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = find_tensor(output)

        return hook

    modules = dict(network.named_modules())
    for name in names:
        if name not in modules:
            raise ValueError(
                f"[fit] features names {name!r}, which {type(network).__name__} does not have; name "
                "modules by named_modules(), such as " + ", ".join(repr(each) for each in list(modules)[1:4])
            )
    handles = [modules[name].register_forward_hook(keeps(name)) for name in dict.fromkeys(names)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def distance(own: Tensor, other: Tensor) -> Tensor:
    """The squared error of a feature as a share of the teacher's mean square.

    That of FitNets (Romero et al., 2015, equation 3), without a regressor, divided so that features of all sizes weigh
    alike.
    """
    target = other.float()
    scale = target.square().mean().clamp(min=TINY)
    error: Tensor = (own.float() - target).square().mean() / scale
    return error


def check_features(own: dict[str, Tensor], others: dict[str, Tensor], pairs: Sequence[tuple[str, str]]) -> None:
    """Raises: ValueError for modules that gave nothing, or other shapes."""
    for mine, theirs in pairs:
        for name, found, whose in ((mine, own, "model"), (theirs, others, "teacher")):
            if name not in found:
                raise ValueError(
                    f"[fit] features names {name!r}, which the {whose} does not call; name one that it does"
                )
        shapes = own[mine].shape[1:], others[theirs].shape[1:]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"[fit] the features of {mine!r} are {tuple(shapes[0])} a sample in the model, and those of {theirs!r} "
                f"{tuple(shapes[1])} in the teacher; name a pair of equal shapes"
            )
