"""The adaptive search over losses given as tables, against enumeration and against Algorithm 1."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from made_up import PAIRS, Network
from ribs.select import adaptive
from ribs.select.adaptive import LEAST_STEP, PROPOSALS, Adaptive
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.race import Race
from ribs.select.search import repeated_ilp
from ribs.select.surrogate import LossModel


@pytest.mark.parametrize("dimensions", [100, 3])
def test_it_ends_near_the_optimum(dimensions):
    """Within one percent of the least loss on at least 95 % of problems of 3125 configurations."""
    near = []
    for seed, width in itertools.product(range(4), (3, 4)):
        network = Network(seed, dimensions=dimensions, luck=0.0)
        limit = network.limit(width)
        trace = network.search(limit, iterations=20)
        assert network.cost(trace.best_choice) <= limit[0]
        assert trace.best_loss == pytest.approx(network.loss(trace.best_choice))
        near.append(trace.best_loss <= 1.01 * network.optimum(limit))
    assert np.mean(near) >= 0.95


@pytest.mark.parametrize("dimensions", [20, 3])
def test_it_is_not_behind_algorithm_1_with_as_many_losses(dimensions):
    ratios = []
    for seed in range(4):
        network = Network(seed, units=10, dimensions=dimensions)
        limit = network.limit(3)
        options = {"measure": network.measure, "shards": network.samples, "seed": seed}
        paper = repeated_ilp((4,) * 10, network.costs, limit, update_sizes=[10] + [5] * 3, **options)
        iterations = int(paper.evaluations - 22) // PROPOSALS
        trace = network.search(limit, iterations=iterations, seed=seed)
        assert trace.evaluations <= paper.evaluations
        ratios.append(math.log(trace.best_loss / paper.best_loss))
    assert np.mean(ratios) < 0


def test_every_configuration_found_is_within_all_budgets():
    for seed in range(2):
        network = Network(seed)
        network.costs = [[(*cost, 8 - w) for cost, (w, _) in zip(row, PAIRS, strict=True)] for row in network.costs]
        limits = [network.limit(4)[0], 21]
        trace = network.search(limits)
        assert trace.iterations
        for iteration in trace.iterations:
            assert all(cost <= limit for cost, limit in zip(iteration.costs, limits, strict=True))
        assert all(cost <= limit for cost, limit in zip(trace.best_costs, limits, strict=True))


def test_it_starts_where_equal_units_would_be_best_and_looks_at_the_neighbours():
    network = Network(0, units=3)
    network.macs = np.array([1, 1, 1])
    network.costs = [[(w * a,) for w, a in PAIRS]] * 3
    network.search([48], iterations=1)
    first = [choice for choice, shard in network.asked if shard == 0]
    assert first[0] == (2, 2, 2)
    assert set(first[1:7]) == {(1, 2, 2), (3, 2, 2), (2, 1, 2), (2, 3, 2), (2, 2, 1), (2, 2, 3)}


def test_neighbours_of_pairs_that_come_apart_change_one_of_the_two():
    bits = [(w, a) for w in (2, 4, 8) for a in (2, 4, 8)]
    network = Network(0, units=1, bits=bits)
    network.search([16], iterations=1)
    first = [choice for choice, shard in network.asked if shard == 0]
    assert {bits[c[0]] for c in first[:5]} == {(4, 4), (2, 4), (8, 4), (4, 2), (4, 8)}


def test_the_seed_decides_and_nothing_else():
    def told(seed):
        network = Network(3, units=8)
        trace = network.search(network.limit(3), seed=seed)
        return repr(trace), network.asked

    first = told(1)
    assert first == told(1)
    assert first[1] != told(2)[1]


def test_known_losses_are_not_measured_again():
    network = Network(1, units=6)
    asked = []

    def measure(choices, shard):
        asked.extend((choice, shard) for choice in choices[1:])
        return network.measure(choices, shard)

    network.search(network.limit(3), measure=measure)
    assert len(asked) == len(set(asked))


def test_a_reference_is_only_left_for_a_better_one_and_the_error_of_each_step_is_told():
    network = Network(2, units=8)
    seen = []
    trace = network.search(network.limit(3), on_iteration=seen.append)
    assert tuple(seen) == trace.iterations
    references = [tuple((iteration.deltas == 0).argmax(axis=1).tolist()) for iteration in trace.iterations]
    losses = [network.loss(reference) for reference in references]
    assert len(set(references)) > 1
    for before, after, iteration in zip(references, references[1:], trace.iterations, strict=False):
        better = iteration.loss < network.loss(before)
        assert after == (iteration.choice if better else before)
        assert iteration.interaction_error == iteration.loss - iteration.predicted
    assert losses == sorted(losses, reverse=True)


def test_update_size_limits_the_first_step():
    network = Network(5, units=12)
    trace = network.search(network.limit(3), iterations=1, update_size=2)
    [start] = [choice for choice, shard in network.asked[:1]]
    assert sum(a != b for a, b in zip(start, trace.iterations[0].choice, strict=True)) <= 2


def test_disallowed_candidates_are_neither_chosen_nor_measured():
    network = Network(4)
    allowed = np.ones((5, 5), dtype=bool)
    allowed[1, 2] = allowed[3, :4] = False
    network.search(network.limit(6), allowed=allowed)
    assert all(allowed[i, k] for choice, _ in network.asked for i, k in enumerate(choice))


def test_candidates_of_non_finite_loss_are_excluded():
    network = Network(4, luck=0.0)
    network.bad = {(0, 1), (2, 0), (2, 1)}
    limit = network.limit(3)
    trace = network.search(limit, iterations=20)
    assert trace.best_loss <= 1.01 * network.optimum(limit)


def test_a_start_of_non_finite_loss_is_left_for_another():
    network = Network(0, units=3, luck=0.0)
    network.macs, network.costs = np.array([1, 1, 1]), [[(w * a,) for w, a in PAIRS]] * 3
    network.bad = {(1, 2)}  # the start is (2, 2, 2)
    trace = network.search([48])
    assert trace.best_loss <= 1.01 * network.optimum([48])


def test_a_loss_that_is_never_finite_raises():
    network = Network(0)
    network.bad = {(0, k) for k in range(5)}
    with pytest.raises(FloatingPointError, match="loss of the start"):
        network.search(network.limit(3))


def test_an_impossible_budget_raises_before_anything_is_measured():
    network = Network(0)
    with pytest.raises(InfeasibleBudgetError):
        network.search([1])
    assert not network.asked


@pytest.mark.parametrize("after", range(1, 30, 4))
def test_stopped_at_any_time_it_returns_the_best_on_all_samples(after):
    network = Network(6, units=12, samples=(3, 3, 3))
    times = itertools.count()
    trace = network.search(network.limit(3), stop=lambda: next(times) >= after)
    assert trace.stopped
    assert trace.best_loss == pytest.approx(network.loss(trace.best_choice))
    assert network.cost(trace.best_choice) <= network.limit(3)[0]


def test_a_race_stopped_at_any_time_returns_the_best_it_knew():
    shards = (8,) * 16
    for after in range(1, 100, 3):
        network, times = Network(6, units=12, samples=shards), itertools.count()
        options = {"shards": shards, "race": Race(), "iterations": 40}
        trace = network.search(network.limit(3), stop=lambda limit=after, times=times: next(times) >= limit, **options)
        # All samples have the same loss.
        known = [trace.start_loss, *(iteration.loss for iteration in trace.iterations)]
        assert trace.best_loss <= min(known) * (1 + 1e-12)


def test_what_is_measured_is_agreed():
    network = Network(6)
    agreed = []

    def agree(choices):
        agreed.extend(choices)
        return choices

    trace = network.search(network.limit(3), agree=agree)
    assert {iteration.choice for iteration in trace.iterations} <= set(agreed)


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

    def __init__(self, monkeypatch, seed):
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
            network.limit(3), measure=measure, shards=self.shards, race=Race(), iterations=40, seed=seed
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
        assert len(differences) % 32 == 0
        assert behind == (differences.mean() > 1.5 * error_of(differences))
        if behind and partly:
            left.add(choice)
    assert 0 < len(left) < len({choice for choice, *_ in race.looks})
    assert race.trace.best_choice not in left


def test_configurations_of_a_race_begin_on_other_samples_each_time(monkeypatch):
    """First on those that chose none of what is there, then on the ones after these."""
    race = NoisyRace(monkeypatch, 0)
    begins = [shard for shard, _ in itertools.groupby(shard for _, shard in race.firsts)]
    counts = (4, 8, 16, 32, 64)
    stage, expected = 0, 0
    for begin in begins:
        if begin != expected:
            stage += 1
            assert begin == counts[stage - 1]  # the first that the round adds
        expected = (begin + 4) % counts[stage]
    assert stage == 4


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
            if broken(places.setdefault(choice, len(places)), shard) and shard >= 6:
                own[3] = np.nan
        return losses

    trace = network.search(network.limit(3), measure=measure, shards=shards, race=Race(), iterations=40)
    assert not broken(places[trace.best_choice], 6)
    assert trace.best_loss == pytest.approx(network.loss(trace.best_choice))


@pytest.mark.parametrize(("seed", "units", "last"), [(7, 8, 4), (2, 20, 10)])
def test_a_race_ends_where_nothing_better_is_found_for_a_while(monkeypatch, seed, units, last):
    monkeypatch.setattr(adaptive, "ENOUGH", -1.0)  # so that it never ends for what the model expects
    shards = (8,) * 8
    network = Network(seed, units=units, samples=shards)
    race = network.search(network.limit(3), iterations=40, shards=shards, race=Race())
    # All samples have the same loss: on more of them nothing else is better than what was found on few.
    assert [iteration.samples.max() for iteration in race.iterations[-last - 1 :]] == [32, *[64] * last]


def test_the_estimates_of_an_iteration_are_about_the_reference():
    network = Network(8, units=6)
    trace = network.search(network.limit(3), iterations=3)
    for iteration in trace.iterations:
        assert iteration.deltas.shape == iteration.standard_errors.shape == (6, 5)
        zeros = iteration.deltas == 0
        assert (zeros.sum(axis=1) >= 1).all()
        assert (iteration.standard_errors[zeros] == 0).all()
        assert (iteration.samples <= 8).all()


def test_it_ends_early_where_the_model_expects_nothing_more():
    network = Network(0, dimensions=100, luck=0.0)
    limit = network.limit(3)
    trace = network.search(limit, iterations=40)
    assert len(trace.iterations) < 12
    assert trace.best_loss == pytest.approx(network.optimum(limit))


def test_units_take_what_was_measured_or_what_is_next_to_it():
    network = Network(0, units=12)
    seen = []

    def measure(choices, shard):
        seen.extend(choice for choice in choices if choice not in seen)
        return network.measure(choices, shard)

    network.search(network.limit(3), measure=measure, iterations=6)
    first = 1 + sum((k > 0) + (k < 4) for k in seen[0])
    far = 0
    for begin in range(first, len(seen), PROPOSALS):
        known = [{choice[unit] for choice in seen[:begin]} for unit in range(12)]
        for unit, k in itertools.chain.from_iterable(map(enumerate, seen[begin : begin + PROPOSALS])):
            assert min(abs(k - other) for other in known[unit]) <= 1
            far += k not in known[unit]
    assert far  # what is next to it is taken


def test_a_gain_from_fewer_bits_is_not_taken_for_more_to_come():
    """Where the errors of units at 3 bits cancel, a model of noise alone would try 2 bits in all of them."""
    tried = np.zeros(2)
    for seed in range(4):
        network = Network(seed, units=8, dimensions=100, luck=0.0)

        def measure(choices, shard, network=network):
            losses = network.measure(choices, shard)
            return [own * 0.9 ** choice.count(1) for own, choice in zip(losses, choices, strict=True)]

        network.search(network.limit(4), measure=measure, iterations=2)
        proposed = list(dict.fromkeys(choice for choice, _ in network.asked))[1 + 2 * 8 :]
        tried += np.sum([(choice.count(0) > 0, 1) for choice in proposed], axis=0)
    assert tried[0] < 0.25 * tried[1]


def test_m_shrinks_with_steps_that_turn_out_badly():
    network = Network(0, units=12)
    start = []

    def measure(choices, shard):
        """Whatever changes more than one unit of the start is far worse than it."""
        start[:] = start or choices[:1]
        changes = [sum(a != b for a, b in zip(choice, start[0], strict=True)) for choice in choices]
        losses = network.measure(choices, shard)
        return [loss + 100.0 * (many > 1) for loss, many in zip(losses, changes, strict=True)]

    trace = network.search(network.limit(3), measure=measure, iterations=4)
    reference = tuple((trace.iterations[0].deltas == 0).argmax(axis=1).tolist())
    proposed = list(dict.fromkeys(choice for choice, shard in network.asked))[-4 * PROPOSALS :]
    changes = [sum(a != b for a, b in zip(choice, reference, strict=True)) for choice in proposed]
    assert max(changes[:PROPOSALS]) > LEAST_STEP
    assert max(changes[-PROPOSALS:]) <= LEAST_STEP
