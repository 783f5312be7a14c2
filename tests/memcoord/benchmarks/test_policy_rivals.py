"""Goal: the mark of our own policy is told scenario by scenario. Method: a summary by hand."""

from __future__ import annotations

from typing import Any

import pytest

from memcoord.benchmarks.policies import rivals, split
from memcoord.benchmarks.policies.drawn import drawn
from memcoord.benchmarks.sweep.cell import BEST_STATIC

#: Mean and worst slowdown by policy and scenario.
SLOWDOWNS = {
    "unseen/pair": {rivals.OWN: (1.0, 2.4), "greedy": (2.0, 2.0), BEST_STATIC: (0.5, 0.5)},
    "unseen/six-sorts": {rivals.OWN: (2.0, 3.0), "greedy": (4.0, 6.0), "senpai": (3.0, 9.0)},
}


def found_of(slowdowns: dict[str, dict[str, tuple[float, float]]]) -> dict[str, Any]:
    names = ("mean_slowdown", "worst_slowdown")
    rows = {
        f"sim/{scenario}/{policy}": {
            "world": "sim",
            "scenario": scenario,
            "policy": policy,
            "figures": {name: {"mean": value} for name, value in zip(names, both, strict=True)},
        }
        for scenario, policies in slowdowns.items()
        for policy, both in policies.items()
    }
    means = {"greedy": {"mean_slowdown": 2.83, "worst_slowdown": 3.46}}
    own = {rivals.OWN: {"mean_slowdown": 1.41, "worst_slowdown": 2.68}}
    return {
        "rows": rows,
        "splits": {split.UNSEEN: list(slowdowns)},
        "overall_by_split": {split.UNSEEN: {"sim": {**own, **means}}},
    }


def test_the_best_of_the_others_is_sought_in_each_scenario() -> None:
    found = found_of(SLOWDOWNS)
    worst = rivals.matches(found, list(SLOWDOWNS), "worst_slowdown")
    assert [(match.rival, match.ratio) for match in worst] == [
        ("greedy", pytest.approx(1.2)),
        ("greedy", pytest.approx(0.5)),
    ]
    mean = rivals.matches(found, list(SLOWDOWNS), "mean_slowdown")
    assert [match.rival for match in mean] == ["greedy", "senpai"]  # and never best-static


def test_what_lies_beyond_the_mark_is_named() -> None:
    mean, worst = rivals.verdict(found_of(SLOWDOWNS))
    assert mean.endswith("in 0 of 2")
    assert worst.endswith("in 1 of 2: pair")
    assert "the best other, greedy, 3.46" in worst


def test_a_table_has_a_line_per_scenario_and_marks_where_ours_is_ahead() -> None:
    (table,) = rivals.tables(found_of(SLOWDOWNS))
    assert [line[0] for line in table.lines] == ["pair", "six-sorts"]
    worst = [line[5] for line in table.lines]
    assert [cell[0].is_best for cell in worst if not isinstance(cell, str)] == [False, True]


def test_without_ours_there_is_nothing_to_tell() -> None:
    others = {"unseen/pair": {"greedy": (2.0, 2.0), "senpai": (1.0, 1.0)}}
    found = found_of(others)
    assert list(rivals.tables(found)) == []
    assert rivals.verdict(found) == []


def test_a_number_draws_the_same_scenario_again_and_another_another() -> None:
    assert drawn(7) == drawn(7) != drawn(8)
    for number in range(1, 9):
        scenario = drawn(number)
        boot = sum(domain.ram for domain in scenario.domain)
        assert scenario.memory >= scenario.slack + boot
        sources = [getattr(domain.workload, "source", "bitbrains") for domain in scenario.domain]
        assert set(sources) == {"bitbrains"}  # nothing that only the unseen scenarios have
