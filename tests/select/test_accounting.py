"""Presets of accounting against the paper's numbers and counting by hand."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import ribs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.quantizer import FakeQuantizer, ShareQuantizer
from ribs.quant.recipe import RECIPES
from ribs.select.accounting import ACCOUNTINGS
from ribs.select.plan import make_plan

X = torch.empty(1, 3, 224, 224, device="meta")


@pytest.fixture(scope="module")
def tables():
    with torch.device("meta"):
        models = {
            name: timm.create_model(name).eval() for name in ("resnet18", "mobilenetv2_100", "deit_tiny_patch16_224")
        }
    return {name: ribs.count(model, X) for name, model in models.items()}


# To the digits that are printed: Table 1 of the RIBS paper, in which a dagger is an 8-bit first and last layer; and
# what follows for a uniform network from the counts of HAWQ-v3.
PRINTED = [
    ("resnet18", "paper", 4, "bops", "29.0"),
    ("resnet18", "paper", 6, "bops", "65.3"),
    ("resnet18", "paper", 32, "bops", "1858"),
    ("resnet18", "paper", 32, "size", "44.6"),
    ("resnet18", "hawq", 4, "bops", "34.7"),  # HAWQ-v3 prints 34
    ("resnet18", "hawq", 4, "size", "5.8"),
    ("deit_tiny_patch16_224", "paper", 32, "bops", "1284"),
    ("deit_tiny_patch16_224", "paper", 6, "bops", "45.13"),
    ("deit_tiny_patch16_224", "paper", 4, "bops", "20.06"),
    ("deit_tiny_patch16_224", "paper", 3, "bops", "11.28"),
    ("deit_tiny_patch16_224", "hawq", 4, "bops", "21.46"),  # with a dagger
    ("deit_tiny_patch16_224", "hawq", 3, "bops", "12.88"),  # with a dagger
    ("mobilenetv2_100", "ompq", 32, "size", "13.4"),
]


@pytest.mark.parametrize(("name", "accounting", "bits", "cost", "printed"), PRINTED)
def test_printed_numbers(tables, name, accounting, bits, cost, printed):
    table = replace(tables[name], accounting=accounting)
    value = table.bops(bits) / 1e9 if cost == "bops" else table.size_mib(bits)
    assert f"{value:.{len(printed.partition('.')[2])}f}" == printed


def test_the_sizes_of_ompq_leave_no_room_for_8_bit_ends(tables):
    """MobileNetV2 within 1.3 and 1.5 MiB: its classifier alone has 1.22 MiB at 8 bits."""
    table = tables["mobilenetv2_100"]
    [(_, bits)] = table.candidate_costs(table.groups[-1], [(8, 8)])
    assert f"{bits / 8 / 2**20:.2f}" == "1.22"
    for size in (1.3, 1.5):
        budget = ribs.Budget(size=size, accounting="ompq")
        assert make_plan(table, budget, (2, 3, 4), 8).limits == {"size": int(size * 10) * 2**23 // 10}
        with pytest.raises(ribs.InfeasibleBudgetError, match="Pins that keep it from the budget: conv_stem=8/8"):
            make_plan(table, replace(budget, accounting="hawq"), (2, 3, 4), 8)


def test_resnet18_within_the_sizes_of_ompq(tables):
    for size in (4.0, 5.5):
        plan = make_plan(tables["resnet18"], ribs.Budget(size=size, accounting="ompq"), (2, 3, 4), 8)
        assert plan.limits == {"size": int(size * 2**23)}


class Small(nn.Module):
    """A normed conv, a norm of its own, a linear with a bias, a matmul, a product in float, a free parameter."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2)
        self.own = nn.BatchNorm2d(2)
        self.linear = nn.Linear(9, 3)
        self.free = nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        y = self.own(torch.relu(self.norm(self.conv(x)))).flatten(2)
        z = self.linear(y)
        return torch.tensordot((z @ z.transpose(1, 2)) @ z, self.free, 1)


