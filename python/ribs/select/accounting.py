"""What is counted: presets for the accounting of published methods and of a deployed network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

AccountingName = Literal["paper", "deployment", "hawq", "ompq"]
STEP_BITS = 32  # a float32 step
ZERO_POINT_BITS = 8  # an integer within the range of 8 bits


@dataclass(frozen=True)
class Accounting:
    """Which products and numbers are counted, and whether the ends of the network are at 8 bits.

    Weights of Conv and Linear, the classifier included, are always counted, at their bits.

    matmuls: products of two activations, and those that stay in float at 32 x 32, count as bit operations.
    everything_stored: the size also has the biases at 32 bits, batch norm being folded into them; a step for each
        output channel of weights and for each quantized activation, at 32 bits, and the zero point of the latter at 8;
        of softmax outputs, which have no zero point, the 2^bits - 1 steps of nuLSQ or the one of log-sqrt2; the biases
        that steps by channel after layer norms leave; and all other numbers (unfolded norms, embeddings) at 32.
    ends_at_8_bits: the first and the last unit are pinned to 8/8, in "4/4" too.
    """

    matmuls: bool = True
    everything_stored: bool = False
    ends_at_8_bits: bool = False


ACCOUNTINGS: dict[AccountingName, Accounting] = {
    # RIBS, Table 1: 20.06 GBOPs of DeiT-T at 4/4 are those with the matmuls of attention.
    "paper": Accounting(),
    "deployment": Accounting(everything_stored=True),
    # HAWQ-v3 quantizes the ends at 8 bits, which the BOPs that it prints for ResNet-18 include.
    "hawq": Accounting(ends_at_8_bits=True),
    # OMPQ: convolutional networks, all weights at the bits of its lists, those of the ends too.
    "ompq": Accounting(matmuls=False),
}


def find_accounting(name: str) -> Accounting:
    """Raises: ValueError for a name that is no preset."""
    for known, accounting in ACCOUNTINGS.items():
        if known == name:
            return accounting
    raise ValueError(f"[ribs] accounting={name!r} is not supported; give one of {get_args(AccountingName)}")
