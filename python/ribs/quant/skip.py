"""What of a model stays in float because the user says so, and what would have to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

Reasons = dict[str, str]  # by the name of a module or layer: why it cannot be quantized


class Skip:
    """Tells which modules and layers stay in float.

    patterns: names or `fnmatch` patterns of modules, with all that lies in them, or of layers, also those that are no
        modules, such as "attn.matmul0". A module that has several names goes by any of them.
    Raises: ValueError for a string in the place of several.
    """

    def __init__(self, model: nn.Module, patterns: Iterable[str] = ()) -> None:
        if isinstance(patterns, str):
            raise ValueError(f"[ribs] skip={patterns!r} is no list; give names or patterns, such as [{patterns!r}]")
        self.patterns = tuple(patterns)
        self._unused = set(self.patterns)
        self._known: dict[str, bool] = {}
        first = {id(module): name for name, module in model.named_modules()}
        names = [(name, first[id(module)]) for name, module in model.named_modules(remove_duplicate=False)]
        self.modules = tuple(dict.fromkeys(name for alias, name in names if self._matches(alias)))
        self._covered = set(self.modules)

    def covers(self, name: str) -> bool:
        """Whether a module or layer is skipped."""
        if name not in self._known:
            self._known[name] = name in self._covered or self._matches(name)
        return self._known[name]

    def check(self, layers: Iterable[str]) -> None:
        """Raise a ValueError for patterns that matched nothing so far. layers: those that there are, to be named."""
        if self._unused:
            unused = ", ".join(repr(pattern) for pattern in self.patterns if pattern in self._unused)
            raise ValueError(
                f"[ribs] skip: {unused} names no module or layer; give names or patterns such as 'head' or '*.attn'; "
                f"the layers are {list(layers)}"
            )

    def _matches(self, name: str) -> bool:
        ends = [end for end, letter in enumerate(name) if letter == "."] + [len(name)]
        found = [p for p in self.patterns if any(fnmatchcase(name[:end], p) for end in ends)]
        self._unused.difference_update(found)
        return bool(found)


def check_fit(reasons: Mapping[str, str]) -> None:
    """Raise one ValueError that lists all that cannot be quantized, and the `skip` that lets the rest work."""
    if not reasons:
        return
    # What is wrong within a module that is named itself may be for the same cause, and is skipped with it.
    outer = {n: why for n, why in reasons.items() if not any(o and n.startswith(f"{o}.") for o in reasons)}
    by_reason: dict[str, list[str]] = {}
    for name, reason in outer.items():
        by_reason.setdefault(reason, []).append(name)
    lines = [f"- {', '.join(n or 'the model itself' for n in names)}: {why}" for why, names in by_reason.items()]
    named = [name for name in outer if name]
    if named:
        lines.append(f"change this, or leave it in float and quantize the rest: skip={named}")
    raise ValueError("\n".join(["[ribs] not all of the model can be quantized:", *lines]))


def check_model(model: nn.Module, skip: Skip) -> Reasons:
    """The modules whose parameters cannot be quantized, with the reasons.

    Raises: ValueError for a model that cannot be used as a whole: in training mode, on several devices, on the meta
        device, without any parameter of float32.
    """
    check_training(model)
    parameters = dict(model.named_parameters())
    devices = {str(parameter.device): name for name, parameter in reversed(parameters.items())}
    if len(devices) > 1:
        places = ", ".join(f"{name!r} on {device}" for device, name in sorted(devices.items()))
        raise ValueError(f"[ribs] the model is on several devices ({places}); move it to one")
    if "meta" in devices:
        raise ValueError("[ribs] the model is on the meta device and has no weights; load them first")
    types = {parameter.dtype for parameter in parameters.values() if parameter.is_floating_point()}
    if types and torch.float32 not in types:
        names = ", ".join(sorted(map(str, types)))
        raise ValueError(f"[ribs] the model's parameters are {names}, and ribs needs float32: call model.float()")
    reasons: Reasons = {}
    for name, parameter in parameters.items():
        module, _, own = name.rpartition(".")
        if skip.covers(module) or skip.covers(name) or not parameter.is_floating_point():
            continue
        if parameter.dtype is not torch.float32:
            reasons[module] = f"its {own} is {parameter.dtype}, and ribs needs float32: call .float()"
        elif not bool(torch.isfinite(parameter).all()):
            reasons[module] = f"its {own} holds NaN or Inf"
    return reasons


def check_training(model: nn.Module) -> None:
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(f"[ribs] {training[0]} is in training mode; call model.eval() first")
