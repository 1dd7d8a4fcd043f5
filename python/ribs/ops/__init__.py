"""Tensor operators, native on the CPU and on CUDA; `ribs.ops.twin` and `soft_twin` have each of them in plain torch."""

from ribs.ops import soft_twin, twin
from ribs.ops.build import build_info
from ribs.ops.codes import quantize
from ribs.ops.cost import config_cost
from ribs.ops.drop import drop
from ribs.ops.fake_quantize import fake_quantize, fake_quantize_backward
from ribs.ops.level_search import search_levels, search_log_sqrt2
from ribs.ops.levels import fake_quantize_log_sqrt2, fake_quantize_nonuniform
from ribs.ops.packing import pack_bits, unpack_bits
from ribs.ops.rounding import soft_round
from ribs.ops.sketch import Sketch
from ribs.ops.steps import search_steps, sketch
from ribs.ops.twin import ConfigCost, StepSearch
from ribs.ops.twin_levels import LevelSearch, LogSearch

__all__ = [
    "ConfigCost",
    "LevelSearch",
    "LogSearch",
    "Sketch",
    "StepSearch",
    "build_info",
    "config_cost",
    "drop",
    "fake_quantize",
    "fake_quantize_backward",
    "fake_quantize_log_sqrt2",
    "fake_quantize_nonuniform",
    "pack_bits",
    "quantize",
    "search_levels",
    "search_log_sqrt2",
    "search_steps",
    "sketch",
    "soft_round",
    "soft_twin",
    "twin",
    "unpack_bits",
]
