"""What is known of an exported file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verified:
    """How near an ONNX file in onnxruntime is to the network.

    samples: that were compared.
    part: the largest difference that any part of it makes by itself, relative to the largest value there.
    moved: the largest share of the codes of a quantizer that are one off where the runtime optimises.
    exact, optimised: the largest difference of outputs, computed as the file says and as the runtime optimises it.
    exact_floor, optimised_floor: how far noise of the size of float rounding moves the outputs of the network itself,
        and noise that rounds biases too.
    kernels: how many operators on integers of each kind there are in the optimised graph.
    """

    samples: int
    part: float
    moved: float
    exact: float
    exact_floor: float
    optimised: float
    optimised_floor: float
    kernels: dict[str, int]


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    bytes: of the file.  weight_bytes: of these, those of quantized weights.
    samples: how many it takes at once; None for any number.
    """

    bytes: int
    weight_bytes: int
    samples: int | None
    verified: Verified

    def __str__(self) -> str:
        found = self.verified
        kernels = ", ".join(f"{count} {kind}" for kind, count in found.kernels.items()) or "none"
        return (
            f"{self.bytes:,} bytes, of which {self.weight_bytes:,} are weights, for "
            f"{'any number of samples' if self.samples is None else f'{self.samples} samples'} at once\n"
            f"outputs differ by {found.exact:.2g} from those of the network, whose noise is {found.exact_floor:.2g}; "
            f"optimised by {found.optimised:.2g}, noise {found.optimised_floor:.2g}\n"
            f"integer kernels in onnxruntime: {kernels}"
        )
