"""Quantization-aware training: the weights and the steps of a network at chosen bits, learned together."""

from ribs.qat.checkpoint import Epoch as Epoch
from ribs.qat.finish import finish as finish
from ribs.qat.fit import Fitted as Fitted
from ribs.qat.fit import fit as fit
from ribs.qat.groups import parameter_groups as parameter_groups
from ribs.qat.oscillation import Freezing as Freezing
from ribs.qat.oscillation import dampening as dampening
from ribs.qat.prepare import prepare as prepare
from ribs.qat.recalibrate import recalibrate as recalibrate
from ribs.qat.training import Training as Training

__all__ = [
    "Epoch",
    "Fitted",
    "Freezing",
    "Training",
    "dampening",
    "finish",
    "fit",
    "parameter_groups",
    "prepare",
    "recalibrate",
]
