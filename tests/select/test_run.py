"""The whole search on small networks: its promises, and what bad input does."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import ribs


def network(seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 16), nn.ReLU(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


LOADER = [(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), None) for seed in range(3)]
UNITS = ("0", "3", "6", "8")


def search(model=None, loader=LOADER, budget=None, **options):
    options = {"bits": (2, 4, 8), "iterations": 3, "progress": False} | options
    budget = budget or ribs.Budget(bops="4/4")
    return ribs.search(
        model or network(), [batch[0] for batch in loader] if loader is LOADER else loader, budget, **options
    )


def state(model: nn.Module) -> dict[str, object]:
    """Everything a search could leave behind on the caller's model, and the global random state."""
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "modules": [
            (name, id(module), module.training, sorted(module.__dict__)) for name, module in model.named_modules()
        ],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
        "random": torch.get_rng_state(),
    }


def assert_same(model: nn.Module, before: dict[str, object]) -> None:
    after = state(model)
    for name, value in before["tensors"].items():
        assert value.numpy().tobytes() == after["tensors"][name].numpy().tobytes(), name
    assert torch.equal(before.pop("random"), after.pop("random"))
    assert {k: v for k, v in before.items() if k != "tensors"} == {k: v for k, v in after.items() if k != "tensors"}


def test_result_is_what_it_says():
    model = network()
    result = search(model, algorithm="paper")
    assert tuple(result.bits) == UNITS == result.costs.units
    assert result.bops == result.costs.bops(result.bits) <= result.limits["bops"] == result.costs.bops(4)
    assert result.size_mib == result.costs.size_mib(result.bits)
    assert len(result.history) == 3
    assert [len(record.selected) for record in result.history] == [4, 2, 2]
    assert result.loss <= min(record.loss for record in result.history)
    again = ribs.quantize(model, [batch[0] for batch in LOADER], result.bits, progress=False)
    assert again.loss == pytest.approx(result.loss, rel=1e-12)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.model(x), result.model(x))
    for name in UNITS:
        assert name in result.summary()


def test_loss_is_the_kl_divergence_of_the_returned_model():
    model = network()
    result = search(model)
    x = torch.cat([batch[0] for batch in LOADER])
    with torch.no_grad():
        p, q = model(x).double().log_softmax(1), result.model(x).double().log_softmax(1)
    assert result.loss == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-4)


def test_first_profile_against_quantizing_one_unit_at_a_time():
    """dL[i, k] of the first iteration, each measured by a network quantized from scratch."""
    result = search(iterations=1, algorithm="paper")
    loader = [batch[0] for batch in LOADER]
    start = ribs.quantize(network(), loader, 8, progress=False).loss
    for unit, bits in itertools.product(UNITS, (2, 4, 8)):
        alone = ribs.quantize(network(), loader, {**dict.fromkeys(UNITS, 8), unit: bits}, progress=False).loss
        assert result.history[0].delta_loss[unit][(bits, bits)] == pytest.approx(alone - start, abs=1e-9)


def test_best_of_all_configurations_is_not_beaten():
    """Brute force over 81 configurations bounds the search from below, and the search comes close."""
    loader = [batch[0] for batch in LOADER]
    budget = ribs.Budget(bops="4/4", size="4/4")
    table = ribs.count(network(), loader[0])
    losses = {}
    for bits in itertools.product((2, 4, 8), repeat=4):
        configuration = dict(zip(UNITS, bits, strict=True))
        if table.bops(configuration) <= table.bops(4) and table.weight_bits(configuration) <= table.weight_bits(4):
            losses[bits] = ribs.quantize(network(), loader, configuration, progress=False).loss
    result = search(budget=budget, iterations=6)
    assert tuple(pair[0] for pair in result.bits.values()) in losses
    best = min(losses.values())
    assert best <= result.loss + 1e-12
    assert result.loss <= 1.2 * best


