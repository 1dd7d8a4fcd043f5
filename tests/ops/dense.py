"""A dense double-precision search for the best quantizer, independent of the package."""

import numpy as np


def errors(x: np.ndarray, step: float, bits: int, symmetric: bool) -> np.ndarray:
    """Mean squared error of every zero point at one step."""
    zeros = np.array([2 ** (bits - 1)]) if symmetric else np.arange(2**bits)
    code = np.rint(x / step)
    clamped = np.clip(code, -zeros[:, None], (2**bits - 1) - zeros[:, None])
    return np.square(x - clamped * step).mean(axis=1)


def error(x: np.ndarray, step: float, zero_point: int, bits: int, symmetric: bool) -> float:
    """Mean squared error of one quantizer."""
    low = -(2 ** (bits - 1)) if symmetric else -zero_point
    code = np.clip(np.rint(x / np.float64(step)), low, low + 2**bits - 1)
    return float(np.square(x - code * np.float64(step)).mean())


def least_error(x: np.ndarray, bits: int, symmetric: bool, candidates: int = 400) -> float:
    """The least error over steps from below the one that spans the data to twice its largest value."""
    x = x.astype(np.float64)
    span = np.abs(x).max() / 2 ** (bits - 1) if symmetric else (max(x.max(), 0) - min(x.min(), 0)) / (2**bits - 1)
    near = span * np.geomspace(0.15, 1.3, candidates)
    far = np.geomspace(1.3 * span, 2 * np.abs(x).max(), candidates // 4)
    return float(min(errors(x, step, bits, symmetric).min() for step in np.concatenate([near, far])))
