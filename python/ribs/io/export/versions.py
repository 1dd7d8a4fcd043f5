"""The packages that an export needs, and since which version they have what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

NEEDED = {
    "torch": (2, 8),  # torch.onnx.ops.symbolic
    "onnx": (1, 17),  # operator set 21
    "onnxscript": (0, 3),  # of which torch.onnx makes its graphs
    "onnxruntime": (1, 20),  # operator set 21, and the kernels that were tried
}


def check_versions(function: str, packages: Iterable[str] = NEEDED) -> None:
    """Raises: ImportError that names what is missing or too old, and the version that would do."""
    for package in packages:
        least = NEEDED[package]
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