@pytest.mark.parametrize("seed", range(5))
def test_every_iteration_keeps_both_budgets(seed):
    budget = ribs.Budget(bops="3/3", size="4/4")
    result = search(network(seed), budget=budget, bits=range(2, 9), update_size=1, iterations=5, seed=seed)
    for record in [result, *result.history]:
        assert record.bops <= result.limits["bops"]
        assert result.costs.weight_bits(record.bits) <= result.limits["size"]


def test_same_seed_same_result():
    first, second = search(seed=3, iterations=5), search(seed=3, iterations=5)
    assert first.bits == second.bits
    assert [record.loss for record in first.history] == [record.loss for record in second.history]


def test_pins_and_fixed_activation_bits():
    result = search(pins={"first": (8, 4), "6": 32, "last": 3}, activation_bits=6, budget=ribs.Budget(size=1.0))
    assert result.bits["0"] == (8, 4)
    assert result.bits["6"] == (32, 32)
    assert result.bits["8"] == (3, 3)
    assert result.bits["3"] == (8, 6)


def test_layouts_and_float_bits():
    strided = [batch[0].to(memory_format=torch.channels_last)[:, :, ::1].expand(16, 1, 8, 8) for batch in LOADER]
    assert search(loader=strided).loss == pytest.approx(search().loss, rel=1e-5)
    assert ribs.quantize(network(), strided, 32, progress=False).loss == 0.0


def test_own_loss():
    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 8)

        def forward(self, x):
            return {"embedding": self.layer(x.flatten(1))}

    def squared(reference, output):
        return (reference["embedding"] - output["embedding"]).square().sum(1)

    result = search(Embedding().eval(), loss=squared)
    assert 0 < result.loss < 1
    with pytest.raises(TypeError, match=r"output is dict.*pass loss="):
        search(Embedding().eval())


class Fails(nn.Module):
    """Raises at its n-th call."""

    def __init__(self, at: int, error: type[BaseException]):
        super().__init__()
        self.calls, self.at, self.error = [0], at, error  # a list, which copies share no more than tensors

    def forward(self, x):
        self.calls[0] += 1
        if self.calls[0] == self.at:
            raise self.error("as asked")
        return x


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 13, 21, 34])
def test_model_is_unchanged_after_an_exception_at_any_call(error, at):
    model = nn.Sequential(*network(), Fails(at, error)).eval()
    before = state(model)
    with pytest.raises(error, match="as asked"):
        search(model)
    assert model[-1].calls == [0]
    assert_same(model, before)


def test_model_is_unchanged_after_a_search():
    model = network()
    x = torch.randn(4, 1, 8, 8)
    before, output = state(model), model(x)
    search(model)
    assert_same(model, before)
    assert torch.equal(model(x), output)


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        Counting.calls += 1
        return x


def with_nan_weight() -> nn.Module:
    model = network()
    model[3].weight.data[0, 0, 0, 0] = torch.nan
    return model


def silent() -> nn.Module:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(64, 5), nn.Linear(64, 5)

        def forward(self, x):
            return self.used(x.flatten(1))

    return Model().eval()


