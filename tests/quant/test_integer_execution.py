"""Where integer execution applies, what it leaves behind, and the machines it refuses."""

import copy
import os
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ribs.quant import integer
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from vnni import NEEDS_VNNI


class Block(nn.Module):
    """Layers of every kind: two in integers, two that are not, and a product of activations."""

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.one, self.linear = nn.Conv2d(8, 4, 1), nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.one(self.up(F.relu(self.conv(x))))).flatten(2)
        return self.linear(torch.matmul(x, x.transpose(-2, -1)).flatten(1))


@pytest.fixture
def block():
    x = torch.randn(2, 3, 6, 6)
    network = prepare(Block().eval(), Inputs((x,), {}), "layer")
    calibrate(network, [Inputs((x,), {})], [4, 8])
    network.configure({unit.name: (8, 4) for unit in network.units})
    return network, x


def test_names_of_layers(block):
    network, _ = block
    assert network.integer_layers() == (("conv", "one", "linear"), ("up", "matmul0"))
    network.configure({unit.name: (32 if unit.name == "one" else 4, 8) for unit in network.units})
    assert network.integer_layers() == (("conv", "linear"), ("up", "one", "matmul0"))


@NEEDS_VNNI
def test_only_inside_without_gradients_and_never_after_an_exception(block):
    network, x = block
    with torch.no_grad():
        plain = network.model(x)
    with pytest.raises(KeyError), network.integer_execution():
        assert torch.equal(network.model(x), plain)  # gradients are on
        with torch.no_grad():
            inside = network.model(x)
            assert not torch.equal(inside, plain)
            torch.testing.assert_close(inside, plain, rtol=0.05, atol=0.05)
            with network.integer_execution():
                assert torch.equal(network.model(x), inside)
            assert torch.equal(network.model(x), inside)
        raise KeyError
    with torch.no_grad():
        assert torch.equal(network.model(x), plain)


@NEEDS_VNNI
def test_bits_may_change_inside_and_their_weights_share_the_room(block):
    network, x = block
    configurations = [{unit.name: bits for unit in network.units} for bits in ((8, 8), (4, 8), (8, 4), (32, 8), (4, 4))]

    def outputs():
        for configuration in configurations:
            network.configure(configuration)
            yield network.model(x)

    with torch.no_grad():
        plain = list(outputs())
        with network.integer_execution():
            inside = list(outputs())
            for limit in (0, 300, 2**20):
                with network.keep_weights(limit):
                    assert all(map(torch.equal, [*outputs(), *outputs()], [*inside, *inside]))
                    room = network.model.get_submodule("conv").kept.room
                    assert room.used <= limit and (limit < 2**20 or room.used > 0)
            network.model.get_submodule("conv").layer.weight.mul_(1.01)
            assert not torch.equal(next(outputs()), inside[0])
            network.model.get_submodule("conv").layer.weight.div_(1.01)
        assert all(torch.allclose(a, b, atol=0.1) for a, b in zip(plain, inside, strict=True))
    assert torch.equal(copy.deepcopy(network.model)(x), network.model(x))


@NEEDS_VNNI
def test_networks_can_be_copied_inside(block):
    network, x = block
    with torch.no_grad(), network.integer_execution():
        inside = network.model(x)
        assert torch.equal(copy.deepcopy(network.model)(x), inside)


@NEEDS_VNNI
def test_nan_goes_through(block):
    """Codes cannot hold it: the layers that meet it run in float."""
    network, x = block
    x[0, 0, 0, 0] = torch.nan
    with torch.no_grad():
        expected = network.model(x).isnan()
        with network.integer_execution():
            assert torch.equal(network.model(x).isnan(), expected)
    assert expected.any()


@NEEDS_VNNI
def test_a_residual_network_stays_near():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    network = prepare(timm.create_model("resnet10t", num_classes=10).eval(), Inputs((x,), {}))
    calibrate(network, [Inputs((x,), {})], [8])
    network.configure({unit.name: (8, 8) for unit in network.units})
    assert network.integer_layers()[1] == ()
    with torch.no_grad():
        plain = network.model(x)
        with network.integer_execution():
            inside = network.model(x)
    assert (inside - plain).abs().mean() < 0.02 * plain.std()


def test_only_on_cpus(block):
    network, _ = block
    meta = copy.copy(network)
    object.__setattr__(meta, "model", copy.deepcopy(network.model).to("meta"))
    message = r"\[integer_execution\] the network is on meta; int8 execution is for CPUs"
    with pytest.raises(RuntimeError, match=message), meta.integer_execution():
        pass


@NEEDS_VNNI
@pytest.mark.parametrize("instructions", ["AVX512_CORE", "AVX2"])
def test_products_that_saturate_are_found(instructions):
    """oneDNN as on a CPU without VNNI."""
    code = "import torch; from ribs.quant import integer; integer.check_device(torch.device('cpu'))"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "[integer_execution] this CPU's 8-bit products are not exact" in found.stderr, found.stderr


@pytest.mark.parametrize("missing", [AttributeError, RuntimeError])
def test_operators_that_are_missing_are_found(monkeypatch, missing):
    def refuse(*_):
        raise missing("no such operator")

    integer._wrong_products.cache_clear()
    monkeypatch.setattr(integer, "pack", refuse)
    with pytest.raises(RuntimeError, match="has no int8 operators that run here: no such operator"):
        integer.check_device(torch.device("cpu"))
    integer._wrong_products.cache_clear()
