"""How the native module was built, and whether it can serve a device."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ribs import _core

HAS_CUDA: bool = _core.build_info()["cuda"]


def build_info() -> dict[str, Any]:
    """Tell how the native module was built.

    Returns: a dict with `version`, `cuda` (whether CUDA code is in it), `cuda_version` (of the toolkit, or
    None), `cuda_architectures`, `compiler` and `build_type`.
    """
    return _core.build_info()


def is_native(device: torch.device) -> bool:
    """Whether the native module has code for tensors on `device`."""
    return device.type == "cpu" or (device.type == "cuda" and HAS_CUDA)


def place(device: torch.device) -> tuple[int, int]:
    """Give the last two arguments of a native call: CPU threads (0 on CUDA) and the current CUDA stream."""
    if device.type == "cuda":
        return 0, torch.cuda.current_stream(device).cuda_stream
    return torch.get_num_threads(), 0


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one, as kernel launches need; nothing for the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
