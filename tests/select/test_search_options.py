"""Racing, int8 execution, limits of time and memory, and what a search says of its cost."""

import itertools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import ribs
from ribs.select import measuring
from ribs.select.loss import kl_divergence
from small import content, counting, loader, network, search

MANY = loader(batches=12, samples=32)


def full_loss(bits, data):
    return ribs.quantize(network(), data, bits, units="layer", progress=False).loss


def test_standard_errors_are_those_of_the_samples():
    """Against every configuration quantized by itself, its losses taken sample by sample."""
    result = search(iterations=1, algorithm="paper")
    data = torch.cat(loader())

    def losses(bits):
        quantized = ribs.quantize(network(), loader(), bits, units="layer", progress=False).model
        with torch.no_grad():
            return kl_divergence(network()(data), quantized(data)).numpy()

    start = dict.fromkeys(result.bits, (8, 8))
    base = losses(start)
    for unit, bits in itertools.product(result.bits, (2, 4)):
        change = losses({**start, unit: bits}) - base
        record = result.history[0]
        assert record.delta_loss[unit][bits, bits] == pytest.approx(change.mean(), abs=1e-6)
        expected = change.std(ddof=1) / math.sqrt(len(change))
        assert record.delta_standard_error[unit][bits, bits] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert record.samples[unit][bits, bits] == len(change)
    best = losses(result.bits)
    assert result.standard_error == pytest.approx(best.std(ddof=1) / math.sqrt(len(best)), rel=1e-3)


def test_a_race_measures_less_and_loses_little():
    full, race = (search(data=MANY, bits=range(2, 9), profile=profile) for profile in ("full", "race"))
    assert race.cost_of_search.forward_equivalents < 0.6 * full.cost_of_search.forward_equivalents
    assert race.loss <= full.loss + full.standard_error
    assert race.loss == pytest.approx(full_loss(race.bits, MANY), rel=1e-5)
    assert race.bops <= race.limits["bops"]
    seen = [n for record in race.history for unit in record.samples.values() for n in unit.values()]
    assert min(n for n in seen if n) == 32


