"""Integer weights in ONNX: as planes of bits, or in the types that ONNX has."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor

from ribs import ops
from ribs.io.export.sites import Form, Weights
from ribs.io.export.writer import Array, Writer

# Runtimes that multiply integers round biases to multiples of both steps' product, which at few bits is much. Codes of
# fewer bits are therefore made wider by zeros below, with steps that are as much smaller; 7 bits, since in 8 sums of
# two products can leave the 16 bits that x86 processors without VNNI have for them.
WIDTH = 7


def shift(bits: int) -> int:
    """By how many bits codes are made wider."""
    return max(0, WIDTH - bits)


def write_weights(
    writer: Writer, site: Weights, output: str, form: Form, *, axes: list[int] | None, integer: bool
) -> str:
    """Write the weights of a layer; returns the name of their integers, codes * 2^shift.

    axes: how they are transposed.
    integer: whether the input of the layer has codes. Where it has none, nothing may take the product for one of
        integers: onnxruntime rounds float inputs of such products to 8 bits on its own.
    """
    name, dims, axis = site.name, site.codes.dim(), site.axis
    codes = integers = _write_planes(writer, site) if form.packing == "packed" else _write_native(writer, site, form)
    if axes is not None:
        integers = writer.add("Transpose", [codes], f"{name}/turned", perm=axes)
        axis = None if axis is None else axes.index(axis % dims)
    step = stored_step(site).numpy()
    if integer:
        place = {} if axis is None else {"axis": axis}
        scale = writer.constant(f"{name}/step", step)
        # Without zero points onnxruntime 1.20 makes products that it then refuses to run.
        zeros = writer.constant(f"bits/zeros{'x'.join(map(str, step.shape))}", np.zeros(step.shape, np.int8))
        writer.add("DequantizeLinear", [integers, scale, zeros], output, **place)
    else:
        shape = [] if axis is None else [-1 if dim == axis % dims else 1 for dim in range(dims)]
        floats = writer.add("Cast", [integers], f"{name}/floats", to=onnx.TensorProto.FLOAT)
        writer.add("Mul", [floats, writer.constant(f"{name}/step", step.reshape(shape))], output)
    return codes


def stored_step(site: Weights) -> Tensor:
    """The step of the integers in the file."""
    return torch.ldexp(site.step, torch.tensor(-shift(site.bits))).reshape([] if site.axis is None else [-1])


def planes(codes: Tensor, bits: int) -> Array:
    """Bit j of all codes, counted from the least, in row j: uint8 [bits, bytes], the least significant bit first."""
    unsigned = codes.reshape(-1).numpy().astype(np.int16) + (1 << (bits - 1))
    rows = (unsigned >> np.arange(bits, dtype=np.int16)[:, None]) & 1
    return np.packbits(rows.astype(np.uint8), axis=1, bitorder="little")


def payload(sites: list[Weights], form: Form) -> int:
    """Bytes of all weights in a file."""
    if form.packing == "packed":
        return sum(each.bits * -(-each.codes.numel() // 8) for each in sites)
    return sum(-(-each.codes.numel() * _container(each.bits, form)[1] // 8) for each in sites)


def _write_planes(writer: Writer, site: Weights) -> str:
    """Planes of bits, and standard operators that make int8 of them; runtimes do so once, as they load the file."""
    name, count = site.name, site.codes.numel()
    found = writer.constant(f"{name}/planes", planes(site.codes, site.bits)[..., None])
    # No shifts: OpenVINO's (2026.4) leave fractions.
    masks = writer.constant("bits/masks", (1 << np.arange(8)).astype(np.uint8))
    found = writer.add("BitwiseAnd", [found, masks], f"{name}/bits")
    found = writer.add("Cast", [found], f"{name}/set", to=onnx.TensorProto.BOOL)
    found = writer.add("Cast", [found], f"{name}/digits", to=onnx.TensorProto.INT32)
    worth = (1 << np.arange(shift(site.bits), shift(site.bits) + site.bits, dtype=np.int32)).reshape(-1, 1, 1)
    found = writer.add("Mul", [found, writer.constant(f"bits/worth{site.bits}", worth)], f"{name}/parts")
    first = writer.constant("bits/first", np.array([0]))
    found = writer.add("ReduceSum", [found, first], f"{name}/sums", keepdims=0)
    least = writer.constant(f"bits/least{site.bits}", np.int32(1 << (site.bits - 1 + shift(site.bits))))
    found = writer.add("Sub", [found, least], f"{name}/signed")
    found = writer.add("Cast", [found], f"{name}/bytes", to=onnx.TensorProto.INT8)
    found = writer.add("Reshape", [found, writer.constant("bits/flat", np.array([-1]))], f"{name}/row")
    if count % 8:
        end = writer.constant(f"bits/count{count}", np.array([count]))
        found = writer.add("Slice", [found, first, end], f"{name}/cut")
    shape = writer.constant(f"{name}/shape", np.array(site.codes.shape, np.int64))
    return writer.add("Reshape", [found, shape], f"{name}/codes")


def _write_native(writer: Writer, site: Weights, form: Form) -> str:
    """The smallest type that holds the codes, and a cast to int8, without which runtimes multiply in float."""
    name = site.name
    kind, width = _container(site.bits, form)
    if kind == onnx.TensorProto.INT8:
        return writer.constant(f"{name}/codes", (site.codes << shift(site.bits)).numpy())
    fields = (site.codes.reshape(-1).to(torch.int16) & ((1 << width) - 1)).to(torch.uint8)
    content = ops.pack_bits(fields, width).numpy().tobytes()
    found = writer.packed(f"{name}/int{width}", kind, tuple(site.codes.shape), content)
    found = writer.add("Cast", [found], f"{name}/byte", to=onnx.TensorProto.INT8)
    found = writer.add("Cast", [found], f"{name}/wide", to=onnx.TensorProto.INT32)
    worth = writer.constant(f"bits/shift{site.bits}", np.int32(1 << shift(site.bits)))
    found = writer.add("Mul", [found, worth], f"{name}/shifted")
    return writer.add("Cast", [found], f"{name}/codes", to=onnx.TensorProto.INT8)


def _container(bits: int, form: Form) -> tuple[int, int]:
    """The type, and its bits."""
    if bits <= 2 and form.opset >= 25:
        return onnx.TensorProto.INT2, 2
    return (onnx.TensorProto.INT4, 4) if bits <= 4 else (onnx.TensorProto.INT8, 8)
