"""Goal: what a cell runs is what it says. Method: the real simulator on a small scenario."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.sweep.cell import Cell, run_cell, scenario_of
from memcoord.benchmarks.sweep.grid import scenario_text
from memcoord.benchmarks.sweep.misreport import policy_text
from memcoord.benchmarks.sweep.optimal import optimal_cost
from memcoord.benchmarks.sweep.table import run_times
from memcoord.benchmarks.sweep.worlds import COLUMNS, Seen, as_toml, figures_of, read_series
from policies import View, load


def cell(scenario: str = "usemem", **changes: object) -> Cell:
    plain = {"policy": "greedy", "scenario": scenario, "text": scenario_text(scenario), "seed": 1}
    return msgspec.convert(plain | changes, Cell)


def test_the_same_cell_gives_the_same_result() -> None:
    first, again = run_cell(cell()), run_cell(cell())
    assert msgspec.json.encode(first) == msgspec.json.encode(again)
    assert set(run_times(first)) == {"vm1", "vm2", "vm3"}
    assert 0 < first["figures"]["utilisation"] <= 1


def test_alone_is_no_slower_and_without_leaves_the_others() -> None:
    together = run_times(run_cell(cell()))
    only = run_times(run_cell(cell(kind="alone", domain="vm3")))
    assert list(only) == ["vm3"]
    assert only["vm3"] <= together["vm3"]
    rest = run_times(run_cell(cell(kind="without", domain="vm3")))
    assert list(rest) == ["vm1", "vm2"]


def test_a_scenario_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match="memory"):
        run_cell(cell(overrides=(("memory", "2 MiB"),)))


@pytest.mark.parametrize("name", ["usemem", "graph", "churn", "bursts"])
def test_a_scenario_written_for_the_testbed_means_the_same(name: str) -> None:
    scenario = scenario_of(cell(name))
    raw = tomllib.loads(as_toml(scenario))
    assert scenario_of(cell(name, text=as_toml(scenario))) == scenario
    assert len(raw["domain"]) == len(scenario.domain)


def test_a_liar_gets_more_from_a_policy_that_believes() -> None:
    view = View.of(capacity=1000, used=[300, 300], target=[300, 300], failed_puts=[0, 0])
    honest = np.asarray(load("smart-alloc").plan(view).tmem)
    liar = load(policy_text("smart-alloc:P=10,threshold=5", "vm1", 4.0))
    told = np.asarray(liar.plan(view).tmem)
    assert told[0] > honest[0]
    assert told[1] == honest[1]
    assert view.failed_puts[0] == 0
    modest = load(policy_text("max-min", "vm2", 0.5))
    plan = np.asarray(modest.plan(view).tmem)
    assert plan.shape == (2,)


def test_who_is_not_there_cannot_lie() -> None:
    view = View.of(capacity=1000, used=[300, 300], failed_puts=[1, 0])
    told = load(policy_text("smart-alloc", "nobody", 4.0)).plan(view)
    assert list(np.asarray(told.tmem)) == list(np.asarray(load("smart-alloc").plan(view).tmem))


def test_a_lie_runs_and_changes_targets_only() -> None:
    lie = run_cell(cell(policy="smart-alloc", kind="lie", domain="vm1", factor=4.0))
    truth = run_cell(cell(policy="smart-alloc"))
    references = [[each["references"] for each in run["domains"]] for run in (lie, truth)]
    assert references[0] == references[1]
    assert run_times(lie) != run_times(truth)


def test_more_tmem_never_costs_the_optimum() -> None:
    costs = [
        optimal_cost(scenario_of(cell("graph", overrides=(("tmem", size),))), 1)
        for size in ("0", "4 MiB", "8 MiB")
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1] >= 0


def test_figures_of_what_was_seen(tmp_path: Path) -> None:
    # One domain grows into its target; the other comes a tick later and has no limit.
    seen = [
        Seen(0.1, "a", 10, 50, 0, 0, 10, 0),
        Seen(0.2, "a", 50, 50, 0, 0, 60, 10),
        Seen(0.2, "b", 40, -1, 0, 0, 40, 0),
    ]
    figures = figures_of(seen, 100)
    assert figures["failed_put_ratio"] == pytest.approx(10 / 100)
    assert figures["utilisation"] == pytest.approx((10 + 50 + 40) / 200)
    assert figures["pareto_gap"] == pytest.approx((0 + 10) / 200)
    assert figures["churn"] == 0
    assert figures_of([], 100) == {}
    path = tmp_path / "series.csv"
    lines = [",".join(("time_s", "domain", *COLUMNS))]
    lines += [",".join(map(str, each)) for each in seen]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    assert read_series(path) == seen
