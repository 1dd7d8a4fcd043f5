"""Racing, over tables of the losses of single samples that add up over the units, against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ribs.select.race import Race, outlook
from ribs.select.sampling import Sampling
from ribs.select.search import repeated_ilp

SHARD, SHARDS = 8, 16
TOTAL = SHARD * SHARDS
UNITS, CANDIDATES = 5, 4
RACE = Race(first=16, tolerance=0.25)


class Table:
    """Losses of samples: base[s] + sum over units of parts[s, unit, candidate], plus `odd` entries.

    Counts the losses asked for, and fails when one that was returned before is asked for again for itself.
    """

    def __init__(self, parts, base=None, shard=SHARD):
        self.parts = parts
        self.base = np.full(len(parts), 10.0) if base is None else base
        self.shard = shard
        self.odd = {}
        self.calls = []
        self.known = set()

    def losses(self, choice):
        losses = self.base + self.parts[:, range(len(choice)), choice].sum(axis=1)
        for sample, value in self.odd.get(choice, {}).items():
            losses[sample] = value
        return losses

    def measure(self, choices, shard):
        leader, *others = choices
        assert all((choice, shard) not in self.known for choice in (others or [leader]))
        assert all(sum(a != b for a, b in zip(leader, choice, strict=True)) == 1 for choice in others)
        assert len(set(choices)) == len(choices)
        self.calls.append((choices, shard))
        self.known |= {(choice, shard) for choice in choices}
        return [self.losses(choice)[shard * self.shard : (shard + 1) * self.shard] for choice in choices]

    def search(self, costs, limits, sizes=(UNITS,), start=None, **options):
        units, candidates = self.parts.shape[1:]
        return repeated_ilp(
            start or (candidates - 1,) * units,
            costs,
            limits,
            measure=self.measure,
            shards=[self.shard] * (len(self.parts) // self.shard),
            update_sizes=list(sizes),
            **options,
        )

    def mean(self, choice):
        return self.losses(choice).mean()

    def best(self, costs, limits, over=mean):
        every = itertools.product(*[range(self.parts.shape[2])] * self.parts.shape[1])
        return min((c for c in every if np.all(total(costs, c) <= limits)), key=self.mean)


def total(costs, choice):
    return np.array(costs)[range(len(choice)), choice].sum(axis=0)


def problem(seed, noise=1.0, budgets=1, heavy=False, units=UNITS):
    """Losses that fall with cost, and limits halfway; `noise` is that of a sample, beside gaps of about 0.5."""
    rng = np.random.default_rng(seed)
    costs = np.sort(rng.integers(1, 1000, size=(units, CANDIDATES, budgets)), axis=1)
    values = -np.sort(rng.exponential(0.5, size=(units, CANDIDATES)), axis=1)
    draws = (
        rng.lognormal(sigma=1.5, size=(TOTAL, units, CANDIDATES))
        if heavy
        else rng.normal(size=(TOTAL, units, CANDIDATES))
    )
    limits = (costs.min(axis=1).sum(axis=0) + costs.max(axis=1).sum(axis=0)) // 2
    return Table(values + noise * draws), costs.tolist(), limits.tolist()


@pytest.mark.parametrize("budgets", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_without_noise_it_is_the_full_search_for_less(seed, budgets):
    full, costs, limits = problem(seed, noise=0.0, budgets=budgets)
    race = Table(full.parts)
    sizes = [UNITS, 2, 2]
    expected, found = full.search(costs, limits, sizes), race.search(costs, limits, sizes, race=RACE)
    assert [i.choice for i in found.iterations] == [i.choice for i in expected.iterations]
    assert found.best_choice == expected.best_choice == full.best(costs, limits)
    assert found.best_loss == expected.best_loss
    assert found.evaluations < (0.5, 0.6, 0.75)[budgets - 1] * expected.evaluations


@pytest.mark.parametrize("heavy", [False, True])
def test_regret_and_wrong_eliminations_are_as_stated(heavy):
    """Of the programs' solutions, against the best by the means over all samples; finals would only hide it."""
    regrets, work, out, wrong = [], [], 0, 0
    for seed in range(25):
        table, costs, limits = problem(seed, heavy=heavy)
        trace = table.search(costs, limits, race=RACE)
        [iteration], best = trace.iterations, table.best(costs, limits)
        noise = table.losses(best).std(ddof=1) / math.sqrt(TOTAL)
        regrets.append((table.mean(iteration.choice) - table.mean(best)) / noise)
        work.append(trace.evaluations / (1 + UNITS * (CANDIDATES - 1)))
        out += np.sum(~iteration.standing)
        wrong += np.sum(~iteration.standing[range(UNITS), best])
    assert min(regrets) >= -1e-9
    assert np.mean(regrets) <= RACE.tolerance * (2 if heavy else 1)  # what the draws cannot know of the tails
    assert np.mean(work) < (0.95 if heavy else 0.75)
    assert out > 0.75 * 25 * UNITS
    assert wrong <= RACE.risk * out


