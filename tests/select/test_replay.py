"""Runs from any unit on against whole runs, bit for bit."""

from functools import partial
from typing import ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.replay import Recording, Replay


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


class EarlyHead(nn.Module):
    """Several outputs, one of them from before most units; a module that returns a dict, and one in a dict."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x, scale=1.0):
            return {"left": self.left(x), "right": [self.right(x * scale), scale]}

    def __init__(self):
        super().__init__()
        self.stem, self.head, self.pair, self.tail = nn.Linear(6, 6), nn.Linear(6, 3), self.Pair(), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        early = self.head(x)
        sides = self.pair(x, scale=0.5)
        return sides["left"] + self.tail(sides["right"][0] * sides["right"][1])[:, :1] * x, early


class Ignored(nn.Module):
    """What an in-place module returns is thrown away, since it changes its input."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second, self.third = (
            nn.Linear(6, 6),
            nn.ReLU(True),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
        )

    def forward(self, x):
        y = self.first(x)
        self.relu(y)
        return self.third(self.second(y))


class Remembers(nn.Module):
    """A module keeps a tensor for a later one, which no output shows."""

    class Keeper(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.kept = nn.Linear(6, 6), []

        def forward(self, x):
            self.kept[:] = [x * 2]
            return self.layer(x)

    def __init__(self):
        super().__init__()
        self.keeper, self.second, self.third = self.Keeper(), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = self.second(self.keeper(x).relu())
        return self.third(y) + self.keeper.kept[0]


class Routed(nn.Module):
    """The data decide which layers run."""

    def __init__(self):
        super().__init__()
        self.first, self.negative, self.positive, self.last = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        y = self.first(x)
        rare = self.negative(y) if float(x.mean()) < -5 else 0
        return self.last(self.positive(y).relu() + rare)


class NoState(nn.Module):
    """Chunks, views and a residual around a nested list."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(3)])
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        features = []
        for block in self.blocks:
            left, right = x.chunk(2, 1)
            x = block(torch.cat([right, left], 1)).view(-1, 2, 3).flatten(1) + x
            features.append(x)
        return self.out(torch.stack(features).mean(0))


class Raw(nn.Module):
    """Products with raw parameters, parts of one, one made anew, a layer's weights and an activation."""

    def __init__(self):
        super().__init__()
        self.table, self.tall = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(12, 6))
        self.first, self.gate = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = self.first(x @ self.table).relu()
        left, right = self.tall.chunk(2)
        z = (F.linear(y, left)[:, None] @ (F.linear(y, right)[..., None] @ x[:, None]))[:, 0]
        return F.linear(z, self.gate.weight, self.gate.bias) + torch.addmm(x, y, self.table / self.table.norm())


