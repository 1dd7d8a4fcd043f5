"""How the native module was built, and whether it can serve a device."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ribs import _core

_NOTHING = nullcontext()
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
        # What torch.cuda.current_stream makes an object of, and triton takes as well.
        return 0, torch._C._cuda_getCurrentRawStream(_index(device))
    return torch.get_num_threads(), 0


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one, as kernel launches need; nothing for the CPU."""
    if device.type != "cuda" or _index(device) == torch.cuda.current_device():
        return _NOTHING
    return torch.cuda.device(device)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
