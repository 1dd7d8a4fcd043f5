"""A mark for tests of integer execution."""

import pytest
import torch

from ribs.quant import integer


def available():
    try:
        integer.check_device(torch.device("cpu"))
    except RuntimeError:
        return False
    return True


NEEDS_VNNI = pytest.mark.skipif(not available(), reason="needs a CPU whose int8 products are exact")
