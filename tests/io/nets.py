"""Small networks with all that makes weights hard to save."""

import torch
import torch.nn.functional as F
from torch import nn


class Convs(nn.Module):
    """Folded norms after convolutions of all kinds, one norm that stays, and a last dimension of odd size."""

    def __init__(self, width=3):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.depthwise, self.norm = nn.Conv2d(width, width, 3, groups=width), nn.BatchNorm2d(width)
        self.up, self.up_norm = nn.ConvTranspose2d(width, 4, 2, stride=2), nn.BatchNorm2d(4)
        self.last = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(self.norm(self.depthwise(x)))
        x = self.last(F.relu(self.up_norm(self.up(x))))
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    """Torch's own attention, whose weights are no layer's, and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.twice = nn.Linear(8, 8)

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return self.twice(F.gelu(self.twice(x)))


class Tied(nn.Module):
    """An embedding and a linear layer of the same weights, and two layers of the same."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.rand(8))

    def forward(self, ids):
        return self.head(self.b(F.relu(self.a(self.embed(ids) * self.scale))))


class Computed(nn.Module):
    """Weights that the forward computes, slices, transposes and reads in other ways besides."""

    def __init__(self):
        super().__init__()
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.pair = nn.Parameter(torch.randn(4, 10))
        self.read = nn.Linear(5, 5)
        self.loose = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        x = F.linear(self.normed(x), self.pair[:, :5].t()) + F.linear(x[:, :4], self.pair[:, 5:].t())
        x = self.read(x) * self.read.weight.abs().mean()
        return x @ torch.tanh(self.loose)


def last_channels():
    return Convs().to(memory_format=torch.channels_last)


NETS = {
    "convs": (Convs, torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))),
    "channels_last": (last_channels, torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))),
    "attention": (Attention, torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))),
    "tied": (Tied, torch.tensor([[1, 2, 3, 4], [10, 9, 8, 7]])),
    "computed": (Computed, torch.randn(4, 6, generator=torch.Generator().manual_seed(0))),
}
