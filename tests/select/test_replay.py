import pytest
import timm
import torch
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.replay import Replay


class Twisted(nn.Module):
    """A shared layer, a branch, in-place arithmetic and an order of calls that is not the order of definition."""

    def __init__(self):
        super().__init__()
        self.last, self.shared, self.side, self.first = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        y = self.first(x)
        y += x
        z = self.shared(y)
        z.sigmoid_()
        y = self.shared(torch.relu_(self.side(y))) * z
        return self.last(y)


def network_of(model, x, scheme):
    network = prepare(model.eval(), Inputs((x,), {}), scheme)
    calibrate(network, [Inputs((x,), {})], [3, 8])
    network.configure({unit.name: (8, 8) for unit in network.units})
    return network


CASES = [
    ("twisted", lambda: Twisted(), (4, 6), "layer"),
    ("twisted groups", lambda: Twisted(), (4, 6), {"ends": ["first", "last"]}),
    (
        "resnet blocks",
        lambda: timm.create_model("resnet18", num_classes=4, zero_init_last=False),
        (2, 3, 32, 32),
        "block",
    ),
    (
        "resnet layers",
        lambda: timm.create_model("resnet18", num_classes=4, zero_init_last=False),
        (2, 3, 32, 32),
        "layer",
    ),
    ("mobilenet layers", lambda: timm.create_model("mobilenetv2_050", num_classes=4), (2, 3, 32, 32), "layer"),
    ("vit layers", lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2), (2, 3, 32, 32), "layer"),
]


@pytest.mark.parametrize(("build", "shape", "scheme"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@torch.no_grad()
def test_replay_is_bit_identical_to_a_full_run(build, shape, scheme):
    torch.manual_seed(0)
    x = torch.randn(*shape)
    network = network_of(build(), x, scheme)
    inputs = Inputs((x,), {})
    whole = network.model(x)
    replayed = []
    with Replay(network) as replay:
        assert torch.equal(replay.record(inputs), whole)
        for index, unit in enumerate(network.units):
            network.set_bits(unit, (3, 3))
            replayed.append(replay.run_from(index, inputs).clone())
            network.set_bits(unit, (8, 8))
    for unit, output in zip(network.units, replayed, strict=True):
        network.set_bits(unit, (3, 3))
        expected = network.model(x)
        network.set_bits(unit, (8, 8))
        assert torch.equal(output, expected), unit.name
        assert not torch.equal(output, whole), unit.name
    assert torch.equal(network.model(x), whole)


@torch.no_grad()
def test_nothing_before_the_unit_is_computed():
    x = torch.randn(2, 3, 32, 32)
    network = network_of(timm.create_model("resnet18", num_classes=4), x, "block")
    calls = []
    for unit in network.units:
        layer = network.model.get_submodule(unit.layers[0])
        layer.register_forward_hook(lambda module, args, output, name=unit.name: calls.append(name))
    with Replay(network) as replay:
        replay.record(Inputs((x,), {}))
        calls.clear()
        replay.run_from(6, Inputs((x,), {}))
        ran = [network.units[index].name for index in replay.units_from(6)]
    # A unit that is one layer is a boundary itself: its hook fires though its forward does not.
    assert [name for name in calls if name != "conv1"] == ran == ["layer3.1", "layer4.0", "layer4.1", "fc"]


def test_the_forwards_come_back_after_an_exception():
    x = torch.randn(4, 6)
    network = network_of(Twisted(), x, "layer")
    with pytest.raises(KeyboardInterrupt), Replay(network):
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in network.model.modules())
