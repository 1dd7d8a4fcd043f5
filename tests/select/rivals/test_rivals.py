"""What holds for every rival: budgets, pins, the seed, and a network that is left as it was."""

import functools
import operator

import pytest

import ribs
import settings
from ribs.select.rivals import dnas, fracbits, limpq
from ribs.select.rivals.feasible import costs_of, fits
from ribs.select.rivals.registry import RIVALS

NAMES = [*RIVALS]
CASES = {
    "bops": {},
    "tight": {"budget": "2/2"},
    "all fits": {"budget": "8/8"},
    "both budgets": {"budget": "5/5", "size": "3/3"},
    "fixed activations": {"budget": None, "size": "4/4", "activation_bits": 5},
    "pins": {"budget": 180_000, "pins": {"first": 8, "2": (4, 2)}},
    "float pin": {"budget": 450_000, "pins": {"last": 32}},
    "blocks": {"model": settings.blocks, "units": "block"},
    "layers of blocks": {"model": settings.blocks, "bits": (2, 4)},
    "from both sides": {"budget": ("3/3", "4/4")},
    "from below": {"budget": None, "size": ("5/5", None)},
    "narrow": {"budget": ("5.2/5.2", "5.6/5.6"), "size": ("3/3", "7/7")},
    "large weights, few operations": {"budget": "5/5", "size": ("7/7", None), "activation_bits": (2, 8)},
    "memory": {"budget": None, "activation_memory": "60% of 8/8", "average_weight_bits": (5, None)},
    "dearer with fewer bits": {"budget": None, "costs": {"ms": (lambda unit, bits: 10 - bits[0] % 7, (21, 23))}},
    "ties": {"ties": [["0", "5"]], "budget": ("3/3", "5/5")},
    "ends at 8 bits": {"accounting": "hawq", "budget": None, "average_bits": (6, 7)},
    "allowed": {"budget": ("3/3", "5/5"), "allowed": {"0": (4, 8), "2": (2, 4)}},
}
NO_UNIFORM = {"narrow", "memory", "dearer with fewer bits"}


def setting(case, **more):
    options = CASES[case] | more
    model = options.pop("model", None)
    return settings.setting(model=model() if model else None, **options)


@pytest.fixture
def short_training(monkeypatch):
    """However little was learned, what is chosen must be allowed."""
    for rival in (dnas, fracbits, limpq):
        monkeypatch.setattr(rival, "learned", functools.partial(rival.learned, updates=10))


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_within_the_budgets_with_the_pins_and_nothing_changed(name, case):
    given = setting(case)
    before = settings.state(given.network)
    if name == "uniform" and case in NO_UNIFORM:
        with pytest.raises(ValueError, match=r"\[uniform\] no pair of bits") as error:
            RIVALS[name].check(given.plan)
        assert not isinstance(error.value, ribs.InfeasibleBudgetError)
        return
    RIVALS[name].check(given.plan)
    choice = RIVALS[name].choose(given)
    assert settings.same_state(before, settings.state(given.network))
    plan = given.plan
    assert all(0 <= k < len(options) for k, options in zip(choice, plan.candidates, strict=True))
    exact = [0] * len(plan.available)
    for unit, k in enumerate(choice):
        exact = list(map(operator.add, exact, plan.costs[unit][k]))
    assert tuple(exact) == costs_of(plan, choice)
    assert all(map(operator.le, exact, plan.available))
    bits = plan.configuration(choice)
    if case == "pins":
        assert bits["0"] == (8, 8) and bits["2"] == (4, 2)
    if case == "float pin":
        assert bits["5"] == (32, 32)
    if case == "all fits":
        assert set(bits.values()) == {(8, 8)}


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name):
    seeds = (3, 3) if RIVALS[name].seeded else (3, 3, 4)
    choices = {RIVALS[name].choose(setting("bops", seed=seed)) for seed in seeds}
    assert len(choices) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "exhaustive"])
def test_attention(name):
    given = settings.setting(model=settings.vit(), bits=(3, 6), budget="4/4", units="layer")
    before = settings.state(given.network)
    choice = RIVALS[name].choose(given)
    assert fits(given.plan, choice)
    assert settings.same_state(before, settings.state(given.network))


@functools.cache
def best():
    given = setting("bops")
    return min(given.mean_loss(choice) for choice in settings.every(given.plan) if fits(given.plan, choice))


@pytest.mark.parametrize("name", NAMES)
def test_none_is_better_than_the_best(name):
    given = setting("bops")
    assert given.mean_loss(RIVALS[name].choose(given)) >= best()
    if name in ("exhaustive", "random"):  # 64 draws of at most 27 configurations
        assert given.mean_loss(RIVALS[name].choose(given)) == best()


def test_exhaustive_says_when_there_are_too_many():
    with pytest.raises(ValueError, match=r"\[exhaustive\] 6 units have 15,625 configurations, more than 4096"):
        RIVALS["exhaustive"].check(settings.setting(model=settings.blocks(), bits=(2, 3, 4, 5, 6)).plan)


def test_work_is_counted():
    """A pass is all samples through the network once; a backward pass is two."""
    given = setting("bops")
    work = {}
    for name in NAMES:
        fresh = setting("bops")
        RIVALS[name].choose(fresh)
        work[name] = fresh.forward_equivalents
    assert work["uniform"] == work["weight_error"] == 0
    assert work["ompq"] == 1 and work["fisher"] == 6
    assert work["hawq"] == 3 + 4 * 8
    batch = given.inputs[0].samples / given.samples
    assert work["limpq"] == pytest.approx(1 + 32 * 3 * (3 + 1) * batch)
    assert work["fracbits"] == pytest.approx(1 + 200 * 3 * 2 * batch)
    assert work["dnas"] == pytest.approx(1 + 200 * 3 * 3 * batch)
    assert 2 < work["kl"] < 2 + 3 * 3 and work["kl"] == work["sqnr"] == work["greedy"]