def test_by_hand():
    table = ribs.count(Small().eval(), torch.randn(1, 1, 4, 4), units="layer")
    assert table.units == ("conv", "linear", "matmul0", "matmul1")
    conv, linear, matmuls, free = 2 * 9 * 4, 2 * 9 * 3, 2 * 2 * 3 * 2, 2 * 3 * 5
    bits = {"conv": (2, 3), "linear": 4, "matmul0": 5, "matmul1": 6}
    products = conv * 6 + linear * 16
    beside = {
        "biases": (2 + 3) * 32,  # that of the conv is the norm's
        "steps of weights": (2 + 3) * 32,
        "inputs": (1 + 1 + 2 + 2) * (32 + 8),
        "own norm and free parameter": (4 * 2 + 15) * 32,
    }
    found = {name: replace(table, accounting=name) for name in ACCOUNTINGS}
    with_matmuls = products + 12 * 25 + 12 * 36 + free * 1024
    assert matmuls == 24
    assert {name: t.bops(bits) for name, t in found.items()} == {
        "paper": with_matmuls, "deployment": with_matmuls, "hawq": with_matmuls, "ompq": products,
    }  # fmt: skip
    weights = 8 * 2 + 27 * 4
    assert {name: t.weight_bits(bits) for name, t in found.items()} == {
        "paper": weights, "deployment": weights + sum(beside.values()), "hawq": weights, "ompq": weights,
    }  # fmt: skip
    for t in found.values():
        float_bits = t.parameters * 32
        assert t.weight_bits(32) == float_bits
    ends = {"conv": 8, "linear": 4, "matmul0": 4, "matmul1": 8}
    assert found["hawq"].bops(4) == table.bops(ends)
    plan = make_plan(table, ribs.Budget(size="4/4", accounting="deployment"), (2, 4))
    own = found["deployment"]
    assert plan.limits["size"] == own.weight_bits(4)
    assert plan.available[0] == own.weight_bits(4) - (4 * 2 + 15) * 32
    assert sum(rows[1][0] for rows in plan.costs if len(rows) > 1) <= plan.available[0]


class Attention(nn.Module):
    """A linear without bias after a layer norm, three products of attention, and a head."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.head = nn.LayerNorm(4), nn.Linear(4, 12, bias=False), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        shares = (q @ k.mT).softmax(-1)
        return self.head((shares @ v + shares.mT @ v).mean(1))


@pytest.mark.parametrize("bits", [(3, 4), (2, 3), (32, 4), (3, 32)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_deployment_counts_what_a_quantized_network_has(recipe, bits):
    """Every number in the network that was made: levels of softmax outputs and biases that the recipe leaves, too."""
    torch.manual_seed(0)
    result = ribs.quantize(Attention().eval(), [torch.randn(8, 5, 4)], bits, recipe=recipe, progress=False)
    stored = 0
    for module in result.model.modules():
        if isinstance(module, QuantizedLayer):
            stored += module.weight.numel() * bits[0]
        if isinstance(module, FakeQuantizer) and module.bits != 32:
            step, zero_point = module.present
            stored += step.numel() * 32 + (0 if module.symmetric else zero_point.numel() * 8)
        if isinstance(module, ShareQuantizer) and module.bits != 32:
            stored += module.steps_of(module.bits).numel() * 32
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            stored += 32 * sum(each.numel() for name, each in module.named_parameters() if name == "bias")
        if isinstance(module, nn.LayerNorm):
            stored += 32 * module.weight.numel()
    assert replace(result.costs, accounting="deployment").weight_bits(bits) == stored


def test_ends_are_pinned(tables):
    table = tables["resnet18"]
    plan = make_plan(table, ribs.Budget(bops="4/4", accounting="hawq"), range(2, 9))
    assert plan.limits == {"bops": replace(table, accounting="hawq").bops(4)}
    assert (plan.candidates[0], plan.candidates[-1]) == ([(8, 8)], [(8, 8)])
    with pytest.raises(ValueError, match="accounting='hawq' has the first and last unit at 8/8, but pin 'fc'"):
        make_plan(table, ribs.Budget(bops="4/4", accounting="hawq"), range(2, 9), pins={"fc": 4})


def test_all_presets_are_shown_side_by_side(tables):
    header, _, *rows = tables["resnet18"].totals().splitlines()
    assert all(f"{name} GBOPs" in header and f"{name} MiB" in header for name in ACCOUNTINGS)
    [row] = [row for row in rows if row.startswith("4/4")]
    assert row.split() == ["4/4", "29.025", "5.569", "29.025", "5.613", "34.714", "5.818", "29.025", "5.569"]


def test_unknown_accounting(tables):
    with pytest.raises(ValueError, match="accounting='all' is not supported"):
        ribs.count(nn.Linear(2, 2).eval(), torch.randn(1, 2), accounting="all")
