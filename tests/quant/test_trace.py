import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.tracing import trace


def seen(model: nn.Module, *shape: int):
    return trace(model.eval(), Inputs((torch.randn(2, *shape),), {}))


# MACs counted by hand: output positions x weights per output, or input positions for transposed convolutions.
LAYERS = [
    ("conv", nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 8 * 100 * 27),
    ("strided", nn.Conv2d(3, 8, 3, stride=2), (3, 11, 11), 8 * 25 * 27),
    ("depthwise", nn.Conv2d(8, 8, 3, groups=8), (8, 10, 10), 8 * 64 * 9),
    ("conv1d", nn.Conv1d(4, 6, 5), (4, 20), 6 * 16 * 20),
    ("transposed", nn.ConvTranspose2d(4, 6, 4, stride=2), (4, 5, 5), 4 * 25 * 6 * 16),
    ("grouped transposed", nn.ConvTranspose2d(4, 6, 4, stride=2, groups=2), (4, 5, 5), 4 * 25 * 3 * 16),
    ("linear", nn.Linear(16, 5), (16,), 80),
    ("linear on tokens", nn.Linear(16, 5), (7, 16), 7 * 80),
]


@pytest.mark.parametrize(("layer", "shape", "macs"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_macs_of_one_sample(layer, shape, macs):
    [found] = seen(nn.Sequential(layer), *shape).layers
    assert (found.name, found.macs, found.weights) == ("0", macs, layer.weight.numel())


class Attention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.fused = fused

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.fused:
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v


@pytest.mark.parametrize("fused", [True, False], ids=["sdpa", "matmul"])
def test_attention_products_are_counted(fused):
    found = seen(Attention(fused), 5, 8)
    assert [(layer.name, layer.macs) for layer in found.layers] == [
        ("qkv", 5 * 8 * 24),
        ("matmul0", 5 * 5 * 8),
        ("matmul1", 5 * 5 * 8),
    ]
    assert not found.unquantized


@pytest.mark.parametrize(
    ("name", "gmacs", "layers", "norms"),
    [
        ("resnet18", 1.81407, 21, 20),
        ("mobilenetv2_100", 0.30077, 53, 52),
        ("efficientnet_b0", 0.38581, 82, 49),
        ("deit_tiny_patch16_224", 1.25368, 74, 0),
    ],
)
def test_known_networks(name, gmacs, layers, norms):
    """Every layer is seen, and every batch norm (timm's BatchNormAct2d among them) is paired with its layer."""
    model = timm.create_model(name)
    found = seen(model, 3, 224, 224)
    assert sum(layer.macs for layer in found.layers) / 1e9 == pytest.approx(gmacs, abs=5e-6)
    assert len(found.layers) == layers
    assert len(found.batch_norms) == norms == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


class NormTwice(nn.Module):
    """The convolution's output goes to the norm and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_norm_of_an_output_that_is_read_elsewhere_is_not_paired():
    assert seen(NormTwice(), 1, 4, 4).batch_norms == ()


class ReadsValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.small(self.large(x)) if x.sum().item() < 1e9 else x


def test_control_flow_on_values_is_followed():
    assert [layer.name for layer in seen(ReadsValues(), 4).layers] == ["large", "small"]


class Functional(nn.Module):
    """Products with a parameter, with a constant, of constants alone, and by an operator that ribs does not know."""

    def __init__(self):
        super().__init__()
        self.layer, self.table = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        eye = torch.eye(4, device=x.device)
        y = torch.einsum("bi,ij->bj", self.layer(x) @ self.table, eye + eye @ eye)
        return torch.tensordot(y, eye, 1)


def test_products_outside_of_layers_are_counted_and_named():
    found = seen(Functional(), 4)
    assert [(layer.name, layer.kind, layer.macs, layer.weights) for layer in found.layers] == [
        ("layer", "linear", 16, 16),
        ("table_linear0", "linear", 16, 16),
        ("matmul0", "matmul", 16, 0),
    ]
    assert found.unquantized == {"": 4 * 16 + 16}


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.auxiliary = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(x)


def test_layer_that_never_runs_is_named():
    with pytest.raises(ValueError, match=r"(?s)auxiliary: never ran .*skip=\['auxiliary'\]"):
        seen(Unused(), 4)


def test_nothing_to_quantize():
    with pytest.raises(ValueError, match="nothing to quantize"):
        seen(nn.Sequential(nn.ReLU()), 4)


def test_broken_forward_raises_its_own_error():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        seen(nn.Sequential(nn.Linear(3, 3)), 4)


def test_layer_called_twice_counts_twice():
    shared = nn.Linear(4, 4)
    [layer] = seen(nn.Sequential(shared, nn.ReLU(), shared), 4).layers
    assert layer.macs == 32
    assert layer.weights == 16


def reads(found):
    return [(read.tensor, read.layer, read.elements, read.born, read.last) for read in found.reads]


class Skip(nn.Module):
    """x is wanted until the sum, and read by two layers; the pool's output is a view of nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = F.relu(self.a(x), inplace=True)
        y = self.b(x)
        z = self.c(F.relu(y))
        z += x
        return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1))


