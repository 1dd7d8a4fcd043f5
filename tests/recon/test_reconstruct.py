"""`ribs.reconstruct` on a small network: what it finds, what it leaves alone, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

import ribs
from ribs.quant.layers import QuantizedLayer
from small import loader, network

FAST = {"weight_lr": 0.02, "iterations": 120}
METHODS = {
    "adaround": ribs.AdaRound(**FAST),
    "brecq": ribs.BRECQ(**FAST),
    "fisher": ribs.BRECQ(**FAST, fisher=True),
    "qdrop": ribs.QDrop(**FAST, activation_lr=1e-3),
}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


QUICK = ribs.QDrop(iterations=10, weight_lr=0.1, activation_lr=1e-3)


def rebuilt(model, bits=(2, 4), method=QUICK, data=None, **options):
    return ribs.reconstruct(model, data or loader(6, 16), bits, method=method, progress=False, **options)


@pytest.fixture(scope="module")
def quantized():
    torch.manual_seed(0)
    return ribs.quantize(network(), loader(6, 16), (2, 4), progress=False)


def quantized_layers(model):
    return [module for module in model.modules() if isinstance(module, QuantizedLayer)]


@pytest.mark.parametrize("name", METHODS)
def test_loss_falls_and_the_result_given_is_untouched(name, quantized):
    before = state(quantized.model)
    found = rebuilt(quantized, None, METHODS[name])
    assert found.loss < 0.8 * quantized.loss
    assert same(state(quantized.model), before)
    assert found.bits == quantized.bits and found.bops == quantized.bops
    assert not any("forward" in module.__dict__ for module in found.model.modules())
    for layer in quantized_layers(found.model):
        assert torch.equal(layer.weight_quantizer(layer.weight), layer.weight)


def test_steps_of_activations_are_learned_by_qdrop_and_not_by_adaround(quantized):
    def steps(model):
        return [layer.input_quantizer.step for layer in quantized_layers(model)]

    assert all(
        map(torch.equal, steps(rebuilt(quantized, None, ribs.AdaRound(iterations=10)).model), steps(quantized.model))
    )
    assert not any(map(torch.equal, steps(rebuilt(quantized, None).model), steps(quantized.model)))


def test_a_float_model_gives_what_its_quantized_network_gives(quantized):
    model = network()
    before = state(model)
    found, want = rebuilt(model), rebuilt(quantized, None)
    assert same(state(found.model), state(want.model)) and found.loss == want.loss
    assert same(state(model), before)


def test_the_seed_decides(quantized):
    first, again, other = (state(rebuilt(quantized, None, seed=seed).model) for seed in (1, 1, 2))
    assert same(first, again) and not same(first, other)


def test_layers_in_float_stay_as_they_are():
    model = network()
    found = rebuilt(model, {"0": (32, 32), "2": (3, 4), "5": (32, 4)})
    first, second, third = quantized_layers(found.model)
    assert torch.equal(first.weight, model[0].weight) and torch.equal(third.weight, model[5].weight)
    assert not torch.equal(second.weight, model[2].weight)


def test_an_interrupted_call_leaves_what_was_given(quantized, monkeypatch):
    before, calls = state(quantized.model), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = ribs.ops.soft_round
    monkeypatch.setattr(ribs.ops, "soft_round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rebuilt(quantized, None)
    assert same(state(quantized.model), before)
    assert not any("forward" in module.__dict__ for module in quantized.model.modules())


def test_fewer_samples_than_a_batch():
    assert rebuilt(network(), data=loader(1, 5)).loss > 0


def test_too_little_memory_takes_fewer_samples(quantized):
    with pytest.warns(UserWarning, match=r"is reconstructed on \d+ of 96 samples: .* store_mib=0.02") as said:
        rebuilt(quantized, None, store_mib=0.02)
    assert "'0' is reconstructed on 13 of 96" in str(said[0].message)  # 1 + 1 + 4 channels of 64 floats each


class Poisoned(nn.Module):
    """From some call with gradients on, the gradient is NaN."""

    def __init__(self, good):
        super().__init__()
        self.good, self.calls = good, 0

    def forward(self, x):
        self.calls += x.requires_grad
        return x * torch.nan if self.calls > self.good and x.requires_grad else x


class Poison(nn.Module):
    def __init__(self, poisoned):
        super().__init__()
        self.first, self.poisoned, self.second = nn.Linear(64, 64), poisoned, nn.Linear(64, 64)

    def forward(self, x):
        return x + self.second(self.poisoned(self.first(x)))


def residual(poisoned):
    blocks = nn.Sequential(Poison(nn.Identity()), Poison(poisoned))
    return nn.Sequential(nn.Flatten(), blocks, nn.Linear(64, 5)).eval()


@pytest.mark.parametrize("good", [0, 15])
def test_an_error_of_nan_keeps_the_last_good_rounding(good, monkeypatch):
    """Good is what was there when it was last looked at: before the first step, or after ten."""
    monkeypatch.setattr("ribs.recon.run.CHECK_EVERY", 10)
    model = residual(Poisoned(good))
    method = ribs.QDrop(iterations=40, weight_lr=0.1)
    with pytest.warns(UserWarning, match=r"'1.1': its error became NaN or Inf by step .* last good rounding"):
        found = rebuilt(model, method=method)
    layer = found.model[1][1].first
    assert torch.equal(layer.weight_quantizer(layer.weight), layer.weight)
    nearest = torch.equal(layer.weight, layer.weight_quantizer(model[1][1].first.weight))
    assert nearest == (good == 0)
    assert torch.isfinite(torch.tensor(found.loss))


class DetachedBlock(Poison):
    def forward(self, x):
        return super().forward(x).detach()


def test_a_piece_without_gradients_is_named():
    model = residual(nn.Identity())
    model[1][1] = DetachedBlock(nn.Identity())
    with pytest.raises(ValueError, match=r"\[reconstruct\] '1.1': its output has no gradient"):
        rebuilt(model.eval())


def test_shared_weights_are_rounded_to_nearest():
    model = residual(nn.Identity())
    model[1][0].second.weight = model[1][0].first.weight
    with pytest.warns(UserWarning, match=r"weights of '1.0.(first|second)' are rounded to nearest: .* shared") as said:
        found = rebuilt(model)
    assert len(said) == 2
    assert torch.equal(found.model[1][0].first.weight, model[1][0].first.weight)


@torch.no_grad()
def test_a_reconstructed_result_is_saved_as_it_is(quantized, tmp_path):
    done = rebuilt(quantized, None)
    done.save(tmp_path / "done")
    loaded = ribs.load(tmp_path / "done", network())
    assert all(torch.equal(done.model(x), loaded.model(x)) for x in loader(2, 16))
    with pytest.raises(ValueError, match="saved and loaded, and its float weights are gone"):
        rebuilt(loaded, None)


def test_refuses(quantized):
    done = rebuilt(quantized, None)
    cases = [
        (done, {}, "was reconstructed before, .* its float weights are gone"),
        (quantized, {"bits": 4}, "bits are those of the result"),
        (network(), {}, "a float model needs bits"),
        (quantized, {"method": "gptq"}, "method='gptq' is not supported; give one of"),
        (quantized, {"method": ribs.QDrop(), "iterations": 3}, "iterations are those of the method given"),
        (quantized, {"iterations": 0}, "iterations=0 is not supported"),
        (quantized, {"store_mib": 0}, "store_mib=0 is not supported"),
    ]
    for model, options, message in cases:
        with pytest.raises(ValueError, match=r"\[reconstruct\] .*" + message):
            ribs.reconstruct(model, loader(), progress=False, **options)


def test_copies_of_the_result_work(quantized):
    found = rebuilt(quantized, None)
    x = loader(1)[0]
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(found.model)(x), found.model(x))


class Encoder(nn.Module):
    """Layers with a fast path, which torch takes where it sees no gradients, and which hides their products."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.encoder(x.view(-1, 8, 8)).mean(1))


class InPlace(Poison):
    def forward(self, x):
        return torch.relu_(super().forward(torch.relu_(x)))


def in_place():
    return nn.Sequential(nn.Flatten(), nn.Sequential(InPlace(nn.Identity()), InPlace(nn.Identity())), nn.Linear(64, 5))


@pytest.mark.filterwarnings("ignore:.*in_proj_weight_linear0' are rounded to nearest")
@pytest.mark.parametrize("build", [Encoder, in_place], ids=["encoder", "in_place"])
@pytest.mark.parametrize(
    "method", [ribs.BRECQ(iterations=10, weight_lr=0.1, fisher=True), QUICK], ids=["brecq", "qdrop"]
)
def test_blocks_of_other_kinds(build, method):
    model = build().eval()
    before = state(model)
    found = rebuilt(model, method=method)
    learned = [layer for layer in quantized_layers(found.model) if layer.rounded]
    assert len(learned) == (7 if build is Encoder else 5)
    nearest = ribs.quantize(model, loader(6, 16), (2, 4), progress=False)
    assert not same(state(found.model), state(nearest.model)) and same(state(model), before)
