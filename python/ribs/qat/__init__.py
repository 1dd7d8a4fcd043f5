"""Quantization-aware training: the weights and the steps of a network at chosen bits, learned together."""

from ribs.qat.finish import finish as finish
from ribs.qat.groups import parameter_groups as parameter_groups
from ribs.qat.prepare import prepare as prepare

__all__ = ["finish", "parameter_groups", "prepare"]
