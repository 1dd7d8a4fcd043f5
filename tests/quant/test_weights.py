import copy

import pytest
import torch
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork, calibrate, prepare

CHOICES = [2, 4, 8]


class Counted(nn.Module):
    """A quantizer that counts its calls."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer, self.calls = quantizer, 0

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("quantizer"), name)

    def forward(self, x):
        self.calls += 1
        return self.quantizer(x)


@pytest.fixture
def network() -> QuantizedNetwork:
    x = torch.randn(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 8)).eval()
    network = prepare(model, Inputs((x,), {}), "layer")
    calibrate(network, [Inputs((x,), {})], CHOICES)
    for layer in layers(network):
        layer.weight_quantizer = Counted(layer.weight_quantizer)
    return network


def layers(network):
    return [network.model.get_submodule(name) for name in ("0", "2")]


def rounds(network, times=3):
    """Run at all bits, several times; returns how often each layer quantized its weights."""
    before = [layer.weight_quantizer.calls for layer in layers(network)]
    with torch.no_grad():
        for _ in range(times):
            for bits in CHOICES:
                network.configure({"0": (bits, 8), "2": (bits, 8)})
                network.model(torch.ones(2, 6))
    return [layer.weight_quantizer.calls - calls for layer, calls in zip(layers(network), before, strict=True)]


def test_the_weights_of_every_bits_are_quantized_once(network):
    assert rounds(network) == [9, 9]  # the last bits alone are kept
    with network.keep_weights(2**20):
        assert rounds(network) == [2, 2]  # those of the last bits were there
        assert rounds(network) == [0, 0]
    before = layers(network)[0].weight_quantizer.calls
    with torch.no_grad():
        network.model(torch.ones(2, 6))
    assert layers(network)[0].weight_quantizer.calls == before  # the present ones stayed
    assert rounds(network) == [9, 9]


def test_past_the_limit_weights_are_quantized_again(network):
    one = 5 * 6 * 4  # bytes of the first layer's weights
    rounds(network, 1)
    with network.keep_weights(one):
        assert rounds(network)[1] >= 8  # the first layer's came first
        assert rounds(network)[0] < 9
    with network.keep_weights(0):
        assert rounds(network) == [9, 9]
        with torch.no_grad():
            network.model(torch.ones(2, 6))
        assert rounds(network, 1) == [3, 3]


def test_the_room_is_shared_and_never_exceeded(network):
    both = (5 * 6 + 8 * 5) * 4
    with network.keep_weights(2 * both):
        rounds(network)
        room = layers(network)[0].kept.room
        assert room is layers(network)[1].kept.room and 0 < room.used <= room.limit
    assert room.used == 0 and layers(network)[0].kept.room is None


def test_results_are_those_without_keeping(network):
    x, found = torch.randn(3, 6), []
    with torch.no_grad():
        for limit in (None, 0, 150, 2**20):
            outputs = []
            for bits in (*CHOICES, *CHOICES):
                network.configure({"0": (bits, 4), "2": (10 - bits, 8)} if bits != 4 else {"0": (4, 4), "2": (32, 8)})
                if limit is None:
                    outputs.append(network.model(x))
                else:
                    with network.keep_weights(limit):
                        outputs.append(network.model(x))
            found.append(torch.stack(outputs))
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("change", ["weight", "data", "step", "steps"])
def test_a_change_is_noticed(network, change):
    layer = layers(network)[0]
    with torch.no_grad(), network.keep_weights(2**20):
        rounds(network)
        first = layer.quantized_weight().clone()
        quantizer = layer.weight_quantizer.quantizer
        if change == "weight":
            layer.layer.weight.mul_(0.5)
        elif change == "data":
            layer.layer.weight.data = layer.layer.weight * 0.5
        elif change == "step":
            quantizer.step.mul_(1.5)
        else:
            quantizer.set_steps(CHOICES, quantizer.step * 1.5, quantizer.zero_point)
        assert not torch.equal(layer.quantized_weight(), first)
        assert torch.equal(layer.quantized_weight(), quantizer(layer.weight))
        assert rounds(network, 1)[0] == 2  # of no bits is anything older kept


def test_exceptions_and_nesting_release_as_well(network):
    with pytest.raises(KeyError), network.keep_weights(2**20):
        rounds(network)
        raise KeyError
    assert rounds(network) == [9, 9]
    with network.keep_weights(2**20):
        rounds(network)
        outer = layers(network)[0].kept.room
        with network.keep_weights(2**20):
            rounds(network)
        assert layers(network)[0].kept.room is outer and 0 <= outer.used <= outer.limit
        rounds(network)
        assert rounds(network) == [0, 0]
    assert outer.used == 0


def test_with_gradients_weights_are_quantized_each_time(network):
    network.configure({"0": (4, 8), "2": (4, 8)})
    with network.keep_weights(2**20):
        before = layers(network)[0].weight_quantizer.calls
        network.model(torch.ones(2, 6))
        network.model(torch.ones(2, 6))
        assert layers(network)[0].weight_quantizer.calls == before + 2


def test_copies_begin_empty(network):
    with torch.no_grad(), network.keep_weights(2**20):
        rounds(network)
        other = copy.deepcopy(network.model)
        assert torch.equal(other(torch.ones(2, 6)), network.model(torch.ones(2, 6)))
        assert other.get_submodule("0").kept.room is None


@pytest.mark.parametrize("limit", [-1, 1.5, True, None], ids=str)
def test_limits_are_bytes(network, limit):
    message = r"\[keep_weights\] limit_bytes=.* give an int of at least 0"
    with pytest.raises(ValueError, match=message), network.keep_weights(limit):
        pass
