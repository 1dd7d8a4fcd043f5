"""Products of two tensors, as torch's functions compute them, and the functions that hide theirs."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

Kind = Literal["conv", "transposed conv", "linear", "matmul", "einsum"]
LEFT, RIGHT, ADDED = range(3)  # of a product: its operands, and what is added to it
PLAIN_LAYERS = (nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d)
FUSED = ("attn", "attention", "fmha", "_transformer_encoder_layer_fwd")
FUSED_MODULES = ("torch.nn.attention.flex_attention", "torch.nn.attention.varlen", "flash_attn", "xformers")
OPEN_NAMESPACES = ("aten", "prim", "prims", "ribs", "inductor", "onednn", "mkldnn", "quantized_decomposed")

# Where a function takes its operands and what it adds: position and name of each.
_MATMUL = ((0, "input"), (1, "other"))
_BMM = ((0, "input"), (1, "mat2"))
_LINEAR = ((0, "input"), (1, "weight"), (2, "bias"))
_ADDMM = ((1, "mat1"), (2, "mat2"), (0, "input"))
_BADDBMM = ((1, "batch1"), (2, "batch2"), (0, "input"))
_FORMS: dict[Callable[..., Any], tuple[Kind, tuple[tuple[int, str], ...]]] = {
    F.linear: ("linear", _LINEAR),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), ("conv", _LINEAR)),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), ("transposed conv", _LINEAR)),
    **dict.fromkeys((torch.matmul, torch.linalg.matmul, Tensor.matmul, Tensor.__matmul__), ("matmul", _MATMUL)),
    Tensor.__rmatmul__: ("matmul", _MATMUL[::-1]),
    **dict.fromkeys((torch.bmm, Tensor.bmm, torch.mm, Tensor.mm), ("matmul", _BMM)),
    **dict.fromkeys((torch.mv, Tensor.mv), ("matmul", ((0, "input"), (1, "vec")))),
    **dict.fromkeys((torch.addmm, Tensor.addmm), ("matmul", _ADDMM)),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), ("matmul", _BADDBMM)),
    torch.einsum: ("einsum", ((1, ""), (2, ""))),
}


@dataclass(frozen=True)
class Product:
    """One product.

    values: left and right operand, and what is added, or None.
    run: f(left, right, added), computes it.
    equation: of an einsum, the labels of both operands and of the result.
    alpha: what the product is multiplied by.
    """

    kind: Kind
    values: tuple[Tensor, Tensor, Tensor | None]
    run: Callable[..., Tensor]
    equation: tuple[str, str, str] = ("", "", "")
    alpha: float = 1

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear layer's: channels, which are last, times a matrix on the right."""
        _, right, _ = self.values
        return self.kind in ("linear", "matmul") and self.alpha == 1 and right.dim() == 2

    def macs(self, result: Tensor) -> int:
        """Multiply-accumulates."""
        left, right, _ = self.values
        if self.kind == "conv":
            return result.numel() * math.prod(right.shape[1:])
        if self.kind == "transposed conv":
            return left.numel() * math.prod(right.shape[1:])
        if self.kind == "einsum":
            sizes: dict[str, int] = {}
            for labels, operand in zip(self.equation, (left, right), strict=False):
                for label, size in zip(labels, operand.shape, strict=True):
                    sizes[label] = max(size, sizes.get(label, 0))
            return math.prod(sizes.values())
        return result.numel() * left.shape[-1]

    def output_axis(self, operand: int) -> int | None:
        """The dimension of an operand that makes the channels of the result; None where there is none."""
        dims = self.values[operand].dim()  # type: ignore[union-attr]
        if self.kind == "einsum":
            own, other = self.equation[operand], self.equation[1 - operand]
            axes = [axis for axis, label in enumerate(own) if label in self.equation[2] and label not in other]
            return axes[-1] if axes else None
        if self.kind == "matmul":
            return dims - (1 if operand == RIGHT else 2) if dims > 1 else None
        if operand == LEFT:
            return dims - 2 if self.kind == "linear" and dims > 1 else None
        return 1 if self.kind == "transposed conv" else 0