class Again(nn.Module):
    """A block with attention that runs three times around another layer, which runs as often."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            y = x.unflatten(1, (2, 3))
            return self.out(F.scaled_dot_product_attention(y, self.mix(x).view_as(y), y).flatten(1)).tanh() + x

    def __init__(self):
        super().__init__()
        self.block, self.side, self.head = self.Block(), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        for scale in (1, 3, 9):
            x = self.side(self.block(x) * scale).relu()
        return self.head(x)


class Blocks(nn.Sequential):
    """A block that runs twice, as an item of a list of blocks."""

    def __init__(self):
        again = Again.Block()
        super().__init__(again, nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), again)


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(8, 3))


def standardised():
    convolution = timm.layers.ScaledStdConv2d
    return nn.Sequential(convolution(3, 4, 3), nn.ReLU(), convolution(4, 4, 3, stride=2), nn.Flatten(1))


def timm_model(name, **options):
    return timm.create_model(name, num_classes=4, **options)


def small_resnet():
    resnet = timm.models.resnet
    return resnet.ResNet(resnet.BasicBlock, (2, 2, 2, 2), channels=(8, 16, 24, 32), num_classes=4, zero_init_last=False)


IMAGE = (4, 3, 32, 32)
CASES = {
    "twisted": (Twisted, (4, 6), "layer"),
    "twisted groups": (Twisted, (4, 6), {"ends": ["first", "last"]}),
    "early head": (EarlyHead, (4, 6), "layer"),
    "early head, pair": (EarlyHead, (4, 6), {"pair": ["pair"]}),
    "ignored": (Ignored, (4, 6), "layer"),
    "remembers": (Remembers, (4, 6), "layer"),
    "routed": (Routed, (4, 6), "layer"),
    "no state": (NoState, (4, 6), "layer"),
    "no state, blocks": (NoState, (4, 6), "block"),
    "one layer": (lambda: nn.Linear(6, 3), (4, 6), "layer"),
    "resnet blocks": (small_resnet, IMAGE, "block"),
    "resnet layers": (small_resnet, IMAGE, "layer"),
    "mobilenet layers": (lambda: timm_model("mobilenetv2_050"), (2, 3, 32, 32), "layer"),
    "densenet layers": (lambda: timm_model("densenet121", growth_rate=4, block_config=(2, 2)), IMAGE, "layer"),
    "raw": (Raw, (4, 6), "layer"),
    "again": (Again, (4, 6), "layer"),
    "again, block": (Again, (4, 6), {"block": ["block"], "rest": ["side", "head"]}),
    "blocks": (Blocks, (4, 6), "block"),
    "encoder layers": (encoder, (4, 5, 8), "layer"),
    "encoder blocks": (encoder, (4, 5, 8), "block"),
    "standardised": (standardised, (4, 3, 9, 9), "layer"),
    "vit layers": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2), IMAGE, "layer"),
}
# Of these every unit runs the whole network, or those named.
WHOLE = {"ignored": {"second"}, "remembers": {"second", "third"}, "routed": {"negative"}}


def network_of(build, x, scheme):
    torch.manual_seed(0)
    network = prepare(build().eval(), Inputs((x,), {}), scheme)
    calibrate(network, [Inputs((x,), {})], [3, 8])
    network.configure({unit.name: (8, 8) for unit in network.units})
    return network


def samples(shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples_of(case):
    """Two batches; of the routed network the first leads down both routes, and the second down the common one."""
    x, other = samples(CASES[case][1], 1), samples(CASES[case][1], 2)
    if case == "routed":
        x[:2] -= 20
    return x, other


def leaves(output):
    return list(output) if isinstance(output, tuple) else [output]


def assert_equal(left, right, name):
    for a, b in zip(leaves(left), leaves(right), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_replay_is_bit_identical_to_a_full_run(case):
    build, _, scheme = CASES[case]
    x, other = samples_of(case)
    network = network_of(build, torch.cat([x, other]), scheme)
    inputs = Inputs((x,), {})

    def low(unit):
        network.set_bits(unit, (3, 3))
        output = network.model(x)
        network.set_bits(unit, (8, 8))
        return output

    whole, expected = network.model(x), [low(unit) for unit in network.units]
    with Replay(network) as replay:
        plan = replay.plan(Inputs((other[:2],), {}), Inputs((x[:2],), {}))
        ran_whole = {
            unit.name
            for unit, start, first in zip(network.units, plan.starts, plan.first, strict=True)
            if start < first
        }
        assert ran_whole == WHOLE.get(case, set()) - {"negative"}
        for share in (1.0, 0.3, 0.0):
            limited = plan.within(share * plan.size, [1.0] * len(network.units))
            assert limited.size <= share * plan.size
            recording = Recording()
            assert_equal(replay.record(limited, recording, inputs), whole, case)
            assert set(recording.outputs) == (limited.kept if not recording.whole else set())
            for unit, start, output in zip(network.units, limited.starts, expected, strict=True):
                network.set_bits(unit, (3, 3))
                replayed = replay.run(limited, recording, start, inputs)
                network.set_bits(unit, (8, 8))
                assert_equal(replayed, output, unit.name)
    assert_equal(network.model(x), whole, case)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_changed_reference_is_stored_again_from_the_change_on(case):
    build, _, scheme = CASES[case]
    x, other = samples_of(case)
    network = network_of(build, torch.cat([x, other]), scheme)
    inputs, last = Inputs((x,), {}), network.units[-1]
    with Replay(network) as replay:
        plan = replay.plan(Inputs((other[:2],), {}), Inputs((x[:2],), {}))
        for changed, start in list(zip(network.units, plan.starts, strict=True))[:: 1 + len(network.units) // 4]:
            updated, fresh = Recording(), Recording()
            replay.record(plan, updated, inputs)
            network.set_bits(changed, (3, 3))
            replay.record(plan, updated, inputs, start)
            replay.record(plan, fresh, inputs)
            for number in fresh.outputs:
                for a, b in zip(
                    *(torch.utils._pytree.tree_leaves(r.outputs[number]) for r in (updated, fresh)), strict=True
                ):
                    assert a == b if not isinstance(a, torch.Tensor) else torch.equal(a, b)
            network.set_bits(last, (3, 3))
            output = replay.run(plan, updated, plan.starts[-1], inputs)
            assert_equal(output, network.model(x), changed.name)
            network.configure({unit.name: (8, 8) for unit in network.units})


BESIDE = ["raw", "again", "again, block", "blocks", "encoder blocks", "standardised", "vit layers"]


@pytest.mark.parametrize("case", BESIDE)
@torch.no_grad()
def test_settings_side_by_side_give_what_each_gives_alone(case):
    build, _, scheme = CASES[case]
    x, other = samples_of(case)
    network = network_of(build, torch.cat([x, other]), scheme)
    inputs = Inputs((x,), {})
    with Replay(network) as replay:
        plan = replay.plan(Inputs((other[:2],), {}), Inputs((x[:2],), {}))
        recording = Recording()
        replay.record(plan, recording, inputs)
        for index, (unit, start) in enumerate(zip(network.units, plan.starts, strict=True)):
            settings = [partial(network.set_bits, unit, (bits, bits)) for bits in (3, 32, 8)]
            beside = replay.run_side_by_side(plan, recording, start, inputs, index, settings)
            for setting, output in zip(settings, beside, strict=True):
                setting()
                # Larger batches are rounded otherwise on some machines; a search then runs what it measures alone.
                alone = replay.run(plan, recording, start, inputs)
                for a, b in zip(leaves(alone), leaves(output), strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=unit.name)


@torch.no_grad()
def test_nothing_before_the_unit_is_computed():
    x = samples(IMAGE)
    network = network_of(small_resnet, x, "block")
    inputs, calls = Inputs((x,), {}), []
    with Replay(network) as replay:
        plan = replay.plan(inputs, inputs)
        recording = Recording()
        replay.record(plan, recording, inputs)
        for unit in network.units:
            layer = network.model.get_submodule(unit.layers[0])
            layer.input_quantizer.register_forward_hook(lambda *_, name=unit.name: calls.append(name))
        replay.run(plan, recording, plan.starts[6], inputs)
    assert calls == ["layer3.1", "layer4.0", "layer4.1", "fc"]


@torch.no_grad()
def test_only_what_is_read_is_stored():
    """Of a residual block by layers: what enters the block, and what enters each layer in it."""
    x = samples(IMAGE)
    network = network_of(small_resnet, x, "layer")
    with Replay(network) as replay:
        plan = replay.plan(Inputs((x,), {}), Inputs((x,), {}))
    assert {plan.calls[number].name for number in plan.read_from(plan.first[2])} == {"maxpool", "layer1.0.act1"}
    assert {plan.calls[number].name for number in plan.read_from(plan.first[-1])} == {"global_pool"}


def test_the_forwards_come_back_after_an_exception():
    network = network_of(Twisted, samples((4, 6)), "layer")
    with pytest.raises(KeyboardInterrupt), Replay(network):
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in network.model.modules())


def test_an_error_of_the_network_itself_is_not_taken_for_a_failed_check():
    class Breaks(Twisted):
        calls: ClassVar = [0]

        def forward(self, x):
            self.calls[0] += 1
            if self.calls[0] == 5:
                raise RuntimeError("as asked")
            return super().forward(x)

    x = samples((4, 6))
    network = network_of(Breaks, x, "layer")
    Breaks.calls[0] = 2
    with pytest.raises(RuntimeError, match="as asked"), Replay(network) as replay:
        replay.plan(Inputs((x,), {}), Inputs((x,), {}))