def test_confidence_keeps_what_bare_means_would_drop():
    """On the first round candidate 1 seems worse than 0, by less than its error; over all samples it is the best."""
    rng = np.random.default_rng(0)
    parts = np.zeros((TOTAL, 1, 3))
    parts[:, 0, 1] = -0.5 + rng.normal(size=TOTAL)
    parts[: RACE.first, 0, 1] += 0.7 - parts[: RACE.first, 0, 1].mean() - 0.5
    parts[:, 0, 2] = 9.0 + rng.normal(size=TOTAL)
    table = Table(parts)
    trace = table.search([[[1], [1], [0]]], [1], [1], start=(0,), race=RACE)
    seen = table.parts[: RACE.first, 0].mean(axis=0)
    assert 0.1 < seen[1] - seen[0] < 0.3
    assert trace.iterations[0].choice == trace.best_choice == (1,)
    assert trace.iterations[0].standing.tolist() == [[True, True, False]]
    assert trace.iterations[0].samples[0, 2] == RACE.first < trace.iterations[0].samples[0, 1]


@pytest.mark.parametrize("budgets", [1, 2, 3])
def test_no_optimal_candidate_is_out_where_nothing_is_uncertain(budgets):
    """Reduced costs against enumeration, ties among the values and the costs included."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        values = rng.integers(-4, 5, size=(UNITS, CANDIDATES)).astype(float)
        costs = rng.integers(0, 6, size=(UNITS, CANDIDATES, budgets))
        limits = (costs.min(axis=1).sum(axis=0) + costs.max(axis=1).sum(axis=0)) // 2
        every = itertools.product(*[range(CANDIDATES)] * UNITS)
        sums = {c: values[range(UNITS), c].sum() for c in every if np.all(total(costs, c) <= limits)}
        if not sums:
            continue
        optimal = [choice for choice, value in sums.items() if value == min(sums.values())]
        paired = np.repeat(values[None], 4, axis=0)
        chances, regret = outlook(
            paired, np.array(optimal[0]), costs.astype(float), limits.astype(float), Sampling([1.0] * 40)
        )
        assert all(chances[unit, k] == 1.0 for choice in optimal for unit, k in enumerate(choice))
        assert chances.mean() < 1.0
        assert regret == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_expected_regret_against_enumeration(spread):
    """Of two candidates a known mean apart, each with the error of its mean: E max(0, X), X normal.

    spread: of the logarithms of the samples' sizes.
    """
    rng = np.random.default_rng(0)
    seen, every = 400, 1600
    sampling = Sampling(np.exp(spread * rng.normal(size=every)))
    paired = np.zeros((seen, 1, 2))
    paired[:, 0, 1] = rng.normal(size=seen) * sampling.chances(seen)  # so that each part of the mean matters
    error = sampling.error_left(paired[:, 0, 1])
    paired[:, 0, 1] += (0.7 * error - sampling.mean(paired[:, 0, 1])) / sampling.mean(np.ones(seen))
    gap, error = sampling.mean(paired[:, 0, 1]), sampling.error_left(paired[:, 0, 1])
    assert gap > 0
    chances, regret = outlook(paired, np.array([0]), np.zeros((1, 2, 1)), np.zeros(1), sampling)
    z = gap / error
    above = 0.5 * math.erfc(z / math.sqrt(2))
    assert chances[0, 1] == pytest.approx(above, abs=0.1)
    assert regret == pytest.approx(error * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * above), rel=0.4)


def test_excluded_is_not_raced_out():
    table, costs, limits = problem(0, noise=0.1)
    excluded = (3, 3, 1, 3, 3)
    table.odd[excluded] = {SHARD + 1: np.inf}  # on the second shard, of the first round
    [iteration] = table.search(costs, limits, race=RACE).iterations
    assert iteration.deltas[2, 1] == np.inf and not iteration.standing[2, 1] and iteration.choice[2] != 1
    assert math.isnan(iteration.standard_errors[2, 1])
    assert iteration.samples[2, 1] == 2 * SHARD
    out = ~iteration.standing
    out[2, 1] = False
    assert out.any() and np.isfinite(iteration.deltas[out]).all() and (iteration.samples[out] >= RACE.first).all()


def test_disallowed_candidates_and_units_with_one_are_not_asked_for():
    table, costs, limits = problem(1)
    allowed = np.ones((UNITS, CANDIDATES), dtype=bool)
    allowed[0, :3] = allowed[1, 1] = False
    trace = table.search(costs, limits, [UNITS, 3], race=RACE, allowed=allowed)
    assert all(choice[0] == 3 and choice[1] != 1 for choices, _ in table.calls for choice in choices)
    assert np.isnan(trace.iterations[0].deltas[~allowed]).all()
    assert not trace.iterations[0].standing[~allowed].any()


def test_nothing_left_to_choose():
    table, costs, _ = problem(1)
    only = np.eye(CANDIDATES, dtype=bool)[[3] * UNITS]
    trace = table.search(costs, [10**6], race=RACE, allowed=only)
    assert trace.best_choice == (3,) * UNITS
    assert trace.best_loss == table.losses(trace.best_choice).mean()


@pytest.mark.parametrize("shard", [TOTAL, 1])
def test_one_shard_and_shards_of_one_sample(shard):
    source, costs, limits = problem(2)
    full, race = Table(source.parts, shard=shard), Table(source.parts, shard=shard)
    a, b = full.search(costs, limits), race.search(costs, limits, race=Race())
    if shard == TOTAL:
        assert (b.best_choice, b.best_loss, b.evaluations) == (a.best_choice, a.best_loss, a.evaluations)
    assert b.best_loss == full.losses(b.best_choice).mean()


def test_fewer_samples_than_units():
    source, costs, limits = problem(3, units=7)
    race = Table(source.parts[:4], shard=2)
    trace = race.search(costs, limits, [7, 3], race=Race(first=1))
    assert np.all(total(costs, trace.best_choice) <= limits)


def test_the_same_again():
    def run():
        table, costs, limits = problem(4)
        trace = table.search(costs, limits, [UNITS, 2, 3], race=RACE, seed=5)
        return table.calls, trace.best_choice, trace.best_loss

    assert run() == run()


@pytest.mark.parametrize("race", [None, RACE])
def test_work_is_counted(race):
    table, costs, limits = problem(5)
    trace = table.search(costs, limits, [UNITS, 3], race=race)
    assert trace.evaluations == len(table.known) * SHARD / TOTAL
    assert trace.iterations[0].samples.max() <= TOTAL
    standing = trace.iterations[0].samples[trace.iterations[0].standing]
    assert race is not None or (standing == TOTAL).all()


@pytest.mark.parametrize("race", [None, RACE])
def test_the_figures_of_an_iteration_and_of_the_best(race):
    table, costs, limits = problem(6)
    trace = table.search(costs, limits, [UNITS], race=race)
    [iteration], start = trace.iterations, (3,) * UNITS
    for unit, k in np.ndindex(UNITS, CANDIDATES):
        seen = iteration.samples[unit, k]
        probe = (*start[:unit], k, *start[unit + 1 :])
        differences = (table.losses(probe) - table.losses(start))[:seen]
        assert iteration.deltas[unit, k] == pytest.approx(differences.mean())
        assert iteration.standard_errors[unit, k] == pytest.approx(differences.std(ddof=1) / math.sqrt(seen))
    losses = table.losses(trace.best_choice)
    assert trace.best_loss == losses.mean()
    assert trace.best_standard_error == pytest.approx(losses.std(ddof=1) / math.sqrt(TOTAL))
    assert all(loss == table.losses(choice).mean() for choice, loss in trace.finalists.items())
    assert trace.best_loss == min(trace.finalists.values())


@pytest.mark.parametrize("race", [None, RACE])
def test_a_stopped_search_answers_from_the_shards_so_far(race):
    table, costs, limits = problem(7)
    asked = []

    def stop():
        asked.append(len(table.calls))
        return len(asked) == 2

    trace = table.search(costs, limits, [UNITS, 2, 2], race=race, stop=stop)
    assert trace.stopped and len(trace.iterations) == 1 and len(asked) == 2
    assert trace.iterations[0].samples.max() == 2 * SHARD
    assert trace.best_loss == table.losses(trace.best_choice).mean()
    assert trace.evaluations < 2 * (1 + UNITS * (CANDIDATES - 1)) / SHARDS + 12


def test_a_reference_that_is_not_finite_on_a_later_shard():
    table, costs, limits = problem(8, noise=0.1)
    first = table.search(costs, limits, [UNITS], race=RACE).iterations[0].choice
    other = Table(table.parts)
    other.odd[first] = {TOTAL - 1: np.nan}
    trace = other.search(costs, limits, [UNITS, UNITS, UNITS], race=RACE)
    assert trace.iterations[0].choice == first != trace.best_choice
    assert math.isfinite(trace.best_loss)
    start = Table(table.parts)
    start.odd[(3,) * UNITS] = {TOTAL - 1: np.nan}
    with pytest.raises(FloatingPointError, match="start"):
        start.search(costs, limits, [UNITS])


def test_bad_shards_raise():
    table, costs, limits = problem(0)
    for shards in ([], [4, 0]):
        with pytest.raises(ValueError, match="shards of"):
            repeated_ilp((3,) * UNITS, costs, limits, measure=table.measure, shards=shards, update_sizes=[UNITS])
    assert table.calls == []


class Clashing(Table):
    """Two changes of the first candidates are much worse than each alone promises."""

    def losses(self, choice):
        return super().losses(choice) + 50.0 * (np.count_nonzero(choice) > 1)


def test_a_race_takes_a_smaller_step_where_the_whole_one_is_worse():
    parts = problem(9, noise=0.5)[0].parts
    costs, start = np.zeros((UNITS, CANDIDATES, 1), dtype=int).tolist(), (0,) * UNITS
    raced = Clashing(parts).search(costs, [0], [UNITS] * 4, start=start, race=RACE)
    full = Clashing(parts).search(costs, [0], [UNITS] * 4, start=start)
    assert np.count_nonzero(full.iterations[0].choice) > 1
    assert np.count_nonzero(raced.iterations[0].choice) == 1
    assert raced.iterations[0].loss < raced.start_loss < full.iterations[0].loss
    assert np.count_nonzero(raced.best_choice) == 1


class Needle(Table):
    """Every change makes it worse, whatever the few first samples promise."""

    def losses(self, choice):
        changes = np.count_nonzero(choice)
        promising = np.where(np.arange(TOTAL) < RACE.first, -1.0, 3.0)
        return 5.0 + changes * promising


def test_in_a_race_the_reference_stays_where_the_answer_is_worse():
    parts = problem(9, noise=0.5)[0].parts
    costs, start = np.zeros((UNITS, CANDIDATES, 1), dtype=int).tolist(), (0,) * UNITS
    raced = Needle(parts).search(costs, [0], [UNITS] * 4, start=start, race=RACE)
    assert all((iteration.deltas[:, 0] == 0).all() for iteration in raced.iterations)  # still around the start
