"""Comparisons: each method's row against the method run by hand, averages by the formulas, and who is first."""

import math
from fractions import Fraction

import pytest
import torch

import ribs
import settings
from ribs.report.plot import plot_comparison
from ribs.select.budget import in_words
from ribs.select.compare import Comparison, Run
from ribs.select.result import Spending
from ribs.select.rivals.registry import RIVALS
from small import loader, network, search

BUDGETS = [ribs.Budget(bops="3/3"), ribs.Budget(size="4/4")]
OPTIONS = {"bits": (2, 4, 8), "units": "layer", "iterations": 3, "progress": False}


def compare(**options):
    return ribs.compare(network(), loader(), options.pop("budgets", BUDGETS), **OPTIONS | options)


def test_rows_are_what_each_method_gives_alone():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = ("kl", "hawq", "random")
    found = ribs.compare(model, loader(), BUDGETS, methods=names, seeds=[0, 5], **OPTIONS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [(run.budget, run.method, run.seed) for run in found.runs] == [
        (budget, method, seed)
        for budget in ("bops 3/3", "size 4/4")
        for method, seed in (("kl", 0), ("hawq", 0), ("hawq", 5), ("random", 0), ("random", 5))
    ]
    for run in found.runs:
        bops, size = ("3/3", None) if run.budget == "bops 3/3" else (None, "4/4")
        given = settings.setting(budget=bops, size=size, seed=run.seed)
        choice = RIVALS[run.method].choose(given)
        assert run.bits == given.plan.configuration(choice)
        assert run.forward_equivalents == given.forward_equivalents
        quantized = ribs.quantize(network(), loader(), run.bits, units="layer", progress=False)
        assert (run.bops, run.size_mib) == (quantized.bops, quantized.size_mib)
        assert run.loss == pytest.approx(quantized.loss, rel=1e-12)
        assert run.standard_error == pytest.approx(quantized.standard_error, rel=1e-9)


@pytest.mark.parametrize("name", ["ribs", "paper"])
def test_ribs_is_the_search(name):
    found = compare(budgets=BUDGETS[:1], methods=[name], seeds=(0, 1, 2))
    for run in found.runs:
        algorithm = {"ribs": "adaptive", "paper": "paper"}[name]
        alone = search(budget="3/3", seed=run.seed, algorithm=algorithm)
        assert run.bits == alone.bits and run.loss == alone.loss
        assert run.forward_equivalents == alone.cost_of_search.forward_equivalents


def test_candidates_are_those_of_the_search():
    """Bounds on both sides, ties, pins and the like, each of which may be read only once."""
    budgets = [ribs.Budget(bops=("2.5/2.5", "5/5")), ribs.Budget(average_bits=("3/3", "6/6"), size="5/5")]

    def options():
        return {
            "bits": iter((2, 4, 8)),
            "activation_bits": iter((4, 8)),
            "pins": {"first": (8, 4)},
            "allowed": {"2": iter((2, 8))},
            "ties": iter([iter(["2", "5"])]),
            "target": "onnxruntime",
        }

    found = compare(budgets=budgets, methods=["ribs", "random"], seeds=[1], **options())
    for run, budget in zip(found.runs[::2], budgets, strict=True):
        alone = search(budget=budget, seed=1, **options())
        assert list(run.bits) == ["0", "2 + 5"]
        assert (run.bits, run.loss, run.spending) == (alone.bits, alone.loss, alone.spending)
        assert (run.bops, run.size_mib) == (alone.bops, alone.size_mib)
    assert all(
        (each.least or 0) <= each.spent <= (each.most or math.inf) for run in found.runs for each in run.spending
    )
    assert "average bits" in str(found)
    assert found.averages()[2].spent["average_bits"] == float(found.runs[2].spending[1].spent)


def test_every_budget_has_its_own_accounting():
    """One of them pins the first and the last unit to 8 bits, so that their candidates differ."""
    kinds = ("paper", "hawq", "deployment")
    found = compare(budgets=[ribs.Budget(bops="4/4", accounting=kind) for kind in kinds], methods=["ribs"], seeds=[0])
    for run, kind in zip(found.runs, kinds, strict=True):
        alone = search(budget=ribs.Budget(bops="4/4", accounting=kind))
        assert (run.bits, run.loss, run.bops, run.size_mib) == (alone.bits, alone.loss, alone.bops, alone.size_mib)
    assert found.runs[1].bits["0"] == found.runs[1].bits["5"] == (8, 8) != found.runs[0].bits["5"]


def test_the_metric_is_of_the_configured_network():
    seen = []

    def evaluate(model):
        seen.append(
            sum(int(module.bits) for name, module in model.named_modules() if name.endswith("weight_quantizer"))
        )
        return -seen[-1]

    found = compare(methods=("uniform", "weight_error", "kl"), evaluate=evaluate)
    assert [run.metric for run in found.runs] == [-sum(w for w, _ in run.bits.values()) for run in found.runs]
    assert len(seen) == len({tuple(run.bits.values()) for run in found.runs})
    assert "metric" in str(found)


def run(method, seed, loss, metric=None, bops=2 * 10**9, spent=()):
    return Run(method, "b", seed, loss, 0.1, metric, bops, 3.0, spent, 5.0, 1.0, {})


def test_averages_and_who_is_first():
    found = Comparison(
        (
            *(run("a", seed, loss, m) for seed, loss, m in [(0, 1.0, 70.0), (1, 2.0, 72.0), (2, 3.0, 74.0)]),
            run("b", 0, 2.4, 76.0),
            run("c", 0, 2.7, 71.9),
            run("d", 0, math.nan, 60.0),
        )
    )
    a, b, c, d = found.averages()
    assert (a.loss, a.metric, a.seeds) == (2.0, 72.0, 3)
    assert a.loss_error == pytest.approx(1 / math.sqrt(3)) and b.loss_error == 0.0
    # a is first in loss, and 0.4 is less than its standard error of 0.577; 0.7 is more.
    assert [each.first_in_loss for each in (a, b, c, d)] == [True, True, False, False]
    # b is first in the metric by 4, and the standard error of a's is 1.15.
    assert [each.first_in_metric for each in (a, b, c, d)] == [False, True, False, False]
    lines = str(found).splitlines()
    assert ["2 +- 0.58 *" in line for line in lines[2:6]] == [True, False, False, False]


def test_budgets_in_words():
    assert in_words(ribs.Budget(bops="4/4", size=2.5)) == "bops 4/4, size 2.5"
    own = {"ms": ("ms.csv", (1, Fraction(7, 2)))}
    budget = ribs.Budget(bops=(28.5e9, None), average_bits=(None, 4), costs=own, accounting="hawq")
    assert in_words(budget) == "bops 28500000000.., average_bits ..4, ms 1..3.5, accounting hawq"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"methods": ["kl", "nonsense"]},
            r"\[compare\] \['nonsense'\] in methods is not supported; give some of ribs,",
        ),
        ({"methods": []}, r"\[compare\] methods=\[\] is not supported"),
        ({"seeds": []}, r"\[compare\] 2 budgets and 0 seeds"),
        ({"budgets": []}, r"\[compare\] 0 budgets and 3 seeds"),
        ({"bits": [2]}, r"\[compare\] every unit has only one candidate"),
        ({"budgets": BUDGETS + BUDGETS[:1]}, r"\[compare\] budgets \['bops 3/3'\] are given more than once"),
        ({"budgets": [ribs.Budget(bops=("5/5", "7/7"))]}, r"\[uniform\] no pair of bits"),
        ({"iterations": 0}, r"\[ribs\] iterations=0 is not allowed"),
        ({"budgets": [ribs.Budget(bops="1/1")]}, r"no configuration meets the budget"),
    ],
)
def test_what_is_refused_before_any_work(options, text, monkeypatch):
    monkeypatch.setattr("ribs.select.compare.calibrate", lambda *args, **kwargs: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=text):
        compare(**options)


