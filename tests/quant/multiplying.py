"""Small networks that multiply in every way there is: in modules, by functionals, and in other libraries' attention."""

import timm
import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d, StdConv2dSame
from torch import nn

MASK = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


class Calls(nn.Module):
    """Modules, and a forward that is given."""

    def __init__(self, call, **modules):
        super().__init__()
        self.call = call
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self.call(self, *args, **kwargs)


def attention_module(call, **options):
    return Calls(call, attn=nn.MultiheadAttention(8, 2, batch_first=True, **options))


def weights(*shape):
    return nn.Parameter(torch.randn(*shape))


def functional():
    """A raw parameter, a part of one, a transposed one, one on the left, one that is made anew, and a layer's."""
    return Calls(
        lambda m, x: (
            F.linear(x @ m.table + torch.addmm(m.bias, x.flatten(0, 1), m.table.mT).view_as(x), m.tall[:8])
            + F.linear(F.linear(x, m.tall[8:]), m.fc.weight, m.fc.bias)
            + torch.einsum("bsi,oi->bso", x, m.table / m.table.norm())
            + m.square @ x
        ),
        table=weights(8, 8),
        tall=weights(20, 8),
        square=weights(5, 5),
        bias=weights(8),
        fc=nn.Linear(12, 8),
    )


def convolutions():
    """Functionals in each number of dimensions, with raw and with transposed weights, and one whose weights move."""
    return Calls(
        lambda m, x: (
            F.conv1d(x, m.one, padding=1)
            + F.conv_transpose1d(x, m.transposed, padding=1)
            + F.conv2d(x[:, None], m.two, padding=1)[:, 0]
            + F.conv3d(x[:, None, None], m.three, padding=1)[:, 0, 0]
            + F.conv1d(x, x.mean((0, 2)).outer(x.mean((0, 2)))[..., None])
        ),
        one=weights(5, 5, 3),
        transposed=weights(5, 5, 3),
        two=weights(1, 1, 3, 3),
        three=weights(1, 1, 3, 3, 3),
    )


def tied():
    """The head multiplies by the embedding's weights, which stay in float there."""
    model = Calls(lambda m, x: m.head(m.embed(x)), embed=nn.Embedding(9, 8), head=nn.Linear(8, 9, bias=False))
    model.head.weight = model.embed.weight
    return model


def again():
    """A block with attention that runs three times, and a layer that runs on each of its outputs."""

    def block(m, x):
        return m.out(F.scaled_dot_product_attention(x, m.mix(x), x).relu()) + x

    def forward(m, x):
        outputs = []
        for _ in range(3):
            x = m.block(x)
            outputs.append(m.side(x * len(outputs)))
        return torch.stack(outputs).sum(0)

    return Calls(forward, block=Calls(block, mix=nn.Linear(8, 8), out=nn.Linear(8, 8)), side=nn.Linear(8, 4))


def standardised(kind):
    return nn.Sequential(kind(3, 6, 3), nn.ReLU(), kind(6, 6, 3, stride=2), nn.Flatten(1))


def parametrized():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 4))


def baddbmm(m, x):
    q, k, v = m.qkv(x).chunk(3, -1)
    return torch.bmm(torch.baddbmm(x @ x.mT, q, k.mT, alpha=8**-0.5).softmax(-1), v)


def einsum(m, x):
    q, k, v = (part.unflatten(-1, (2, 4)) for part in m.qkv(x).chunk(3, -1))
    return torch.einsum("bhqk,bkhd->bqhd", torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1), v).flatten(2)


def timm_model(name, **options):
    return lambda: timm.create_model(name, num_classes=4, embed_dim=24, num_heads=3, depth=2, **options)


def swin(name):
    options = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2)}
    return lambda: timm.create_model(name, num_classes=4, **options)


@torch.library.custom_op("ribs_tests::flash_attn", mutates_args=())
def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


TOKENS, IMAGES, IDS = (2, 5, 8), (2, 3, 32, 32), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
ENCODER = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "batch_first": True}
NETS = {
    "vit": (timm_model("vit_tiny_patch16_224", img_size=32), IMAGES),
    "deit": (timm_model("deit_tiny_distilled_patch16_224", img_size=32), IMAGES),
    "beit": (timm_model("beit_base_patch16_224", img_size=32), IMAGES),
    "eva": (
        lambda: timm.create_model("eva02_tiny_patch14_224", img_size=28, embed_dim=48, num_heads=3, depth=2),
        (2, 3, 28, 28),
    ),
    "swin": (swin("swin_tiny_patch4_window7_224"), IMAGES),
    "swin v2": (swin("swinv2_tiny_window8_256"), IMAGES),
    "self attention": (lambda: attention_module(lambda m, x: m.attn(x, x, x)[0]), TOKENS),
    "masked": (lambda: attention_module(lambda m, x: m.attn(x, x, x, attn_mask=MASK.to(x.device))[0]), TOKENS),
    "padded": (
        lambda: attention_module(
            lambda m, x: m.attn(x, 2 * x, 2 * x, key_padding_mask=PADDED[: len(x)].to(x.device), need_weights=False)[0]
        ),
        TOKENS,
    ),
    "cross attention": (
        lambda: attention_module(lambda m, x: m.attn(x, x[..., :6], x[..., :4])[0], kdim=6, vdim=4, add_bias_kv=True),
        TOKENS,
    ),
    "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(**ENCODER), 2), TOKENS),
    "decoder": (lambda: Calls(lambda m, x: m.decoder(x, x), decoder=nn.TransformerDecoderLayer(**ENCODER)), TOKENS),
    "baddbmm": (lambda: Calls(baddbmm, qkv=nn.Linear(8, 24)), TOKENS),
    "einsum": (lambda: Calls(einsum, qkv=nn.Linear(8, 24)), TOKENS),
    "functional": (functional, TOKENS),
    "convolutions": (convolutions, TOKENS),
    "tied": (tied, IDS),
    "again": (again, TOKENS),
    "scaled standardised": (lambda: standardised(ScaledStdConv2d), (2, 3, 9, 9)),
    "standardised, same padding": (lambda: standardised(StdConv2dSame), (2, 3, 9, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, groups=1), (2, 3, 5, 5)),
    "parametrized": (parametrized, (6, 8)),
    "outside of modules": (lambda: Calls(lambda m, x: (x @ x.mT) @ m.fc(x), fc=nn.Linear(8, 8)), TOKENS),
}


def build(name):
    torch.manual_seed(0)
    make, x = NETS[name]
    return make().eval().requires_grad_(False), x if isinstance(x, torch.Tensor) else torch.randn(*x)
