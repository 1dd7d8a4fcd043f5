"""Steps of linears by what comes out, against brute force in double precision and against steps of tensors alone."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ribs import ops
from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.network import calibrate, prepare
from ribs.quant.outputs import END_FACTORS, ROWS, WEIGHT_FACTORS, input_steps, rows_of, weight_steps
from ribs.quant.reparameterize import reparameterize, scale_norms

BITS = (1, 2, 4, 8)


def given(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 1
    return torch.randn(5, 12, generator=generator), rows


def rounded(x, step, zero_point, low, high):
    return (np.clip(np.rint(x / step) + zero_point, low, high) - zero_point) * step


def test_each_output_has_the_best_of_all_steps_of_its_weights():
    weight, rows = given()
    start = ops.search_steps(weight, BITS, symmetric=True, axis=0).step
    found = weight_steps(weight, rows, start, BITS)
    w, x = weight.double().numpy(), rows.double().numpy()
    for k, bits in enumerate(BITS):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        for channel in range(5):
            tried = [float(np.float32(start[k, channel].item() * factor)) for factor in WEIGHT_FACTORS]
            errors = [np.square(x @ (rounded(w[channel], step, 0, low, high) - w[channel])).sum() for step in tried]
            own = np.square(x @ (rounded(w[channel], found[k, channel].item(), 0, low, high) - w[channel])).sum()
            assert own == pytest.approx(min(errors), rel=1e-4)
            assert own <= errors[WEIGHT_FACTORS.index(1.0)] * 1.0001


@pytest.mark.parametrize("low", [-4.0, -0.17, 0.0, 0.5])
def test_inputs_have_the_best_of_all_ranges_around_theirs(low):
    weight, rows = given(1)
    rows = rows.clamp(min=low)
    start = ops.search_steps(rows, BITS, symmetric=False)
    step, zero_point = input_steps(rows, weight, (start.step, start.zero_point), BITS)
    w, x = weight.double().numpy(), rows.double().numpy()
    for k, bits in enumerate(BITS):
        top, s, z = 2**bits - 1, start.step[k].item(), start.zero_point[k].item()
        tried = [(s, z)]
        for down, up in itertools.product(END_FACTORS, END_FACTORS):
            width = ((top - z + 0.5) * s * up + (z + 0.5) * s * down) / (top + 1)
            zero = np.clip(round((z + 0.5) * s * down / width - 0.5), 0, top)
            tried.append((float(np.float32(width)), zero))
        errors = [np.square((rounded(x, *each, 0, top) - x) @ w.T).sum() for each in tried]
        own = np.square((rounded(x, step[k].item(), zero_point[k].item(), 0, top) - x) @ w.T).sum()
        assert own == pytest.approx(min(errors), rel=1e-4)


def test_rows_are_drawn_from_all_places_and_the_same_each_time():
    x = torch.arange(4096.0).reshape(64, 64, 1)
    rows = rows_of(x, 200)
    assert torch.equal(rows, rows_of(x, 200)) and len(rows) == 200
    assert len(rows.remainder(64).unique()) > 50
    assert torch.equal(rows_of(x, 5000), x.reshape(-1, 1))


class Net(nn.Module):
    """Patches, a linear called twice, a convolution whose windows overlap, and attention, which makes it "repq+"."""

    def __init__(self):
        super().__init__()
        self.patches, self.overlapping = nn.Conv2d(2, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1)
        self.twice, self.norm, self.reader = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.overlapping(self.patches(x)).flatten(2).transpose(1, 2)
        x = self.twice(self.twice(x).relu())
        x = (x @ x.transpose(1, 2)).softmax(-1) @ x
        return self.reader(self.norm(x))


@torch.no_grad()
def test_what_linears_of_a_network_read_is_kept_and_scaled_with_their_weights():
    torch.manual_seed(0)
    model = Net().eval()
    batches = [Inputs((torch.randn(16, 2, 8, 8),), {}) for _ in range(2)]
    network = prepare(model, batches[0], "layer")
    calibrate(network, batches, (3, 4))
    assert {name: tuple(rows.shape) for name, rows in network.rows.items()} == {
        "patches": (ROWS, 8),
        "twice": (2 * ROWS, 6),
        "reader": (ROWS, 6),
    }
    patches, reader = network.model.patches, network.model.reader
    windows = network.rows["patches"].reshape(-1, 2, 2, 2)
    expected = F.conv2d(windows, model.patches.weight).flatten(1)
    torch.testing.assert_close(network.rows["patches"] @ patches.matrix.T, expected)
    for layer, rows in ((patches, network.rows["patches"]), (reader, network.rows["reader"])):
        alone = ops.search_steps(layer.matrix, (3, 4), symmetric=True, axis=0).step
        assert torch.equal(layer.weight_quantizer.step, weight_steps(layer.matrix, rows, alone, (3, 4)))
    assert not torch.equal(reader.weight_quantizer.step, alone)
    before = network.rows["reader"] @ reader.matrix.T
    scale_norms(network)
    reparameterize(network, {unit.name: (3, 3) for unit in network.units}, batches)
    torch.testing.assert_close(network.rows["reader"] @ reader.matrix.T, before)
    assert not torch.equal(reader.weight, model.reader.weight)


@torch.no_grad()
def test_other_recipes_and_networks_in_training_have_steps_of_tensors_alone():
    model, x = Net().eval(), torch.randn(4, 2, 8, 8)
    for recipe, training in (("repq", False), ("mse", False), ("repq+", True)):
        network = prepare(model, Inputs((x,), {}), "layer", recipe=recipe, training=training)
        calibrate(network, [Inputs((x,), {})], (3,))
        assert not network.rows
        if recipe != "repq":
            layer = network.model.twice
            assert isinstance(layer, QuantizedLayer)
            alone = ops.search_steps(layer.weight, (3,), symmetric=True, axis=0)
            assert torch.equal(layer.weight_quantizer.step, alone.step)


@torch.no_grad()
def test_the_search_sees_what_comes_out_where_a_tensor_alone_does_not():
    """Two inputs that are always opposite: their errors must cancel, whatever each of them is."""
    generator = torch.Generator().manual_seed(2)
    half = torch.randn(64, 1, generator=generator)
    rows, weight = torch.cat([half, -half], 1), torch.tensor([[1.0, 0.63]])
    start = ops.search_steps(weight, (3,), symmetric=True, axis=0)
    errors = []
    for step in (start.step, weight_steps(weight, rows, start.step, (3,))):
        off = ops.fake_quantize(weight, step[0], start.zero_point[0], -4, 3, 0) - weight
        errors.append(F.linear(rows, off).square().mean().item())
    assert errors[1] < 0.2 * errors[0]
