"""Which bits units may take: pins, allowed bits, ties, targets."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import ribs
from ribs.select.candidates import bit_pairs
from ribs.select.plan import make_plan
from ribs.select.targets import TARGETS

BUDGET = ribs.Budget(bops="1 TBOPs")


class Residual(nn.Module):
    """Two branches that are added, q, k and v that read the same, and a product of activations."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.conv1, self.conv2 = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.shortcut = nn.Conv2d(4, 8, 1)
        self.q, self.k = nn.Linear(36, 6), nn.Linear(36, 6)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x)).flatten(2)
        return self.head(self.q(y) @ self.k(y).transpose(1, 2))


X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
UNITS = ("stem", "conv1", "conv2", "shortcut", "q", "k", "matmul0", "head")


@pytest.fixture(scope="module")
def table():
    found = ribs.count(Residual().eval(), X, units="layer")
    assert found.units == UNITS
    return found


def candidates(table, bits=(2, 4, 8), **options):
    plan = make_plan(table, BUDGET, bits, **options)
    return dict(zip(plan.table.units, plan.candidates, strict=True))


def test_weights_and_activations_are_tied_fixed_or_apart(table):
    assert candidates(table)["conv1"] == [(2, 2), (4, 4), (8, 8)]
    assert candidates(table, activation_bits=8)["conv1"] == [(2, 8), (4, 8), (8, 8)]
    apart = candidates(table, range(2, 9), activation_bits=range(2, 9))
    assert len(apart["conv1"]) == len(set(apart["conv1"])) == 49
    assert apart["matmul0"] == [(b, b) for b in range(2, 9)], "a product of activations has no weights"
    assert bit_pairs((4, 2, 4), (8, 3)) == [(2, 3), (2, 8), (4, 3), (4, 8)]


def test_pins_by_name_pattern_and_end(table):
    found = candidates(table, pins={"first": 8, "last": (8, 4), "conv*": 3, "[qk]": 32, "matmul0": 5})
    assert found["stem"] == [(8, 8)] and found["head"] == [(8, 4)]
    assert found["conv1"] == found["conv2"] == [(3, 3)]
    assert found["q"] == found["k"] == [(32, 32)]
    assert found["shortcut"] == [(2, 2), (4, 4), (8, 8)]


def test_allowed_bits(table):
    found = candidates(
        table,
        activation_bits=(4, 8),
        allowed={"conv*": (2, 4), "conv2": [(4, 8), (8, 8)], "matmul0": 4, "last": [8]},
    )
    assert found["conv1"] == [(2, 4), (2, 8), (4, 4), (4, 8)]
    assert found["conv2"] == [(4, 8)], "both patterns hold"
    assert found["matmul0"] == [(4, 4)]
    assert found["head"] == [(8, 4), (8, 8)]
    assert found["stem"] == [(w, a) for w in (2, 4, 8) for a in (4, 8)]


def test_ties_merge_units_with_their_costs(table):
    plan = make_plan(table, BUDGET, (2, 4, 8), ties=[["conv1", "shortcut"], ["q", "k"], ["k", "head"]])
    assert plan.table.units == ("stem", "conv1 + shortcut", "conv2", "q + k + head", "matmul0")
    assert plan.table.groups[1].layers == ("conv1", "shortcut")
    alone = make_plan(table, BUDGET, (2, 4, 8))
    for k in range(3):
        together = [plan.costs[1][k][0], plan.costs[3][k][0]]
        assert together == [sum(alone.costs[i][k][0] for i in group) for group in ((1, 3), (4, 5, 7))]
    assert plan.table.bops(4) == table.bops(4)


def test_natural_ties(table):
    """conv2 and shortcut are added; q and k read the same tensor; the matmul's result is no linear's output."""
    assert tuple(candidates(table, ties="auto")) == ("stem", "conv1", "conv2 + shortcut", "q + k", "matmul0", "head")


def test_natural_ties_of_known_networks():
    with torch.device("meta"):
        resnet = timm.create_model("resnet18").eval()
        vit = timm.create_model("deit_tiny_patch16_224").eval()
    x = torch.empty(1, 3, 224, 224, device="meta")
    units = candidates(ribs.count(resnet, x, units="layer"), ties="auto")
    assert [name for name in units if "+" in name] == [
        "conv1 + layer1.0.conv2",
        *(f"layer{n}.0.conv2 + layer{n}.0.downsample.0" for n in (2, 3, 4)),
    ]
    assert not any("+" in name for name in candidates(ribs.count(vit, x, units="layer"), ties="auto"))


