"""Layers as products of 8-bit integers, by oneDNN's operators in torch."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribs.quant.quantizer import FakeQuantizer
from ribs.quant.weights import KeptWeights

FORM = "packed codes"  # of weights kept for integer products


class Geometry(NamedTuple):
    """The arguments of a convolution beside its tensors."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class PackedWeights(NamedTuple):
    """Codes in oneDNN's own layout, their steps [channels], and their zero points, which are zero."""

    codes: Tensor
    step: Tensor
    zero_point: Tensor

    @property
    def nbytes(self) -> int:
        """As oneDNN counts them: with padded channels and sums for the zero point."""
        return int(torch.ops.mkldnn._nbytes(self.codes)) + self.step.nbytes + self.zero_point.nbytes


def supports(layer: nn.Module) -> bool:
    """Whether a layer is no more than a product that there is an operator for, and int32 holds its sums.

    Subclasses may do more than the product.
    """
    if type(layer) is nn.Conv2d:
        terms = layer.weight[:1].numel() if _geometry(layer) is not None else 0
    else:
        terms = layer.in_features if type(layer) is nn.Linear else 0
    return 0 < terms <= (2**31 - 1) // (255 * 128)


class IntegerProduct:
    """A supported layer as a product of codes: uint8 of its input, int8 of its weights, int32 sums, a float result.

    layer: nn.Conv2d or nn.Linear.
    weights, inputs: their quantizers, whose bits and steps are looked up at each call.
    kept: where packed weights are kept.
    """

    def __init__(self, layer: nn.Module, weights: FakeQuantizer, inputs: FakeQuantizer, kept: KeptWeights) -> None:
        self._layer = layer
        self._weights = weights
        self._inputs = inputs
        self._kept = kept
        self._geometry = _geometry(layer) if isinstance(layer, nn.Conv2d) else None

    @property
    def ready(self) -> bool:
        """Whether both operands have 8 bits or less at present, and the input one step and a zero point among them."""
        few = self._weights.bits <= 8 and self._inputs.bits <= 8
        return few and self._inputs.is_per_tensor and 0 <= self._inputs.scalars[1] <= 255

    def __call__(self, x: Tensor) -> Tensor:
        """Give what the layer gives for the fake-quantized x and weights, but for the rounding of float sums."""
        step, zero_point = self._inputs.scalars
        codes = self._inputs.codes(x)
        bias = self._layer.bias
        assert bias is None or isinstance(bias, Tensor)
        if self._geometry is None:
            return linear(codes.contiguous(), step, zero_point, self._packed(codes, zero_point), bias)
        batch = codes if codes.dim() == 4 else codes.unsqueeze(0)
        batch = batch.contiguous(memory_format=torch.channels_last)
        y = conv2d(batch, step, zero_point, self._packed(batch, zero_point), bias, self._geometry)
        return y if codes.dim() == 4 else y.squeeze(0)

    def _packed(self, x: Tensor, zero_point: int) -> PackedWeights:
        weight = self._layer.weight
        assert isinstance(weight, Tensor)

        def make() -> PackedWeights:
            step, zeros = self._weights.present
            assert not zeros.any(), "weights are quantized around zero"
            return pack(self._weights.codes(weight), step.contiguous(), zero_point, x.shape, self._geometry)

        # Weights for inputs with a zero point carry sums that others do not.
        form = f"{FORM}, zero point" if zero_point else FORM
        return self._kept.get(self._weights.bits, form, (weight, self._weights.step), make)


def pack(codes: Tensor, step: Tensor, zero_point: int, shape: torch.Size, geometry: Geometry | None) -> PackedWeights:
    """Pack int8 codes of weights for inputs of a zero point; others may have another shape, but are slower."""
    if geometry is None:
        packed = torch.ops.onednn.qlinear_prepack(codes.contiguous(), list(shape))
    else:
        # The step of the input, here 1, has no part in the packing.
        packed = torch.ops.onednn.qconv_prepack(codes.contiguous(), step, 1.0, zero_point, *geometry, list(shape))
    return PackedWeights(packed, step, torch.zeros(len(step), dtype=torch.int32))


def linear(x: Tensor, step: float, zero_point: int, weights: PackedWeights, bias: Tensor | None) -> Tensor:
    """A float32 product of uint8 x [..., in] and weights [out, in]."""
    y: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, step, zero_point, *weights, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return y


def conv2d(
    x: Tensor, step: float, zero_point: int, weights: PackedWeights, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """A float32 convolution of uint8 x [n, in, h, w], padded with float zeros; both in channels-last memory."""
    y: Tensor = torch.ops.onednn.qconv2d_pointwise(
        x, step, zero_point, *weights, bias, *geometry, 1.0, 0, torch.float32, "none", [], ""
    )
    return y


def check_device(device: torch.device) -> None:
    """Raise a RuntimeError where products of integers are not there, or not exact."""
    if device.type != "cpu":
        raise RuntimeError(
            f"[integer_execution] the network is on {device}; int8 execution is for CPUs: move the model there, or "
            f"run it without"
        )
    if wrong := _wrong_products():
        raise RuntimeError(f"[integer_execution] {wrong}; run the network without integer_execution")


@cache
def _wrong_products() -> str | None:
    """Say what is wrong with the products of this machine, found by the largest codes in long sums.

    Without the VNNI instructions oneDNN adds pairs of products in 16 bits, where the largest saturate.
    """
    try:
        exact = all(_exact(zero_point, length) for zero_point in (0, 131) for length in (64, 4096))
    except (AttributeError, RuntimeError) as error:
        return f"torch {torch.__version__} has no int8 operators that run here: {error}"
    return None if exact else "this CPU's 8-bit products are not exact, since it lacks VNNI instructions"


def _exact(zero_point: int, length: int) -> bool:
    """Whether a linear layer, a convolution and a depthwise one give what float64 gives for extreme codes."""
    rows = torch.stack([torch.full((length,), value) for value in (-128, 127, 0)]).to(torch.int8)
    rows[2, ::2] = -128
    rows = rows.repeat(16, 1)
    x = torch.full((2, length), 255, dtype=torch.uint8)
    x[1, 1::2] = 0
    ones = torch.ones(len(rows))
    found = linear(x, 1.0, zero_point, pack(rows, ones, zero_point, x.shape, None), None)
    exact = torch.equal(found.double(), (x.double() - zero_point) @ rows.double().T)
    kernel = rows.view(len(rows), -1, 4, 4)
    for weight, groups in ((kernel, 1), (kernel[:, :1], len(rows))):
        channels = weight.shape[1] * groups
        image = torch.full((1, channels, 6, 6), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        geometry = Geometry([1, 1], [1, 1], [1, 1], groups)
        found = conv2d(image, 1.0, zero_point, pack(weight, ones, zero_point, image.shape, geometry), None, geometry)
        want = F.conv2d(image.double() - zero_point, weight.double(), None, 1, 1, 1, groups)
        exact = exact and torch.equal(found.double(), want)
    return exact


def _geometry(conv: nn.Conv2d) -> Geometry | None:
    """The arguments of a convolution, or None where its padding is not of zeros, the same on opposite sides."""
    if conv.padding_mode != "zeros":
        return None
    if not isinstance(conv.padding, str):
        padding = list(conv.padding)
    elif conv.padding == "valid":
        padding = [0, 0]
    else:
        total = [step * (size - 1) for step, size in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(each % 2 for each in total):
            return None
        padding = [each // 2 for each in total]
    return Geometry(list(conv.stride), padding, list(conv.dilation), conv.groups)
