"""Steps of least |error|^p for p other than 2, by a search around those of least squared error."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ribs.ops.twin import StepSearch

# Spacing and reach of each look around the best so far, in octaves of the step and in zero points.
_STAGES = ((1 / 8, 12, 0), (1 / 32, 4, 1), (1 / 128, 4, 1))
_PORTION = 1 << 22  # values times candidates looked at together


def least_norm(
    start: StepSearch, values: Tensor, counts: Tensor, bits: Sequence[int], *, symmetric: bool, p: float
) -> StepSearch:
    """Find steps and zero points with the least mean of |x - q(x)|^p.

    start: [bits, rows], the steps of least squared error, around which to look.
    values: float64 [rows, n]; each stands for counts [n] values.
    Returns: as `search_steps`, [bits, rows]; `mse` holds the mean of |error|^p, and `lower_bound` is 0.
    """
    found = [
        torch.stack([_row(float(start.step[k, r]), int(start.zero_point[k, r]), row, counts, width, symmetric, p)
                     for r, row in enumerate(values)], 1)
        for k, width in enumerate(bits)
    ]  # fmt: skip
    step, zero_point, error = torch.stack(found).unbind(1)
    like = start.step
    return StepSearch(step.to(like), zero_point.to(start.zero_point), error.to(like), torch.zeros_like(like))


def _row(step: float, zero_point: int, values: Tensor, counts: Tensor, bits: int, symmetric: bool, p: float) -> Tensor:
    """Give (step, zero point, error) of one row and bit-width."""
    best = _best_of(torch.tensor([[step, float(zero_point)]], dtype=torch.float64), values, counts, bits, symmetric, p)
    for spacing, reach, shift in _STAGES:
        factors = 2.0 ** (spacing * torch.arange(-reach, reach + 1, dtype=torch.float64))
        shifts = torch.arange(-shift, shift + 1) if not symmetric else torch.zeros(1)
        steps = best[0].cpu() * factors
        zeros = (best[1].cpu() + shifts).clamp(0, 2**bits - 1)
        near = _best_of(torch.cartesian_prod(steps, zeros.double()), values, counts, bits, symmetric, p)
        best = near if near[2] < best[2] else best
    return best


def _best_of(candidates: Tensor, values: Tensor, counts: Tensor, bits: int, symmetric: bool, p: float) -> Tensor:
    """Give (step, zero point, error) of the best of [candidates, 2] steps and zero points."""
    candidates = candidates.to(values.device)
    candidates[:, 0] = candidates[:, 0].float().double()
    low = -(2.0 ** (bits - 1)) if symmetric else 0.0
    errors = []
    for step, zero in (part.split(1, 1) for part in candidates.split(max(1, _PORTION // values.numel()))):
        code = (values / step).round().clamp(low - zero, low + 2**bits - 1 - zero)
        errors.append((values - code * step).abs().pow(p) @ counts / counts.sum())
    error = torch.cat(errors)
    at = int(error.argmin())
    return torch.cat([candidates[at], error[at : at + 1]])