def test_what_a_method_cannot_do_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("ribs.select.compare.calibrate", lambda *args, **kwargs: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=r"\[exhaustive\] 6 units have 117,649 configurations"):
        ribs.compare(settings.blocks(), loader(), BUDGETS, **OPTIONS | {"methods": ["exhaustive"], "bits": range(2, 9)})


@pytest.mark.parametrize(("metric", "panels"), [(None, 1), (70.0, 2)])
def test_pictures_show_every_method(metric, panels):
    runs = [run(m, seed, 1.0 + seed, metric, bops) for m in "xy" for bops in (10**9, 4 * 10**9) for seed in (0, 1)]
    axes = plot_comparison(Comparison(tuple(runs)), title="t").axes
    assert len(axes) == panels
    for container in axes[0].containers:
        assert container.lines[0].get_xdata().tolist() == [2.5]  # one budget, its mean cost
        assert container.lines[0].get_ydata().tolist() == [1.5]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["x", "y"]


def test_pictures_over_what_else_is_bounded():
    spent = (Spending("ms", "", None, Fraction(4), Fraction(7, 2)),)
    axes = plot_comparison(Comparison((run("x", 0, 1.0, spent=spent),)), cost="ms").axes[0]
    assert axes.containers[0].lines[0].get_xdata().tolist() == [3.5] and axes.get_xlabel() == "ms"
    with pytest.raises(ValueError, match=r"\[plot\] cost='joules' is not bounded by every budget"):
        plot_comparison(Comparison((run("x", 0, 1.0, spent=spent),)), cost="joules")
