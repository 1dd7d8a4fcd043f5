"""Small networks, calibrated, with a plan and all that a rival may use."""

import itertools

import timm
import torch
from torch import nn

import ribs
from ribs.quant.network import calibrate
from ribs.select.loss import kl_divergence
from ribs.select.rivals.setting import Setting
from ribs.select.setup import set_up
from small import loader, network

BITS = (2, 4, 8)


def setting(
    model=None,
    budget="4/4",
    size=None,
    bits=BITS,
    activation_bits=None,
    units="layer",
    pins=None,
    allowed=None,
    ties=None,
    target=None,
    seed=0,
    data=None,
    loss=kl_divergence,
    recipe=None,
    **bounds,
):
    setup = set_up(
        model or network(),
        data or loader(),
        [ribs.Budget(bops=budget, size=size, **bounds)],
        units=units,
        calibration_samples=10**6,
        bits=bits,
        activation_bits=activation_bits,
        pins=pins,
        allowed=allowed,
        ties=ties,
        target=target,
        recipe=recipe,
    )
    [plan] = setup.plans
    calibrate(setup.network, setup.batches, plan.bit_widths)
    return Setting(setup.network, setup.batches, plan, loss, seed)


def vit() -> nn.Module:
    """Two blocks of attention, so that matmuls are units of their own."""
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=5, embed_dim=8, depth=2, num_heads=2
    ).eval()


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        y = self.two(torch.relu_(self.one(x)))
        y += x
        return torch.relu_(y)


def blocks() -> nn.Module:
    """Two residual blocks of two convolutions, with what works in place."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, nn.Sequential(Residual(4), Residual(4)), nn.Flatten(), nn.Linear(36, 5)).eval()


def every(plan):
    return itertools.product(*(range(len(options)) for options in plan.candidates))


def state(prepared):
    """All that a rival must leave as it was."""
    tensors = {name: (value.clone(), value.requires_grad) for name, value in prepared.model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prepared.model.modules()]
    patched = [name for name, module in prepared.model.named_modules() if "forward" in module.__dict__]
    gradients = [parameter.requires_grad for parameter in prepared.model.parameters()]
    return tensors, hooks, patched, gradients


def same_state(left, right):
    return left[1:] == right[1:] and all(
        torch.equal(value, right[0][name][0]) and wanted == right[0][name][1]
        for name, (value, wanted) in left[0].items()
    )
