"""What a history says of each program: how far from its optimum, and what the budget was spent on."""

from dataclasses import replace

import pytest

import ribs
from ribs.select import adaptive, race
from small import search


@pytest.mark.parametrize(
    ("module", "options", "before"),
    [
        (adaptive, {}, 1),  # one program chooses the start
        (race, {"algorithm": "paper"}, 0),
        (race, {"algorithm": "paper", "profile": "race"}, 0),
    ],
    ids=["adaptive", "paper", "race"],
)
def test_every_program_has_its_gap(module, options, before, monkeypatch):
    made = []

    def solve(*arguments, usual=module.solve):
        made.append(len(made) / 8)
        return replace(usual(*arguments), gap=made[-1])

    monkeypatch.setattr(module, "solve", solve)
    history = search(**options).history
    told = [gap for record in history for gap in record.gaps]
    assert all(record.gaps for record in history)
    if module is race:
        assert told == made
    else:  # the programs of an iteration that had nothing new to measure are in none
        assert told == made[before : before + len(told)] and told


def test_optima_are_proven_and_costs_exact():
    """What is spent is told in the terms of the limits, with what lies outside of all units."""
    budget = ribs.Budget(bops=("2/2", "5/5"), size="6/6", accounting="deployment")
    result = search(budget=budget, activation_bits=(4, 8))
    for record in result.history:
        assert set(record.gaps) == {0.0}
        bops, size = result.costs.bops(record.bits), record.size_mib * 2**23
        assert record.spent == {"bops": bops, "least bops": -bops, "size": size}
        assert all(record.spent[name] <= limit for name, limit in result.limits.items())
