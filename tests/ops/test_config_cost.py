import pytest
import torch

from ribs import ops
from ribs.ops import twin

INT = torch.int64
PLAIN = (torch.full((3, 2, 2), 8), torch.tensor([5, 6]), torch.tensor([7, 8]))


def by_hand(bits: list, macs: list[int], weights: list[int]) -> tuple[list[int], list[int]]:
    bops = [sum(m * w * a for m, (w, a) in zip(macs, config, strict=True)) for config in bits]
    return bops, [sum(n * w for n, (w, _) in zip(weights, config, strict=True)) for config in bits]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, INT], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3000, 21), (5, 100), (0, 4), (4, 0)], ids=str)
def test_is_exact(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    bits = torch.randint(1, 9, (*shape, 2), dtype=dtype, device=device)
    macs = torch.randint(0, 10**12, shape[1:], device=device)
    weights = torch.randint(0, 10**12, shape[1:], device=device)
    found = ops.config_cost(bits, macs, weights)
    assert (found.bops.tolist(), found.weight_bits.tolist()) == by_hand(bits.tolist(), macs.tolist(), weights.tolist())
    same = twin.config_cost(bits, macs, weights)
    assert torch.equal(found.bops, same.bops) and torch.equal(found.weight_bits, same.weight_bits)


def test_strided_bits() -> None:
    bits = torch.randint(1, 9, (2, 6, 10)).permute(2, 1, 0)
    macs = torch.arange(12)[::2]
    found = ops.config_cost(bits, macs, macs)
    assert (found.bops.tolist(), found.weight_bits.tolist()) == by_hand(bits.tolist(), macs.tolist(), macs.tolist())


def test_holds_up_to_the_last_integer() -> None:
    bits = torch.ones(1, 1, 2, dtype=INT)
    most = torch.tensor([2**63 - 1])
    assert ops.config_cost(bits, most, most).bops.item() == 2**63 - 1


REFUSED = {
    "float": ((PLAIN[0].float(), *PLAIN[1:]), TypeError, "bits dtype=torch.float32 is not supported"),
    "bool": ((PLAIN[0], PLAIN[1].bool(), PLAIN[2]), TypeError, "macs dtype=torch.bool"),
    "shape": ((PLAIN[0][0], *PLAIN[1:]), ValueError, r"bits shape=\[2, 2\] is not supported"),
    "macs": (
        (PLAIN[0], PLAIN[1][:1], PLAIN[2]),
        ValueError,
        r"macs shape=\[1\] must be \[2\], one per layer",
    ),
    "weights": ((*PLAIN[:2], PLAIN[2][:1]), ValueError, r"weights shape=\[1\] must be \[2\]"),
    "negative": ((PLAIN[0], -PLAIN[1], PLAIN[2]), ValueError, "macs has the value -6; all must be 0 or more"),
    "overflow": (
        (PLAIN[0], torch.full((2,), 2**57), PLAIN[2]),
        OverflowError,
        f"2 layers of macs at up to 8 bits cost up to {2 * 2**57 * 64}",
    ),
    "overflow_weights": ((*PLAIN[:2], torch.full((2,), 2**60)), OverflowError, "2 layers of weights"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(case: tuple) -> None:
    arguments, error, message = case
    with pytest.raises(error, match=r"\[config_cost\] " + message):
        ops.config_cost(*arguments)