def test_when_tensors_are_live():
    """By hand: x lives from a (0) until the sum after c (2), relu(y) from b to c, the pooled from c to the head."""
    found = seen(Skip(), 1, 4, 4)
    assert found.moments == ("a", "b", "c", "head")
    assert reads(found) == [(0, "a", 16, -1, 0), (1, "b", 32, 0, 2), (2, "c", 32, 1, 2), (3, "head", 2, 2, 3)]


@pytest.mark.parametrize("fused", [True, False], ids=["sdpa", "matmul"])
def test_what_attention_reads(fused):
    """q, k and v are views of one tensor, which is wanted until the second product."""
    found = seen(Attention(fused), 5, 8)
    assert found.moments == ("qkv", "matmul0", "matmul1")
    assert reads(found) == [
        (0, "qkv", 40, -1, 0),
        (1, "matmul0", 40, 0, 2),
        (2, "matmul0", 40, 0, 2),
        (3, "matmul1", 25, 1, 2),
        (4, "matmul1", 40, 0, 2),
    ]


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        y = torch.add(F.relu(self.a(x)), self.b(x) * self.scale) + 1
        y = y + self.c(y)
        return y + x + self.d(y) * self.a(x)


def test_only_direct_outputs_are_added():
    """A sum is no layer's output, nor is a product of two; an output that is scaled still is."""
    assert seen(Sums(), 4).sums == (("a", "b"),)


def test_channels_biases_and_other_numbers():
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten()]
    found = seen(nn.Sequential(*layers, nn.Linear(16, 3)), 1, 4, 4)
    assert [(layer.channels, layer.biases) for layer in found.layers] == [(4, 4), (3, 3)]
    assert found.others == 4 * 4, "weight, bias, mean and variance of the norm that is not folded"


class Shared(nn.Module):
    """Weights read by products alone, and weights read in each other way too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.alone, self.added, self.asked, self.returned = (nn.Linear(4, 4) for _ in range(4))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.gain, self.raw = nn.Parameter(torch.ones(4, 1)), nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        x = self.alone(x) + self.embed(torch.tensor([1])) + self.added.weight.mean()
        if self.asked.weight.sum().item() > 0:
            x = x + 1
        x = F.linear(x, self.raw * self.gain.abs()) + self.added(self.asked(self.returned(x)))
        return self.head(x), self.returned.weight + 1


def test_what_weights_come_from_and_what_else_reads_it():
    found = seen(Shared(), 4)
    sources = {name: (f"{name}.weight",) for name in ("alone", "added", "asked", "returned")}
    assert found.sources == sources | {"head": ("embed.weight",)}
    weights = {name for name in found.otherwise if not name.endswith("bias")}
    # A product of two parameters is no layer's: both operands of it are activations.
    assert weights == {"embed.weight", "added.weight", "asked.weight", "returned.weight", "raw", "gain"}


def test_an_embedding_that_is_a_layers_too_stays_in_float_beside_it():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x.long()))

    assert seen(Tied(), 3).others == 20
