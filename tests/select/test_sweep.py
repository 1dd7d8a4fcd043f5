"""`ribs.sweep` on a small network: its promises, its files, and what bad input does."""

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ribs
from ribs.cli.main import main
from ribs.report.data import front_table
from ribs.select.errors import InfeasibleBudgetError
from small import counting, loader, network

BUDGETS = ("5/5", "2.5/2.5", "3/3")  # in no order


def sweep(budgets=BUDGETS, model=None, **options) -> ribs.Sweep:
    budgets = [ribs.Budget(bops=each) if isinstance(each, str) else each for each in budgets]
    options = {"bits": (2, 3, 4, 8), "proposals": 6, "progress": False} | options
    return ribs.sweep(model or network(), loader(), budgets, **options)


def content(found):
    return [(point.budget, point.bits, point.loss, point.standard_error, point.limits) for point in found.points]


@pytest.fixture(scope="module")
def found():
    return sweep()


def test_points_are_what_they_say(found):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = sweep(model=model)
    assert content(again) == content(found), "the same call gives the same points"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [point.budget for point in found.points] == [f"bops {each}" for each in BUDGETS]
    for point, budget in zip(found.points, BUDGETS, strict=True):
        alone = ribs.quantize(network(), loader(), point.bits, progress=False)
        assert alone.loss == pytest.approx(point.loss, rel=1e-9)
        assert alone.standard_error == pytest.approx(point.standard_error, rel=1e-9)
        assert (alone.bops, alone.size_mib) == (point.bops, point.size_mib)
        [spent] = point.spending
        assert spent.spent <= spent.most and point.bops <= point.limits["bops"]
        assert budget in point.budget
    for one, other in itertools.permutations(found.points, 2):
        assert not (one.bops < other.bops and one.loss <= other.loss), "dominated"
    # None of the uniform ones, which are measured too, is better within a budget.
    assert [point.budget for point in found.uniform] == [f"uniform {b}/{b}" for b in (2, 3, 4, 8)]
    for point, uniform in itertools.product(found.points, found.uniform):
        assert uniform.bops > point.limits["bops"] or uniform.loss >= point.loss


def test_a_point_becomes_a_result(found, tmp_path):
    result = found.result(1)
    again = ribs.quantize(network(), loader(), found.points[1].bits, progress=False)
    x = loader()[0]
    with torch.no_grad():
        assert torch.equal(result.model(x), again.model(x))
    assert result.loss == pytest.approx(result.loss_as_searched, rel=1e-9)
    result.save(tmp_path / "point")
    assert ribs.load(tmp_path / "point", network()).bits == found.points[1].bits
    other = found.result(0)
    assert other.bits == found.points[0].bits and result.bits == found.points[1].bits


def test_steps_by_channel_end_as_one_in_the_result():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.LayerNorm(16)).eval()
    model = model.append(torch.nn.Linear(16, 5)).eval()
    # With one candidate for each unit, for which a search ends at the same bits.
    swept = sweep(("4/4",), model, recipe="repq+", bits=(4,))
    result, x = swept.result(0), loader()[0]
    alone = ribs.search(model, loader(), ribs.Budget(bops="4/4"), bits=(4,), recipe="repq+", progress=False)
    with torch.no_grad():
        assert torch.equal(result.model(x), alone.model(x))
    # The float network beside it has scaled norms here, which is the same function up to rounding.
    assert result.loss == pytest.approx(alone.loss, rel=1e-5)
    assert result.loss_as_searched == swept.points[0].loss == pytest.approx(alone.loss_as_searched, rel=1e-9)


def test_files_and_table_have_the_numbers(found, tmp_path):
    found.save(tmp_path / "front.json")
    found.save(tmp_path / "front.csv")
    points = json.loads((tmp_path / "front.json").read_text())["points"]
    rows = list(csv.DictReader((tmp_path / "front.csv").read_text().splitlines()))
    table = front_table(found)
    for place, point in enumerate(found.points):
        assert {unit: tuple(pair) for unit, pair in points[place]["bits"].items()} == point.bits
        assert points[place]["loss"] == float(rows[place]["loss"]) == table["loss"][place] == point.loss
        assert {unit: f"{w}/{a}" for unit, (w, a) in point.bits.items()} == {u: rows[place][u] for u in point.bits}
        assert f"{point.loss:.5g}" in str(found)
    assert table["uniform"] == [False] * 3 + [True] * 4
    with pytest.raises(ValueError, match=r"front.txt' is not supported; give the name of a .json or a .csv"):
        found.save(tmp_path / "front.txt")