def test_tied_units_have_their_pins_and_common_candidates(table):
    tie = [["conv1", "conv2"]]
    assert candidates(table, ties=tie, pins={"conv2": 4})["conv1 + conv2"] == [(4, 4)]
    assert candidates(table, ties=tie, allowed={"conv1": (2, 4), "conv2": (4, 8)})["conv1 + conv2"] == [(4, 4)]


@pytest.mark.parametrize("target", TARGETS)
def test_targets_leave_what_they_honour(table, target):
    weights, activations = TARGETS[target]
    found = candidates(table, range(1, 9), activation_bits=range(1, 9), target=target, pins={"last": 32})
    assert found["conv1"] == [(w, a) for w in sorted(weights) for a in sorted(activations)]
    assert found["head"] == [(32, 32)]


BAD = {
    "two pins": ({"pins": {"conv1": 4, "conv*": 8}}, "pins 'conv1' and 'conv\\*' contradict .* both 4/4 and 8/8"),
    "first pin": ({"pins": {"first": 4, "stem": 8}}, "contradict each other"),
    "pin of nothing": ({"pins": {"layer9.*": 8}}, "pin 'layer9.\\*' names no unit; .*'stem'"),
    "pin not allowed": ({"pins": {"stem": 8}, "allowed": {"stem": 4}}, "pinned to 8/8, which `allowed` does not"),
    "allowed of nothing": ({"allowed": {"x*": 8}}, "pattern of `allowed` 'x\\*' names no unit"),
    "nothing allowed": ({"allowed": {"stem": []}}, "is empty"),
    "bits not allowed": ({"allowed": {"stem": [9]}}, "bits=9 is not allowed"),
    "no candidate left": ({"allowed": {"stem": 3}}, "unit 'stem' has no candidate left of 2/2 4/4 8/8"),
    "tie of nothing": ({"ties": [["stem", "x"]]}, "tie 'x' names no unit"),
    "tie is text": ({"ties": ["stem"]}, "is no group"),
    "ties unknown": ({"ties": "all"}, "ties='all' is not supported"),
    "pins apart": ({"ties": [["conv*"]], "pins": {"conv1": 4, "conv2": 8}}, "tied, but pinned to 4/4 and 8/8"),
    "no common": ({"ties": [["conv*"]], "allowed": {"conv1": 2, "conv2": 8}}, "no candidate in common"),
    "pin of a tie": ({"ties": [["conv*"]], "pins": {"conv1": 4}, "allowed": {"conv2": 8}}, "may only take 8/8"),
    "target": ({"target": "abacus"}, "target='abacus' is not known; give one of"),
    "target honours none": ({"target": "litert", "bits": (2, 3)}, "no candidate left .* what litert honours"),
    "pin not honoured": ({"target": "tensorrt", "pins": {"stem": 4}}, "which tensorrt does not honour"),
    "activation bits": ({"activation_bits": (4, 16)}, "activation_bits=16 is not supported"),
    "no activation bits": ({"activation_bits": ()}, "activation_bits is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(table, case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        candidates(table, **options)


def squares(exact, found):
    return (exact - found).square().mean((1, 2))


def test_a_search_with_everything():
    """Ties of units that are apart in the network, pairs of bits, patterns: measured, not only counted."""
    model = Residual().eval()
    budget = ribs.Budget(bops=("2/2", "5/5"), activation_memory="70% of 8/8", average_weight_bits=(3, 6))
    result = ribs.search(
        model, [X], budget, units="layer", bits=(2, 4, 8), activation_bits=(4, 8), ties="auto", pins={"last": 8},
        loss=squares, allowed={"conv1": [(4, 8)]}, iterations=3, progress=False,
    )  # fmt: skip
    assert result.bits["conv1"] == (4, 8) and result.bits["head"] == (8, 8)
    for each in result.spending:
        assert (each.least or 0) <= each.spent <= each.most
        assert each.name.replace("_", " ") in result.summary() or each.name == "bops"
    for layer in ("conv2", "shortcut"):
        module = result.model.get_submodule(layer)
        assert (module.weight_quantizer.bits, module.input_quantizer.bits) == result.bits["conv2 + shortcut"]
    units = {unit.name: unit.layers for unit in result.costs.groups}
    again = ribs.quantize(model, [X], result.bits, units=units, loss=squares, progress=False)
    assert again.loss == pytest.approx(result.loss, rel=1e-9)
