import pytest
import timm
import torch
from torch import nn

import ribs

X = torch.empty(1, 3, 224, 224, device="meta")
ENDS = {"resnet18": ("conv1", "fc"), "deit_tiny_patch16_224": ("patch_embed.proj", "head")}

# The cost columns of Table 1 of the RIBS paper, with as many digits as it prints. 4/4+ is with first and last at 8/8.
BOPS = [
    ("resnet18", 32, "1858"),
    ("resnet18", 4, "29.0"),
    ("resnet18", 6, "65.3"),
    ("deit_tiny_patch16_224", 32, "1284"),
    ("deit_tiny_patch16_224", 6, "45.13"),
    ("deit_tiny_patch16_224", 4, "20.06"),
    ("deit_tiny_patch16_224", 3, "11.28"),
    ("deit_tiny_patch16_224", "4+", "21.46"),
    ("deit_tiny_patch16_224", "3+", "12.88"),
    ("mobilenetv2_100", 4, "4.8"),
    # The paper prints 307, which is the count without the classifier; ribs counts it.
    ("mobilenetv2_100", 32, "308"),
]
MIB = [("resnet18", 32, "44.6"), ("resnet18", "4+", "5.818"), ("mobilenetv2_100", 32, "13.4")]


@pytest.fixture(scope="module")
def tables():
    names = {name for name, _, _ in BOPS}
    return {name: ribs.count(timm.create_model(name).eval(), X) for name in names}


def configuration(table, name, bits):
    if isinstance(bits, int):
        return bits
    inner = int(bits[0])
    return {**dict.fromkeys(table.units, inner), **dict.fromkeys(ENDS[name], 8)}


@pytest.mark.parametrize(("name", "bits", "printed"), BOPS)
def test_bops_of_the_paper(tables, name, bits, printed):
    digits = len(printed.partition(".")[2])
    assert f"{tables[name].bops(configuration(tables[name], name, bits)) / 1e9:.{digits}f}" == printed


@pytest.mark.parametrize(("name", "bits", "printed"), MIB)
def test_mib_of_the_paper(tables, name, bits, printed):
    digits = len(printed.partition(".")[2])
    assert f"{tables[name].size_mib(configuration(tables[name], name, bits)):.{digits}f}" == printed


def test_by_hand():
    """Two layers and one matmul of activations, small enough to count."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6, bias=False)

        def forward(self, x):
            y = self.b(self.a(x))
            return y @ y.transpose(1, 2)

    table = ribs.count(Model().eval(), torch.randn(2, 3, 4))
    assert table.units == ("a", "b", "matmul0")
    assert table.macs == 3 * 24 + 3 * 36 + 3 * 3 * 6
    bits = {"a": (2, 3), "b": 4, "matmul0": (8, 5)}
    assert table.bops(bits) == 72 * 6 + 108 * 16 + 54 * 25
    assert table.weight_bits(bits) == 24 * 2 + 36 * 4
    assert table.size_mib(8) == 60 / 2**20
    assert table.size_mib(32) == (60 + 6) * 4 / 2**20


def test_float_products_count_at_32_bits():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.table = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return torch.tensordot(self.a(x), self.table, 1)

    assert ribs.count(Model().eval(), torch.randn(1, 4)).bops(2) == 16 * 4 + 16 * 32 * 32


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (0, "bits=0 is not allowed"),
        (9, "bits=9 is not allowed"),
        ((4, 4, 4), "is not allowed"),
        ({"0": 4}, "leaves out: \\['1'\\]"),
        ({"0": 4, "1": 4, "x": 4}, "names no unit: \\['x'\\]"),
        ({"0": 4, "1": 4.0}, "bits=4.0 is not allowed"),
    ],
    ids=str,
)
def test_bad_bits(bits, message):
    table = ribs.count(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval(), torch.randn(1, 4))
    with pytest.raises(ValueError, match=message):
        table.bops(bits)


def test_table_shows_layers_and_totals(tables):
    text = str(tables["resnet18"])
    assert "layer4.1.conv2" in text
    assert "29.025" in text


def test_counting_needs_no_arithmetic():
    """A model on the meta device has no weights at all."""
    with torch.device("meta"):
        model = timm.create_model("resnet18").eval()
    assert f"{ribs.count(model, X).bops(4) / 1e9:.1f}" == "29.0"
