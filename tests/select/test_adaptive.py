"""The adaptive search over losses given as tables, against enumeration and against Algorithm 1."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from made_up import PAIRS, Network
from ribs.select.adaptive import LEAST_STEP, PROPOSALS
from ribs.select.errors import InfeasibleBudgetError
from ribs.select.search import repeated_ilp


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


def test_what_is_measured_is_agreed():
    network = Network(6)
    agreed = []

    def agree(choices):
        agreed.extend(choices)
        return choices

    trace = network.search(network.limit(3), agree=agree)
    assert {iteration.choice for iteration in trace.iterations} <= set(agreed)


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
