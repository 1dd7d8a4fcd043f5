"""The task loss of each unit alone quantized, all others in float.

Sources: the "kl_div" method of NVIDIA Model Optimizer's AutoQuantize, and the sensitivity of mixed precision in Sony's
Model Compression Toolkit; both then solve an integer program. With the KL divergence as task loss this is theirs.
"""

from __future__ import annotations

from ribs.select.rivals.setting import Setting, best_by
from ribs.select.samples import Choice


def choose(setting: Setting) -> Choice:
    """The least sum of the losses of single units. Costs about a pass for each candidate of each unit."""
    return best_by(setting, setting.alone())