def find_product(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Product | None:
    """The product of real floating-point tensors that a call of one of torch's functions is, if any."""
    if func not in _FORMS:
        return None
    kind, slots = _FORMS[func]
    equation = ("", "", "")
    if kind == "einsum":
        args = [args[0], *(args[1] if isinstance(args[1], (tuple, list)) else args[1:])]
        if len(args) != 3 or not all(isinstance(each, Tensor) for each in args[1:]):
            return None
        equation = _labels(args[0], *(each.dim() for each in args[1:]))
        if not set(equation[LEFT]) & set(equation[RIGHT]) - set(equation[2]):
            return None  # nothing is summed
    found = [args[at] if at < len(args) else kwargs.get(name) for at, name in slots]
    left, right, added = (*found, None)[:3]
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return None
    if not left.is_floating_point() or not right.is_floating_point():
        return None

    def run(*values: Tensor | None) -> Tensor:
        given, named = list(args), dict(kwargs)
        for (at, name), value in zip(slots, values, strict=False):
            if at < len(given):
                given[at] = value
            elif name in named:
                named[name] = value
        result: Tensor = func(*given, **named)
        return result

    return Product(kind, (left, right, added), run, equation, kwargs.get("alpha", 1))


def _labels(equation: str, *dims: int) -> tuple[str, str, str]:
    """The labels of two operands and of the result, with labels of its own for each dimension that "..." stands for."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    operands = inputs.split(",")
    widths = [count - len(labels.replace("...", "")) for labels, count in zip(operands, dims, strict=True)]
    rest = "".join(map(chr, range(0x100, 0x100 + max(widths))))
    if not arrow:
        letters = "".join(operands).replace("...", "")
        output = "..." + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    left, right = (each.replace("...", rest[len(rest) - w :]) for each, w in zip(operands, widths, strict=True))
    return left, right, output.replace("...", rest)


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is torch's own, with nothing around its product."""
    own = type(module) in PLAIN_LAYERS and "forward" not in module.__dict__
    return own and not module._forward_pre_hooks and not module._forward_hooks


def fused_operator(func: Callable[..., Any]) -> str | None:
    """Why the operator cannot be quantized, where it is fused attention, whose products cannot be seen."""
    name = _operator_name(func)
    return _fused(name) if _is_fused(name) else None


def fused_within(error: Exception, model: nn.Module) -> dict[str, str]:
    """{module: the same} for what failed inside of fused attention, which may be no operator that is seen."""
    places = {id(module): name for name, module in model.named_modules()}
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = places.get(id(frame.f_locals.get("self")), place)
        package = str(frame.f_globals.get("__name__", ""))
        if package.startswith(FUSED_MODULES):
            return {place: _fused(package)}
    return {}


def _is_fused(name: str) -> bool:
    return any(part in name for part in FUSED)


def _fused(name: str) -> str:
    return (
        f"runs {name}, fused attention whose products cannot come under quantizers: open it by "
        'attn_implementation="sdpa" or "eager" in transformers, timm.layers.set_fused_attn(False) in timm, or '
        "F.scaled_dot_product_attention in its place"
    )


def foreign_operator(func: Callable[..., Any]) -> str | None:
    """The name of an operator of which nobody knows what it multiplies: one that is not torch's, or fused attention."""
    name = _operator_name(func)
    foreign = "::" in name and name.partition("::")[0] not in OPEN_NAMESPACES
    return name if foreign or _is_fused(name) else None


def _operator_name(func: Callable[..., Any]) -> str:
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        return str(func._qualified_op_name if isinstance(func, OpOverloadPacket) else func.name())
    if isinstance(func, HigherOrderOperator) or func in _NATIVE:
        return func.__name__
    return ""


_NATIVE = {torch._native_multi_head_attention, torch._transformer_encoder_layer_fwd}


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` opened into its two matmuls, in the order of torch's documentation.

    Where a mask leaves a query nothing to attend to, the result is 0, as torch's is.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    weights = torch.matmul(query, key.transpose(-2, -1)) * scale
    if is_causal:
        attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        weights = weights.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        weights = weights + attn_mask
    shares = weights.softmax(dim=-1)
    if attn_mask is not None and not is_causal:
        shares = shares.masked_fill((weights == float("-inf")).all(-1, keepdim=True), 0.0)
    return torch.matmul(F.dropout(shares, dropout_p, training=dropout_p > 0), value)


def _unchecked(func: Any) -> Callable[..., Any]:
    """A function of torch's that runs its own body under a mode, where the original hands itself to the mode."""
    names = {**func.__globals__, "has_torch_function": lambda arguments: False}
    twin = FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    twin.__kwdefaults__ = func.__kwdefaults__
    return twin


# What hides its products, and what shows them to a mode that is active.
OPENED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.scaled_dot_product_attention: attention,
    F.multi_head_attention_forward: _unchecked(F.multi_head_attention_forward),
}