def test_two_resources_and_pins_and_bits_apart():
    budgets = [ribs.Budget(bops=bops, size=size) for bops, size in (("7/7", "5/5"), ("6/6", "7/7"))]
    swept = sweep(budgets, bits=(2, 4, 8), activation_bits=[4, 8], pins={"first": 8})
    assert [point.budget for point in swept.uniform] == ["uniform 4/4", "uniform 8/8"]
    for point in swept.points:
        assert point.bits["0"] == (8, 8)
        assert all(each.spent <= each.most for each in point.spending)


def test_killed_it_goes_on_from_its_journal_and_serves_a_search(tmp_path):
    calls, again, searched = [], [], []
    expected = content(sweep(loss=counting(calls)))
    with pytest.raises(KeyboardInterrupt):
        sweep(loss=counting([], stop_at=len(calls) // 2), journal=tmp_path)
    assert content(sweep(loss=counting(again), journal=tmp_path)) == expected
    assert len(again) < len(calls)
    options = {"bits": (2, 3, 4, 8), "iterations": 2, "progress": False}
    ribs.search(network(), loader(), ribs.Budget(bops="3/3"), journal=tmp_path, loss=counting(searched), **options)
    alone = []
    ribs.search(network(), loader(), ribs.Budget(bops="3/3"), loss=counting(alone), **options)
    assert len(searched) < len(alone)


def test_the_points_do_not_depend_on_the_number_of_processes(tmp_path, found):
    # Not forked from this process: a solver that has run in it may wait for threads that a copy does not have.
    code = (
        "import sys, torch.distributed as dist; from test_sweep import content, sweep\n"
        "place = f'file://{sys.argv[1]}/rendezvous'\n"
        "dist.init_process_group('gloo', init_method=place, rank=int(sys.argv[2]), world_size=2)\n"
        "print(content(sweep()))\n"
        "dist.destroy_process_group()\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    assert [process.communicate(timeout=200)[0].strip() for process in processes] == [str(content(found))] * 2


def test_out_of_time_there_is_a_point_for_each_budget():
    swept = sweep(max_seconds=0)
    assert swept.stopped and "out of time" in str(swept)
    assert all(point.bops <= point.limits["bops"] for point in swept.points)


@pytest.mark.parametrize(
    ("budgets", "options", "message"),
    [
        ([], {}, r"budgets=\[\] is not allowed; give at least one"),
        (["3/3"], {"proposals": 0}, "proposals=0 is not allowed; give at least 1"),
        (["3/3", ribs.Budget(size="4/4")], {}, "budget 2, size 4/4, does not bound what budget 1 does, bops 3/3"),
        (["3/3", ribs.Budget(bops=("2/2", "4/4"))], {}, "budget 2, bops 2/2..4/4, does not bound"),
        (["3/3", ribs.Budget(bops="4/4", accounting="hawq")], {}, "budget 2, bops 4/4, accounting hawq, does not"),
        (["3/3", "4/4", "1/1"], {}, "budget 3 of 3, bops 1/1: .*least reachable value"),
        (["3/3"], {"max_seconds": -1}, "max_seconds=-1 is not allowed"),
    ],
    ids=["none", "no-proposals", "other-resource", "other-sides", "other-accounting", "out-of-reach", "no-time"],
)
def test_bad_input(budgets, options, message):
    calls = []
    with pytest.raises(ValueError, match=message):
        sweep(budgets, loss=counting(calls), **options)
    assert not calls, "before anything is measured"


def test_out_of_reach_is_of_its_kind():
    with pytest.raises(InfeasibleBudgetError) as caught:
        sweep(["4/4", "1/1"])
    assert caught.value.nearest and caught.value.least


def test_the_command_prints_and_saves_the_points(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "swept_model.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))\n"
    )
    torch.save(torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), tmp_path / "data.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = ["sweep", "swept_model:build", "--data", "data.pt", "--input-size", "1x8x8", "--batch-size", "16"]
    command += ["--budget-bops", "3/3", "--budget-bops", "4/4", "--proposals", "4", "--no-progress", "--json"]
    assert main([*command, "--out", "front.json", "--plot", "front.svg"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "front.json").read_text())
    assert [point["budget"] for point in printed["points"]] == ["bops 3/3", "bops 4/4"]
    assert "task loss" in (tmp_path / "front.svg").read_text() or (tmp_path / "front.svg").stat().st_size > 1000
    assert main([*command, "--out", "front.txt"]) == 2
    assert main([*command, "--budget-bops", "1/1"]) == 3
    assert "budget 3 of 3" in capsys.readouterr().err