GOOD = [batch[0] for batch in LOADER]
BAD = {
    "empty loader": (network(), [], {}, ValueError, "no samples"),
    "batches of text": (network(), ["text"], {}, TypeError, "batch of type str"),
    "nan input": (network(), [torch.full((2, 1, 8, 8), torch.nan)], {}, ValueError, "holds NaN or Inf"),
    "training mode": (network().train(), GOOD, {}, ValueError, "training mode"),
    "nothing to quantize": (nn.Sequential(nn.ReLU()).eval(), GOOD, {}, ValueError, "nothing to quantize"),
    "silent layer": (silent(), GOOD, {}, ValueError, "unused: never ran"),
    "nan weight": (with_nan_weight(), GOOD, {}, ValueError, "its weight holds NaN"),
    "half": (network().half(), GOOD, {}, ValueError, "torch.float16"),
    "no bits": (network(), GOOD, {"bits": ()}, ValueError, "bits is empty"),
    "bits 9": (network(), GOOD, {"bits": (2, 9)}, ValueError, "bits=9 is not supported"),
    "bits 0": (network(), GOOD, {"bits": (0,)}, ValueError, "bits=0 is not supported"),
    "activation bits": (network(), GOOD, {"activation_bits": 16}, ValueError, "activation_bits=16 is not supported"),
    "unknown pin": (network(), GOOD, {"pins": {"conv9": 8}}, ValueError, "pin 'conv9' names no unit"),
    "pin of 12 bits": (network(), GOOD, {"pins": {"0": 12}}, ValueError, "bits=12 is not allowed"),
    "units": (network(), GOOD, {"units": "channel"}, ValueError, "units='channel' is not supported"),
    "iterations": (network(), GOOD, {"iterations": 0}, ValueError, "iterations=0"),
    "update size": (network(), GOOD, {"update_size": 0}, ValueError, "update_size=0"),
    "samples": (network(), GOOD, {"calibration_samples": 0}, ValueError, "calibration_samples=0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_at_once_and_changes_nothing(case):
    model, loader, options, error, message = BAD[case]
    before = state(model)
    with pytest.raises(error, match=message):
        search(copy.copy(model), loader, **options)
    assert_same(model, before)


@pytest.mark.parametrize(
    ("budget", "pins", "least", "named"),
    [
        (lambda t: ribs.Budget(bops=t.bops(2) - 1), {}, lambda t: f"{t.bops(2):,} BOPs", "bops"),
        (lambda t: ribs.Budget(size=1e-6), {}, lambda t: f"({t.weight_bits(2):,} bits)", "size"),
        (lambda t: ribs.Budget(bops="2/2"), {"last": 8}, lambda t: "8=8/8", "Pins that keep it from the budget"),
    ],
    ids=["bops", "size", "pins"],
)
def test_budget_out_of_reach(budget, pins, least, named):
    model = network()
    model.append(Counting().eval())
    Counting.calls = 0
    table = ribs.count(network(), LOADER[0][0])
    with pytest.raises(ribs.InfeasibleBudgetError) as caught:
        search(model, budget=budget(table), pins=pins)
    assert least(table) in str(caught.value)
    assert named in str(caught.value)
    assert Counting.calls <= 1, "only the trace may have run"


def test_the_least_reachable_budget_is_reached_exactly():
    table = ribs.count(network(), LOADER[0][0])
    result = search(budget=ribs.Budget(bops=table.bops(2)))
    assert result.bits == dict.fromkeys(UNITS, (2, 2))


class Poison(nn.Module):
    """Turns its input to NaN when a value that only 2-bit weights give appears."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.register_buffer("kept", layer.weight.detach().clone())
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        exact = (x[:, None] * self.kept).sum(-1) + self.layer.bias
        wrong = (y - exact).abs().amax(1, keepdim=True) > 0.5 * exact.std(1, keepdim=True)
        return torch.where(wrong, torch.nan, y)


@pytest.mark.parametrize("algorithm", ["paper", "adaptive"])
def test_candidates_of_non_finite_loss_are_left_out_and_named(algorithm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), Poison(nn.Linear(16, 5))).eval()
    with pytest.warns(RuntimeWarning, match=r"unit '3.layer' has a loss of NaN or Inf at \[\(2, 2\)\]; left out"):
        result = search(model, iterations=1, budget=ribs.Budget(bops="8/8"), algorithm=algorithm)
    assert result.bits["3.layer"] != (2, 2)
    assert np.isfinite(result.loss)


def test_bars_and_forecast(capsys):
    search(progress=True, algorithm="paper")
    shown = capsys.readouterr().err
    assert "4 units, 3 iterations, about 20 losses on 48 samples" in shown
    assert "loss" in shown
