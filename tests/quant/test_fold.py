import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from ribs.quant.fold import fold_batch_norms
from ribs.quant.inputs import Inputs
from ribs.quant.network import prepare
from ribs.quant.tracing import trace


def randomise_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


PAIRS = [
    ("conv", nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), (3, 8, 8)),
    ("no bias, grouped", nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)), (4, 8, 8)),
    ("not affine", nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)), (3, 8, 8)),
    ("conv1d", nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), (3, 8)),
    ("linear", nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), (5,)),
    ("transposed", nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)), (4, 8, 8)),
    ("transposed, grouped", nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 8, 8)),
    ("norm with activation", nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6)), (3, 8, 8)),
]


@pytest.mark.parametrize(("model", "shape"), [case[1:] for case in PAIRS], ids=[case[0] for case in PAIRS])
def test_folding_leaves_the_function_as_it_was(model, shape):
    torch.manual_seed(0)
    randomise_norms(model)
    x = torch.randn(4, *shape)
    expected = model.double()(x.double())
    model.float()
    assert fold_batch_norms(model, trace(model, Inputs((x,), {})).batch_norms) == 1
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-5, atol=1e-6)


def test_norm_without_statistics_stays():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)).eval()
    assert fold_batch_norms(model, [("0", "1")]) == 0
    assert isinstance(model[1], nn.BatchNorm2d)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "efficientnet_b0"])
def test_known_networks_keep_their_function_without_a_norm_left(name):
    torch.manual_seed(0)
    model = randomise_norms(timm.create_model(name, num_classes=10))
    x = torch.randn(2, 3, 64, 64)
    network = prepare(model, Inputs((x,), {})).model
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=float(1e-5 * expected.abs().max()))
