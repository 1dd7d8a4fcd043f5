"""Small networks to export, at bits that make every kind of quantizer."""

import torch
import torch.nn.functional as F
from saved import made
from torch import nn

import ribs


class Residual(nn.Module):
    """A stem, a block with a shortcut, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.down = nn.Conv2d(8, 16, 1, stride=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(y)) + self.down(x))
        return self.fc(x.mean((2, 3)))


class Transformer(nn.Module):
    """Patches, one block with attention, and a classifier: a vision transformer of width 12."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.first, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.second, self.fc1, self.fc2 = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.last, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, 2, 6)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(self.second(x))))
        return self.head(self.last(x).mean(1))


def images(samples=6):
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(3))


NETS = {"residual": Residual, "transformer": Transformer}
BITS = {"2": 2, "8": 8, "mixed": None}


def quantized(net: str, bits: str, recipe: str = "mse") -> ribs.Result:
    """By recipes other than "mse" the float parameters depend on the bits too."""
    model = made(NETS[net], 1)
    units = ribs.count(model, images(1)).units
    mixed = {unit: (2 + number % 7, 2 + 3 * number % 7) for number, unit in enumerate(units)}
    return ribs.quantize(model, [images()], BITS[bits] or mixed, recipe=recipe, progress=False)