def test_a_race_goes_on_from_its_journal(tmp_path):
    calls = []
    expected = content(search(data=MANY, profile="race", loss=counting(calls)))
    with pytest.raises(KeyboardInterrupt):
        search(data=MANY, profile="race", journal=tmp_path, loss=counting([], stop_at=len(calls) // 2))
    assert content(search(data=MANY, profile="race", journal=tmp_path)) == expected


def test_int8_execution_says_how_far_it_is_off():
    try:
        result = search(execution="int8")
    except ValueError as error:
        assert "'int8' is not possible here" in str(error)
        pytest.skip(str(error))
    assert result.loss == pytest.approx(full_loss(result.bits, loader()), rel=1e-9), "the loss is that in float32"
    assert result.loss_as_searched == pytest.approx(result.loss, rel=0.05)
    if result.loss_as_searched != result.loss:
        assert " as searched: " in result.summary()
    x = loader()[0]
    again = ribs.quantize(network(), loader(), result.bits, units="layer", progress=False)
    with torch.no_grad():
        assert torch.equal(result.model(x), again.model(x)), "the model runs in float32"


@pytest.mark.parametrize("cache_mib", [0, 0.002, 0.01])
@pytest.mark.parametrize("profile", ["full", "race"])
def test_the_cache_does_not_change_the_result(cache_mib, profile):
    small, large = (search(profile=profile, cache_mib=mib) for mib in (cache_mib, 1024))
    assert small.bits == large.bits
    assert small.history == large.history
    assert small.cost_of_search.forward_equivalents >= large.cost_of_search.forward_equivalents


def test_a_search_out_of_time_gives_the_best_so_far(monkeypatch):
    """By a clock that goes on by a second whenever it is read: at the start, and then between two batches."""
    data, seconds = loader(batches=6), itertools.count()
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    result = search(data=data, bits=range(2, 9), iterations=50, max_seconds=8.5, algorithm="paper")
    assert result.stopped
    assert "out of time" in result.summary()
    seen = [{n for unit in record.samples.values() for n in unit.values()} for record in result.history]
    # Five readings between the six batches of the first iteration; the ninth is over.
    assert seen[0] == {48} and len(seen) == 2
    assert max(seen[1]) < 48
    assert result.bops <= result.limits["bops"]
    assert result.loss == pytest.approx(full_loss(result.bits, data), rel=1e-5)


def test_no_time_at_all_still_profiles_one_batch():
    result = search(data=loader(batches=6), iterations=50, max_seconds=0, algorithm="paper")
    assert result.stopped
    assert [set(unit.values()) for unit in result.history[0].samples.values()] == [{8}] * 3
    assert result.loss == pytest.approx(full_loss(result.bits, loader(batches=6)), rel=1e-5)


@pytest.mark.parametrize("iterations", [4, 40])
def test_a_race_takes_no_more_losses_than_was_said(capsys, iterations):
    measured = set()
    options = {"data": MANY, "bits": range(2, 9), "activation_bits": range(2, 9), "budget": "4/4", "profile": "race"}
    search(iterations=iterations, progress=True, on_probe=lambda probe: measured.add(str(probe.bits)), **options)
    said = int(re.search(r"at most (\d+) losses", capsys.readouterr().err)[1])
    # Two that order the samples, a start, four neighbours of each of three units at two starts, two in each iteration.
    assert said == 2 + 1 + 2 * 3 * 4 + 2 * iterations
    assert len(measured) <= said


def test_the_forecast_is_what_a_full_search_takes(capsys):
    """For a search whose every profile is around another reference, and nothing is known before it is asked for."""
    result = search(progress=True, iterations=1, algorithm="paper")
    shown = capsys.readouterr().err
    assert "3 units, 1 iterations, about 8 losses on 24 samples: about" in shown
    assert "took" in shown
    told = float(shown.split("samples: about ")[1].split(" ")[0])
    assert told == pytest.approx(result.cost_of_search.forward_equivalents, abs=1.0)


@pytest.mark.parametrize("activation_bits", [None, 8, (2, 4, 8)], ids=["tied", "fixed", "apart"])
@pytest.mark.parametrize("iterations", [1, 4])
def test_an_adaptive_search_takes_no_more_than_its_forecast(capsys, activation_bits, iterations):
    result = search(progress=True, iterations=iterations, activation_bits=activation_bits)
    told = float(capsys.readouterr().err.split("samples: at most ")[1].split(" ")[0])
    took = result.cost_of_search.forward_equivalents
    assert took <= told + 1.0  # the forecast is rounded
    # Not far less either, unless it ended early for want of anything new.
    assert took > 0.3 * told or len(result.history) < iterations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "fast"}, r"profile='fast' is not supported; give one of \('full', 'race'\)"),
        ({"execution": "fp8"}, r"execution='fp8' is not supported; give one of \('float32', 'int8'\)"),
        ({"max_seconds": -1}, "max_seconds=-1 is not allowed"),
        ({"max_seconds": math.nan}, "max_seconds=nan is not allowed"),
        ({"cache_mib": -0.5}, "cache_mib=-0.5 is not allowed"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_model_whose_samples_affect_one_another_is_not_run_side_by_side():
    """A step taken from the whole batch: candidates in one batch would see each other's."""

    class Dynamic(nn.Module):
        def forward(self, x):
            step = x.abs().max() / 7
            return (x / step).round() * step

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), Dynamic(), nn.Linear(16, 5)).eval()
    result = search(model, bits=range(2, 9), iterations=1, algorithm="paper")
    start = dict.fromkeys(result.bits, (8, 8))
    base = ribs.quantize(model, loader(), start, units="layer", progress=False).loss
    for bits in range(2, 8):
        alone = ribs.quantize(model, loader(), {**start, "1": bits}, units="layer", progress=False).loss
        assert result.history[0].delta_loss["1"][bits, bits] == pytest.approx(alone - base, abs=1e-9)
    assert np.isfinite(result.loss)


def test_in_int8_too_a_candidate_of_non_finite_loss_is_left_out():
    class Overflows(nn.Module):
        limit = 0.0

        def forward(self, x):
            return torch.where(x.abs().amax(1, keepdim=True) > self.limit, torch.nan, x)

    torch.manual_seed(0)
    body, overflows = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8)), Overflows()
    with torch.no_grad():
        overflows.limit = 1.02 * float(body(torch.cat(loader())).abs().max())
    model = nn.Sequential(*body, overflows, nn.Linear(8, 5)).eval()
    try:
        with pytest.warns(RuntimeWarning, match="NaN or Inf"):
            result = search(model, execution="int8", iterations=1, bits=range(1, 9), budget="8/8", algorithm="paper")
    except ValueError as error:
        assert "'int8' is not possible here" in str(error)
        pytest.skip(str(error))
    assert np.isfinite(result.loss)
