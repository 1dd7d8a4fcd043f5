"""The two quantized operations: a layer with weights, and a matmul of two activations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from ribs.quant.integer import IntegerProduct
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer
from ribs.quant.trace import MATMULS
from ribs.quant.weights import KeptWeights


class QuantizedLayer(nn.Module):
    """A Conv or Linear whose weights (per output channel) and input (per tensor) are fake-quantized.

    layer: the float module; attributes that are not found here are looked up there (`in_features`, `stride`, ...).
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        # A transposed convolution stores (in, out / groups, ...).
        axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
        self.weight_quantizer = FakeQuantizer(symmetric=True, axis=axis)
        self.input_quantizer = FakeQuantizer(symmetric=False)
        self.kept = KeptWeights()
        self.integer: IntegerProduct | None = None  # what takes the place of the float product, where it can

    @property
    def activation_quantizers(self) -> tuple[FakeQuantizer, ...]:
        return (self.input_quantizer,)

    def set_bits(self, weight_bits: int, activation_bits: int) -> None:
        self.weight_quantizer.set_bits(weight_bits)
        self.input_quantizer.set_bits(activation_bits)

    @property
    def weight(self) -> Tensor:
        """The float weights."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def quantized_weight(self) -> Tensor:
        weight = self.weight
        if torch.is_grad_enabled() or self.weight_quantizer.bits == FLOAT_BITS:
            return self.weight_quantizer(weight)  # type: ignore[no-any-return]
        # Without gradients the weights only change between searches: quantize them once for each choice of bits.
        quantizer = self.weight_quantizer
        made: Tensor = self.kept.get(quantizer.bits, "values", (weight, quantizer.step), lambda: quantizer(weight))
        return made

    def forward(self, input: Tensor) -> Tensor:
        integer = self.integer
        if integer is not None and not torch.is_grad_enabled() and integer.ready and input.numel() > 0:
            try:
                return integer(input)
            except ValueError:
                # Codes cannot hold NaN; the float product carries it on to whoever looks at the output.
                if not bool(input.isnan().any()):
                    raise
        return _run(self.layer, self.input_quantizer(input), self.quantized_weight())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


def _run(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The float layer's own forward with other weights."""
    if type(layer) is nn.Linear:
        return F.linear(x, weight, layer.bias)
    if type(layer) in (nn.Conv1d, nn.Conv2d):
        return layer._conv_forward(x, weight, layer.bias)  # type: ignore[no-any-return, operator]
    # Subclasses may do more than the convolution (timm's pad as TensorFlow does); this costs 0.1 ms a call.
    return functional_call(layer, {"weight": weight}, (x,))  # type: ignore[no-any-return]


class QuantizedMatmul(nn.Module):
    """A product of two activations, such as q k^T, with both operands fake-quantized per tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.left_quantizer = FakeQuantizer(symmetric=False)
        self.right_quantizer = FakeQuantizer(symmetric=False)

    @property
    def activation_quantizers(self) -> tuple[FakeQuantizer, ...]:
        return (self.left_quantizer, self.right_quantizer)

    def set_bits(self, weight_bits: int, activation_bits: int) -> None:
        """Both operands are activations, so the weight bits do not matter here."""
        self.left_quantizer.set_bits(activation_bits)
        self.right_quantizer.set_bits(activation_bits)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.matmul(self.left_quantizer(left), self.right_quantizer(right))


def attach_matmuls(owner: nn.Module, count: int) -> None:
    """Bring the `count` matmuls that `owner` does in its own forward under quantizers, as `owner.matmul0`, ..."""
    for index in range(count):
        owner.add_module(f"matmul{index}", QuantizedMatmul())
    redirect = _MatmulRedirect(owner, count)
    owner.register_forward_pre_hook(redirect.enter)
    owner.register_forward_hook(redirect.leave, always_call=True)


class _MatmulRedirect:
    """Sends the matmuls of one module's forward, fused attention included, to that module's QuantizedMatmul's."""

    def __init__(self, owner: nn.Module, count: int) -> None:
        self.owner = owner
        self.count = count
        self.modes: list[_RedirectMode] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.modes.append(_RedirectMode(self))
        _running().append(self)
        self.modes[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        _running().pop()

    def matmul(self, index: int) -> QuantizedMatmul:
        if index >= self.count:
            raise RuntimeError(
                f"[QuantizedMatmul] {type(self.owner).__name__} multiplies activations {index + 1} times, but "
                f"{self.count} times when it was traced; give inputs of the same shape and mode to the search"
            )
        found = self.owner.get_submodule(f"matmul{index}")
        assert isinstance(found, QuantizedMatmul)
        return found


_thread = threading.local()


def _running() -> list[_MatmulRedirect]:
    """The redirects of the modules now running in this thread: a matmul belongs to the last, the innermost, alone."""
    if not hasattr(_thread, "running"):
        _thread.running = []
    return _thread.running  # type: ignore[no-any-return]


class _RedirectMode(TorchFunctionMode):
    def __init__(self, redirect: _MatmulRedirect) -> None:
        super().__init__()
        self.redirect = redirect
        self.seen = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        mine = _running()[-1] is self.redirect
        if mine and func in MATMULS and not any(isinstance(arg, nn.Parameter) for arg in args[:2]):
            return self._next()(*(*args, *kwargs.values())[:2])
        if mine and func is F.scaled_dot_product_attention:
            return _attention(self._next(), self._next(), *args, **kwargs)
        return func(*args, **kwargs)

    def _next(self) -> QuantizedMatmul:
        self.seen += 1
        return self.redirect.matmul(self.seen - 1)


def _attention(
    scores: QuantizedMatmul,
    mix: QuantizedMatmul,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` opened into its two matmuls, in the order of torch's documentation."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    weights = scores(query, key.transpose(-2, -1)) * scale
    if is_causal:
        attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        weights = weights.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        weights = weights + attn_mask
    return mix(F.dropout(weights.softmax(dim=-1), dropout_p, training=dropout_p > 0), value)  # type: ignore[no-any-return]
