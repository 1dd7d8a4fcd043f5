"""Races of the adaptive search: what is measured on which samples, what leaves, and what the model is told of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from made_up import Network
from ribs.select import adaptive
from ribs.select.adaptive import Adaptive
from ribs.select.race import Race
from ribs.select.sampling import Sampling
from ribs.select.surrogate import LossModel


def test_a_race_stopped_at_any_time_returns_the_best_it_knew():
    shards = (8,) * 16
    for after in range(1, 100, 3):
        network, times = Network(6, units=12, samples=shards), itertools.count()
        options = {"shards": shards, "race": Race(), "iterations": 40}
        trace = network.search(network.limit(3), stop=lambda limit=after, times=times: next(times) >= limit, **options)
        # All samples have the same loss.
        known = [trace.start_loss, *(iteration.loss for iteration in trace.iterations)]
        assert trace.best_loss <= min(known) * (1 + 1e-12)


def test_a_race_needs_less_and_ends_on_all_samples():
    shards = (8,) * 64
    network = Network(7, units=8, samples=shards)
    rng = np.random.default_rng(0)
    hardness = rng.gamma(1.0, size=sum(shards))

    def measure(choices, shard):
        return [network.loss(choice) * hardness[8 * shard : 8 * shard + 8] for choice in choices]

    limit = network.limit(3)
    full = network.search(limit, iterations=12, measure=measure, shards=shards)
    race = network.search(limit, iterations=12, measure=measure, shards=shards, race=Race())
    assert race.evaluations < full.evaluations / 3
    assert race.best_loss == pytest.approx(network.loss(race.best_choice) * hardness.mean())
    assert race.best_loss <= 1.05 * full.best_loss


class NoisyRace:
    """A race over losses with noise of each sample: what was known when, and what was made of it."""

    def __init__(self, monkeypatch, seed, sizes=None):
        self.shards, self.known = (8,) * 64, {}
        self.firsts, self.looks, self.fits = [], [], []  # (choice, shard), what was said of a choice, arguments
        network, behind, fit = Network(seed, units=8), Adaptive.behind, LossModel.fit

        def measure(choices, shard):
            for choice in choices:
                if choice not in self.known:
                    self.firsts.append((choice, shard))
                noise = np.random.default_rng([seed, shard, *choice]).normal(size=8)
                self.known.setdefault(choice, {})[shard] = network.loss(choice) * (1.0 + noise)
            return [self.known[choice][shard] for choice in choices]

        def look(search, choice, reference):
            differences = self.differences(choice, reference)
            partly = len(self.known[choice]) < len(self.known[reference])
            self.looks.append((choice, behind(search, choice, reference), differences, partly))
            return self.looks[-1][1]

        def told(model, choices, losses, errors):
            known = {choice: dict(shards) for choice, shards in self.known.items()}
            self.fits.append((known, choices, losses, errors))
            fit(model, choices, losses, errors)

        monkeypatch.setattr(Adaptive, "behind", look)
        monkeypatch.setattr(LossModel, "fit", told)
        self.trace = network.search(
            network.limit(3), measure=measure, shards=self.shards, race=Race(), iterations=40, seed=seed, sizes=sizes
        )

    def differences(self, choice, other, known=None):
        ours, others = ((known or self.known)[each] for each in (choice, other))
        return np.concatenate([ours[shard] - others[shard] for shard in sorted(ours.keys() & others.keys())])


def error_of(differences):
    return differences.std(ddof=1) / math.sqrt(len(differences))


@pytest.mark.parametrize("seed", range(2))
def test_what_falls_behind_the_reference_leaves_a_race(monkeypatch, seed):
    race = NoisyRace(monkeypatch, seed)
    left = set()
    for choice, behind, differences, partly in race.looks:
        assert choice not in left
        assert len(differences) in (32, 64, 128, 256, 512)
        assert behind == (differences.mean() > 1.5 * error_of(differences) * math.sqrt(1 - len(differences) / 512))
        if behind and partly:
            left.add(choice)
    assert 0 < len(left) < len({choice for choice, *_ in race.looks})
    assert race.trace.best_choice not in left


def test_configurations_are_measured_from_the_first_sample_on(monkeypatch):
    race = NoisyRace(monkeypatch, 0)
    assert {shard for _, shard in race.firsts} == {0}
    assert all(sorted(shards) == list(range(len(shards))) for shards in race.known.values())
    assert {len(shards) for shards in race.known.values()} <= {4, 8, 16, 32, 64}


def test_samples_of_other_sizes_weigh_in_what_is_behind_and_what_is_fitted(monkeypatch):
    """A race over samples of which some matter more, each compared with what `Sampling` tells of all."""
    sizes = np.random.default_rng(0).lognormal(size=512)
    sampling, race = Sampling(sizes), NoisyRace(monkeypatch, 0, sizes=sizes)
    for _, behind, differences, _ in race.looks:
        assert behind == (sampling.mean(differences) > 1.5 * sampling.error_left(differences))
    for known, choices, losses, errors in race.fits:
        present, *others = choices
        assert losses[0] == pytest.approx(sampling.mean(np.concatenate(list(known[present].values()))))
        for choice, error in zip(others, errors[1:], strict=True):
            if len(known[choice]) < len(known[present]):
                # No reference tells less of it than the present one.
                assert error <= sampling.error_left(race.differences(choice, present, known)) * (1 + 1e-9)
    assert race.trace.best_loss == np.mean(list(race.known[race.trace.best_choice].values()))


@pytest.mark.parametrize("seed", range(2))
def test_what_left_a_race_is_compared_with_the_reference_that_tells_most_of_it(monkeypatch, seed):
    race = NoisyRace(monkeypatch, seed)
    references, against = [race.firsts[0][0]], set()
    for known, choices, losses, errors in race.fits:
        present = choices[0]
        references.append(present)
        total = np.mean([known[present][shard] for shard in known[present]])
        whole = [other for other in references if known[other].keys() == known[present].keys()]
        for choice, loss, error in zip(choices, losses, errors, strict=True):
            if known[choice].keys() == known[present].keys():
                differences, other = race.differences(choice, present, known), present
            else:
                all_differences = {other: race.differences(choice, other, known) for other in whole}
                other = min(whole, key=lambda each: error_of(all_differences[each]))
                differences = all_differences[other]
                against.add(other != present)
            offset = race.differences(other, present, known).mean()
            assert loss == pytest.approx(total + offset + differences.mean())
            assert error == pytest.approx(error_of(differences) * math.sqrt(1 - len(differences) / 512), abs=1e-12)
    assert against == {False, True}


@pytest.mark.parametrize("broken", [lambda place, shard: place == 0, lambda place, shard: place % 3 == 0])
def test_a_race_goes_on_when_a_loss_is_not_finite_on_later_samples(broken):
    """Of the start, or of a third of all configurations."""
    shards, places = (8,) * 32, {}
    network = Network(3, units=8)

    def measure(choices, shard):
        losses = [network.loss(choice) * np.linspace(0.5, 1.5, 8) for choice in choices]
        for choice, own in zip(choices, losses, strict=True):
            if broken(places.setdefault(choice, len(places)), shard) and shard >= 20:
                own[3] = np.nan
        return losses

    trace = network.search(network.limit(3), measure=measure, shards=shards, race=Race(), iterations=40)
    assert not broken(places[trace.best_choice], 20)
    assert trace.best_loss == pytest.approx(network.loss(trace.best_choice))


@pytest.mark.parametrize(("seed", "units", "last"), [(7, 8, 8), (1, 12, 8), (2, 40, 20)])
def test_a_race_ends_where_nothing_better_is_found_for_a_while(monkeypatch, seed, units, last):
    monkeypatch.setattr(adaptive, "ENOUGH", -1.0)  # so that it never ends for what the model expects
    shards = (8,) * 32
    network = Network(seed, units=units, samples=shards)
    race = network.search(network.limit(3), iterations=400, shards=shards, race=Race())
    # All samples have the same loss, and a configuration is the same on all of them.
    losses, samples = ([getattr(each, name) for each in race.iterations] for name in ("loss", "samples"))
    best = [min(losses[:end]) for end in range(1, len(losses) + 1)]
    on_all = [each.max() == 256 for each in samples]
    first = on_all.index(True)
    improved = [i for i in range(1, len(best)) if best[i] < best[i - 1]]
    assert len(losses) - 1 - max([first - 1, *improved]) == last
    # On the first 128 it went on twice as long, at each of two starts.
    assert first - 1 - max(i for i in improved if i < first) >= 16


@pytest.mark.parametrize("seed", range(4))
def test_a_race_descends_again_from_what_is_unlike_the_best(monkeypatch, seed):
    shards, descents = (8,) * 32, []
    network, descend = Network(seed, units=12, samples=shards), Adaptive.descend

    def watched(search, start, size):
        before, known = search.best(), dict.fromkeys(search.samples.choices)
        end = descend(search, start, size)
        descents.append((start, before, known, search.best(), search.own))
        return end

    monkeypatch.setattr(Adaptive, "descend", watched)
    trace = network.search(network.limit(3), iterations=400, shards=shards, race=Race())
    first, second, last = descents
    assert first[0] is not None and last[0] is None

    def changes(choice):
        return sum(a != b for a, b in zip(choice, first[3], strict=True))

    within = [choice for choice in second[2] if network.cost(choice) <= network.limit(3)[0] and changes(choice) >= 3]
    # All samples have the same loss.
    assert second[0] == min(within, key=network.loss)
    # Meanwhile nothing of the first descent was the best, and in the end the better of both is.
    assert second[1] == second[0] and second[3] in second[4]
    assert network.loss(second[3]) <= network.loss(second[0])
    assert last[4] is None and network.loss(last[1]) <= min(network.loss(first[3]), network.loss(second[3])) + 1e-12
    assert network.loss(trace.best_choice) <= network.loss(last[1]) + 1e-12
