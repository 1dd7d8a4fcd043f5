"""The packages that an export needs, and since which version they have what it needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

Needed = Mapping[str, tuple[int, int]]
TORCH = {"torch": (2, 8)}  # torch.onnx.ops.symbolic, and free numbers of samples
_ONNX = {**TORCH, "onnx": (1, 17), "onnxscript": (0, 3)}  # of which torch.onnx makes its graphs
# By packing and operator set. onnxruntime casts INT4 from 1.23 on.
ONNX: dict[tuple[str, int], Needed] = {
    ("packed", 21): {**_ONNX, "onnxruntime": (1, 20)},
    ("native", 21): {**_ONNX, "onnxruntime": (1, 23)},
    ("packed", 25): {**_ONNX, "onnx": (1, 20), "onnxruntime": (1, 24)},
    ("native", 25): {**_ONNX, "onnx": (1, 20), "onnxruntime": (1, 24)},
}


def check_versions(function: str, needed: Needed) -> None:
    """Raises: ImportError that names what is missing or too old, and the version that would do."""
    for package, least in needed.items():
        wanted = ".".join(map(str, least))
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ImportError(
                f'[{function}] needs {package} {wanted} or newer: pip install "ribs-quant[onnx]"'
            ) from None
        if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < least:
            raise ImportError(
                f"[{function}] {package} {found} is too old; give {wanted} or newer: "
                f'pip install --upgrade "{package}>={wanted}"'
            )
