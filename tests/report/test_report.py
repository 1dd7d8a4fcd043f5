"""The pictures' numbers, and the page about a result."""

import json
import math
import re
import sys
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser

import pytest
import torch

pytest.importorskip("matplotlib")

import ribs
from ribs.cli.main import main
from ribs.quant.quantizer import FakeQuantizer, code_range
from ribs.report.data import iteration_table, sensitivity_table, step_table, unit_table
from ribs.report.page import page
from ribs.report.plot import plot_bits, plot_losses, plot_sensitivity, plot_steps
from small import loader, network, search

HOSTILE = '<script>&"'
UNITS = {HOSTILE: ["0"], "$\\frac{</pre>\x00\ud800\u65e5'": ["2"], "c" * 300: ["5"]}
VOID = {"meta"}


class Page(HTMLParser):
    """What a browser would see: elements, texts by the element they are in, and whether all elements end."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.code, self.open = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] in (["td"], ["th"]):
            self.cells[-1] += text
        if self.open[-1:] == ["code"]:
            self.code += text


@pytest.fixture(scope="module")
def found():
    return search(units=UNITS, budget="5/5")


@pytest.fixture(scope="module")
def apart():
    """Weights and activations have bits of their own."""
    return search(activation_bits=(4, 8), iterations=2)


@pytest.fixture(scope="module")
def html(found):
    return page(found)


def test_units_have_their_bits_and_shares(apart):
    table = unit_table(apart)
    assert table["unit"] == list(apart.bits)
    assert list(zip(table["weight_bits"], table["activation_bits"], strict=True)) == list(apart.bits.values())
    layers = apart.costs.layers  # one a unit
    pairs = apart.bits.values()
    assert table["bops"] == [layer.macs * w * a for layer, (w, a) in zip(layers, pairs, strict=True)]
    assert table["bytes"] == [layer.weights * w / 8 for layer, (w, _) in zip(layers, pairs, strict=True)]
    assert sum(map(Fraction, table["bops"])) == apart.bops
    assert sum(table["bytes"]) == apart.size_mib * 2**20
    for share in (table["bops_share"], table["bytes_share"]):
        assert sum(share) == pytest.approx(1)


def test_sensitivities_are_those_of_the_last_iteration(apart):
    table = sensitivity_table(apart)
    rows = list(zip(*table.values(), strict=True))
    last = apart.history[-1]
    assert len(rows) == sum(map(len, last.delta_loss.values())) > 0
    for unit, weight, activation, change, error, samples, chosen in rows:
        pair = weight, activation
        assert change == last.delta_loss[unit][pair]
        assert (error, samples) == (last.delta_standard_error[unit][pair], last.samples[unit][pair])
        assert chosen == (apart.bits[unit] == pair)


def test_iterations_are_those_of_the_history(found):
    table = iteration_table(found)
    assert table["iteration"] == list(range(1, len(found.history) + 1))
    for column in ("predicted", "loss", "standard_error", "interaction_error", "bops", "size_mib"):
        assert table[column] == [getattr(record, column) for record in found.history]
    bits = [record.bits for record in found.history]
    assert table["programs"] == [len(record.gaps) for record in found.history] and min(table["programs"]) > 0
    assert table["gap"] == [0.0] * len(found.history)
    assert table["bound"] == ["bops"] * len(found.history)
    assert table["share"] == pytest.approx([record.bops / found.limits["bops"] for record in found.history])
    changes = [sum(bits[k][u] != bits[k - 1][u] for u in UNITS) for k in range(1, len(bits))]
    assert table["changed"] == [3, *changes]


def test_closest_bound_of_several():
    budget = ribs.Budget(bops=("2/2", "6/6"), size=("2/2", "8/8"))
    result = search(budget=budget, iterations=2)
    for record, name, share in zip(
        result.history, *(iteration_table(result)[k] for k in ("bound", "share")), strict=True
    ):
        size = round(record.size_mib * 2**23)
        limits = {name: abs(limit) for name, limit in result.limits.items()}
        shares = {"bops": record.bops / limits["bops"], "least bops": limits["least bops"] / record.bops}
        shares |= {"size": size / limits["size"], "least size": limits["least size"] / size}
        assert (share, name) == (pytest.approx(max(shares.values())), max(shares, key=shares.__getitem__))


def test_proofs_are_on_the_page(found, html):
    cells = Page(html).cells
    assert cells.count("proven") == len(found.history)
    assert all(f"{100 * record.bops / found.limits['bops']:.2f}" in cells for record in found.history)
    unproven = replace(found.history[0], gaps=(0.0, 2.5e-7))
    assert Page(page(replace(found, history=(unproven,)))).cells.count("within 2.5e-07") == 1
    unknown = replace(found.history[0], gaps=(), spent={})
    text = page(replace(found, history=(unknown,)))
    assert "Integer linear programs" in html and "Integer linear programs" not in text


def test_sensitivities_are_drawn_where_they_belong(apart):
    axes = plot_sensitivity(apart).axes[0]
    drawn = axes.images[0].get_array().filled(float("nan"))
    candidates = [tuple(map(int, label.get_text().split("/"))) for label in axes.get_xticklabels()]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(apart.bits)
    changes = apart.history[-1].delta_loss
    largest = max(max(of_unit.values()) for of_unit in changes.values())
    for row, unit in enumerate(apart.bits):
        for column, pair in enumerate(candidates):
            assert drawn[row, column] == pytest.approx(max(changes[unit][pair], largest / 1000))
    dots = {(int(y), candidates[int(x)]) for x, y in axes.collections[0].get_offsets()}
    assert dots == set(enumerate(apart.bits.values()))


def test_bits_and_shares_are_drawn(apart):
    bits, shares = plot_bits(apart).axes
    weights, activations = ([bar.get_width() for bar in bars] for bars in bits.containers)
    assert list(zip(weights, activations, strict=True)) == list(apart.bits.values())
    assert sum(bar.get_width() for bar in shares.containers[0]) == pytest.approx(100)
    assert bits.get_ylim()[0] > bits.get_ylim()[1]  # the first unit is on top


def test_losses_are_drawn_with_their_errors(found):
    axes = plot_losses(found).axes[0]
    [measured] = axes.containers
    line, _, [bars] = measured
    assert list(line.get_ydata()) == [record.loss for record in found.history]
    for record, (low, high) in zip(found.history, bars.get_segments(), strict=True):
        assert (high[1] - low[1]) / 2 == pytest.approx(record.standard_error)


@pytest.mark.parametrize(
    ("symmetric", "axis", "bits"), [(True, 0, 2), (True, None, 4), (False, None, 3), (False, None, 8), (True, 1, 8)]
)
def test_values_lie_where_they_are_rounded_to(symmetric, axis, bits):
    x = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0)).exp() - 1
    x[0, 0, 0] = 1e20
    quantizer = FakeQuantizer(symmetric=symmetric, axis=axis)
    found = ribs.ops.search_steps(x.clamp(max=4), [2, bits], symmetric=symmetric, axis=axis)
    quantizer.set_steps([2, bits], found.step, found.zero_point)
    quantizer.set_bits(bits)
    table = step_table(x, quantizer)
    codes = quantizer.codes(x).int()
    least, most = code_range(bits, symmetric)
    assert sum(table["count"]) == x.numel()
    assert table["low"][1:] == table["high"][:-1] and table["low"][0] == -table["high"][-1] == -math.inf
    for code in range(least, most + 1):
        bounds = (-math.inf if code == least else code - 0.5), (math.inf if code == most else code + 0.5)
        rows = zip(table["low"], table["high"], table["count"], strict=True)
        assert sum(n for low, high, n in rows if bounds[0] <= low and high <= bounds[1]) == (codes == code).sum()
    axes = plot_steps(x, quantizer).axes[0]
    drawn = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert [sum(pair) for pair in zip(*drawn, strict=True)] == table["count"]
    assert sum(drawn[1]) == sum(n for n, beyond in zip(table["count"], table["clipped"], strict=True) if beyond) > 0
    quantizer.set_bits(32)
    with pytest.raises(ValueError, match="at 32 bits"):
        step_table(x, quantizer)


def test_page_holds_all_names_and_nothing_else_of_them(html):
    seen = Page(html)
    for name in (HOSTILE, "$\\frac{</pre>\ufffd\ufffd\u65e5'", "c" * 300):
        assert name in seen.cells
    tags = {tag for tag, _ in seen.tags}
    assert "svg" in tags and not tags & {"script", "link", "img", "iframe", "object", "a"}
    assert "<script" not in html and "http:" not in html and "https:" not in html
    for _, attributes in seen.tags:
        assert not any(name.startswith("on") or name in ("src", "action", "xmlns") for name in attributes)
        assert attributes.get("href", "#").startswith(("#", "data:image/png;base64,"))
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for _, attributes in seen.tags if attributes.get("href", "").startswith("#")}
    assert links <= set(ids)


def test_page_has_the_numbers(found, html):
    cells = Page(html).cells
    assert f"{found.loss:.6g} ± {found.standard_error:.2g} (standard error)" in cells
    assert f"{found.bops:,}" in cells and found.recipe in cells and ribs.__version__ in cells
    [spent] = found.spending
    assert f"{float(100 * spent.spent / spent.most):.2f}" in cells
    assert all(f"{record.loss:.5g}" in cells for record in found.history)


@pytest.mark.filterwarnings("ignore:.* MACs stay in float")
@pytest.mark.parametrize("options", [{"units": UNITS}, {"skip": ["0"]}])
def test_what_the_page_says_makes_the_network_again(options):
    result = search(iterations=1, **options)
    names = {"model": network(), "loader": loader()}
    exec(Page(page(result)).code, names)
    made = names["result"]
    assert (made.bits, made.loss, made.bops) == (result.bits, result.loss, result.bops)
    assert torch.equal(made.model(loader()[0]), result.model(loader()[0]))


def test_result_without_a_history(tmp_path):
    result = ribs.quantize(network(), loader(), 4, progress=False)
    result.report(tmp_path / "a.html")
    seen = Page((tmp_path / "a.html").read_text())
    assert sum(tag == "svg" for tag, _ in seen.tags) == 1
    assert iteration_table(result)["loss"] == sensitivity_table(result)["unit"] == []
    for plot in (plot_losses, plot_sensitivity):
        with pytest.raises(ValueError, match="the result has no history"):
            plot(result)


@pytest.mark.parametrize("value", [float("inf"), -1.0])
def test_losses_that_are_not_finite_or_changes_that_are_all_negative(found, value):
    [*first, last] = found.history
    changes = {unit: dict.fromkeys(of_unit, value) for unit, of_unit in last.delta_loss.items()}
    history = (*first, replace(last, delta_loss=changes, loss=value, predicted=value))
    assert f"{value:.5g}" in Page(page(replace(found, history=history))).cells


def test_saved_result_has_the_same_page(found, html, tmp_path, capsys):
    saved = search()
    saved.save(tmp_path / "run")
    saved.report(tmp_path / "a.html")
    assert main(["report", str(tmp_path / "run"), str(tmp_path / "b.html"), "--json"]) == 0
    size = (tmp_path / "b.html").stat().st_size
    assert json.loads(capsys.readouterr().out) == {"page": str(tmp_path / "b.html"), "bytes": size}
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert main(["report", str(tmp_path), str(tmp_path / "b.html")]) == 2
    assert "result.json" in capsys.readouterr().err


def test_failed_write_leaves_the_old_page(found, tmp_path, monkeypatch):
    (tmp_path / "a.html").write_text("old")

    def full(handle):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        found.report(tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert (tmp_path / "a.html").read_text() == "old"


def test_without_matplotlib(found, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=re.escape('pip install "ribs-quant[plot]"')):
        found.report(tmp_path / "a.html")
    assert not list(tmp_path.iterdir())
