"""Goal: the table says what was run. Method: cells that only pretend; one real look at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fake_cells
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import tables
from memcoord.benchmarks.policies import split, views
from memcoord.benchmarks.policies.bench import (
    COST_SETS,
    PolicyBench,
    PolicyBenchOptions,
    PolicyBenchPlan,
)
from memcoord.benchmarks.policies.speeds import TARGETS, verdicts
from memcoord.benchmarks.policies.summary import frontier, points
from memcoord.benchmarks.runner import fill_page, run_bench
from memcoord.benchmarks.sweep.cell import BEST_STATIC, Cell, Result
from memcoord.benchmarks.sweep.local import Outcome, Outcomes
from memcoord.benchmarks.sweep.run import Run
from memcoord.commands.bench import bench
from memcoord.testbed.report.figures import svg
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.scenarios.schema import shipped

PARTS = ("policies", "scenarios", "table")
PAGE = "\n".join(
    ["# A page", *(f(n) for n in PARTS for f in (tables.begin, tables.end)), "The end."]
)
POLICIES = ("static-alloc", "smart-alloc:P=2")
SLOWDOWN = {"greedy": 3.0, "static-alloc": 2.0, "smart-alloc": 1.5, BEST_STATIC: 1.0}


def result_of(cell: Cell) -> Result:
    """As if: greedy takes 3 times as long as alone, and so on; vm1 half of that."""
    if cell.kind == "optimal":
        return {"domains": [], "figures": {"optimal_cost": 1.0}}
    found = fake_cells.run(cell)
    base = 10.0 + cell.seed
    for entry in found["domains"]:
        factor = 1.0 if cell.kind == "alone" else SLOWDOWN[cell.policy]
        if cell.kind == "lie":
            factor /= 2
        entry["run_s"] = (
            base * factor / (2 if cell.kind == "run" and entry["domain"] == "vm1" else 1)
        )
    found["domains"] = [
        e for e in found["domains"] if cell.kind != "without" or e["domain"] == "vm2"
    ]
    return found


def run(cells: Sequence[Cell]) -> Outcomes:
    for cell in cells:
        yield Outcome(cell, result_of(cell))


def options_of(**options: Any) -> PolicyBenchOptions:
    given = {"policies": POLICIES, "scenarios": ("main",), "seeds": 3} | options
    return PolicyBenchOptions(**given)


def plan(**options: Any) -> PolicyBenchPlan:
    return PolicyBenchPlan.of(options_of(**options))


def measured(directory: Path, run: Run = run, **options: Any) -> dict[str, Any]:
    bench = PolicyBench(options_of(**options), speeds=False, run=run)
    with Progress() as progress:
        return bench.measure(directory, progress)


def bench_policies(options: PolicyBenchOptions, as_json: bool, out: str, page: str | None) -> int:
    return run_bench(PolicyBench(options, speeds=False, run=run), as_json, out, page)


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    return measured(tmp_path)


def test_the_rows_are_means_over_seeds(found: dict[str, Any]) -> None:
    assert len(found["rows"]) == 2 * 4
    row = found["rows"]["sim/main/smart-alloc:P=2"]
    mean = row["figures"]["mean_slowdown"]
    assert (mean["count"], mean["mean"]) == (3, pytest.approx((1.5 / 2 + 1.5) / 2))
    assert row["figures"]["worst_slowdown"]["mean"] == pytest.approx(1.5)
    # Seeds change the times and not the slowdowns: the pairs differ by one number.
    against = row["against_greedy"]["worst_slowdown"]
    assert against["low"] == pytest.approx(against["high"]) == pytest.approx(-1.5)


def test_both_worlds_are_ranked_and_correlated(found: dict[str, Any]) -> None:
    order = [BEST_STATIC, "smart-alloc:P=2", "static-alloc", "greedy"]
    assert list(found["overall"]["sim"]) == order
    assert found["rank_correlation"] == {"main": 1, "overall": 1}


def test_the_best_static_split_is_a_row_and_never_the_best(found: dict[str, Any]) -> None:
    assert found["rows"][f"sim/main/{BEST_STATIC}"]["figures"]["mean_slowdown"]["mean"] < 1
    assert not views.is_best(found, "sim", "main", BEST_STATIC, "mean_slowdown")
    assert views.is_best(found, "sim", "main", "smart-alloc:P=2", "mean_slowdown")
    assert BEST_STATIC not in points(found)


def test_every_shipped_scenario_is_in_one_part_of_the_split() -> None:
    parts = split.by_split([*split.default_scenarios(), "mine.toml"])
    assert set(parts) == {split.TUNED, split.UNSEEN, split.OTHER}
    assert parts[split.TUNED] == shipped()
    assert len(parts[split.UNSEEN]) >= 12
    assert parts[split.OTHER] == ["mine.toml"]


def test_each_part_of_the_split_has_tables_and_an_order_of_its_own(tmp_path: Path) -> None:
    found = measured(tmp_path, scenarios=("main", "unseen/pair"), world="sim")
    assert set(found["overall_by_split"]) == {split.TUNED, split.UNSEEN}
    titles = [table.title for table in views.slowdown_tables(json.loads(json.dumps(found)))]
    assert [title.split(", ")[:2] for title in titles] == [
        [kind, part]
        for part in (split.TUNED, split.UNSEEN)
        for kind in ("Mean slowdown", "Slowdown of the worst domain")
    ]


def test_every_cost_set_has_tables_and_an_order_of_its_own(tmp_path: Path) -> None:
    def by_costs(cells: Sequence[Cell]) -> Outcomes:
        for cell in cells:
            found = result_of(cell)
            if cell.overrides == (("cost_set", "kernel-like"),) and cell.policy == "greedy":
                for entry in found["domains"]:
                    entry["run_s"] /= 1 if cell.kind == "alone" else 2.5
            yield Outcome(cell, found)

    found = json.loads(json.dumps(measured(tmp_path, by_costs, world="sim")))
    orders = [list(one["overall"]["sim"]) for one in views.by_costs(found)]
    assert [order.index("greedy") for order in orders] == [3, 1]
    text = views.markdown(found)
    for name in COST_SETS:
        assert f"Slowdown of the worst domain, {split.TUNED}, costs {name}," in text
    assert found["rows"] == found["by_costs"]["testbed"]["rows"]


def test_one_cost_set_can_be_asked_for() -> None:
    cells = plan(costs="kernel-like", world="sim").cells["sim"]
    assert {cell.overrides for cell in cells} == {(("cost_set", "kernel-like"),)}
    real = plan(costs="kernel-like", world="testbed").cells["testbed"]
    assert {cell.overrides for cell in real} == {()}
    with pytest.raises(ConfigError, match="no-such-set"):
        plan(costs="no-such-set")


def test_a_stopped_bench_goes_on(tmp_path: Path) -> None:
    counted: list[Cell] = []

    def some(cells: Sequence[Cell]) -> Outcomes:
        for cell in cells:
            counted.append(cell)
            yield Outcome(cell, result_of(cell))

    first = measured(tmp_path, some)
    ran = len(counted)
    again = measured(tmp_path, some)
    assert len(counted) == ran > 0
    assert again["rows"] == first["rows"]


def test_lies_and_aggression_are_measured_where_they_are_told(tmp_path: Path) -> None:
    what = plan(scenarios=("mixed", "liar"), world="sim")
    kinds = {cell.kind for cell in what.cells["sim"]}
    assert kinds == {"run", "alone", "lie", "without", "optimal"}
    found = measured(tmp_path, scenarios=("mixed", "liar"), world="sim")
    assert found["gain_from_lying"]["greedy"] == pytest.approx(1)
    assert found["isolation"]["greedy"] == pytest.approx(1)


def test_defaults_keep_the_testbed_to_a_few() -> None:
    what = plan(policies=(), scenarios=(), seeds=None)
    real = [cell for cell in what.cells["testbed"] if cell.kind == "run"]
    simulated = [cell for cell in what.cells["sim"] if cell.kind == "run"]
    assert 0 < len(real) < 20 < len(simulated)
    everything = plan(policies=(), scenarios=(), seeds=None, full=True)
    both = [{(c.policy, c.scenario) for c in cells} for cells in everything.cells.values()]
    assert both[0] == both[1]


def test_a_failed_run_is_told_of(tmp_path: Path) -> None:
    def broken(cells: Sequence[Cell]) -> Outcomes:
        for cell in cells:
            if cell.kind == "run" and cell.policy == "static-alloc":
                yield Outcome(cell, None, "told to fail")
            else:
                yield Outcome(cell, result_of(cell))

    found = measured(tmp_path, broken, world="sim")
    assert len(found["errors"]) == 3 * len(COST_SETS)
    assert all("told to fail" in error for error in found["errors"])
    assert "static-alloc" not in found["overall"]["sim"]


def test_the_page_is_filled_between_its_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    options = PolicyBenchOptions(policies=POLICIES, scenarios=("main",), seeds=2)
    out = str(tmp_path / "out")
    for _ in range(2):
        assert bench_policies(options, True, out, str(page)) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["bench"] == "policies"
    written = page.read_text(encoding="utf-8")
    assert written.startswith("# A page\n")
    assert written.endswith("The end.")
    assert written.count("| smart-alloc:P=2 |") == 2 * len(COST_SETS) + 1
    assert "**1.50 ±0.00** / **1.50 ±0.00**" in written
    assert "- **greedy**" in written
    assert "- **usemem**" in written
    figure = ElementTree.parse(tmp_path / "policies_frontier.svg")
    labels = {element.text for element in figure.iter() if element.text}
    assert {"greedy", "static-alloc", "smart-alloc:P=2"} <= labels


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page", encoding="utf-8")
    with pytest.raises(ConfigError, match="begin"):
        fill_page(PolicyBench(options_of()), None, page)


def test_the_terminal_gets_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = PolicyBenchOptions(policies=POLICIES, scenarios=("main",), seeds=2)
    assert bench_policies(options, False, str(tmp_path), None) == 0
    out = capsys.readouterr().out
    for wanted in ("Mean slowdown", "worst domain", "1.50±0.00*", "Spearman", "frontier"):
        assert wanted in out


def test_the_frontier_is_what_nothing_beats() -> None:
    known = {"a": (1.0, 3.0), "b": (2.0, 2.0), "c": (2.0, 3.0), "d": (3.0, 1.0), "e": (3.5, 1.5)}
    assert frontier(known) == ["a", "b", "d"]
    assert frontier({}) == []


def test_a_figure_without_results_is_still_one() -> None:
    empty = {"overall": {}, "policies": []}
    ElementTree.fromstring(svg(views.figure(empty)))


def test_speeds_are_held_against_their_targets() -> None:
    reached = {name: each["reached"] for name, each in verdicts({"sim_refs_per_s": 16e6}).items()}
    assert reached["sim_refs_per_s"] == "must"
    assert reached["tick_10000_ms"] == "unmeasured"
    assert verdicts({"tick_10000_ms": 6.0})["tick_10000_ms"]["reached"] == "missed"
    assert set(reached) == set(TARGETS)
    assert math.isnan(verdicts({})["sim_refs_per_s"]["measured"])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"world": "moon"}, "--world"),
        ({"quick": True, "full": True}, "--quick"),
        ({"scenarios": ("nothing",)}, "nothing"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        bench("policies", True, None, None, options)


def test_options_of_one_bench_are_not_for_another() -> None:
    with pytest.raises(ConfigError, match="--world"):
        bench("grant", True, None, None, {"world": "sim"})
    with pytest.raises(ConfigError, match="--rounds"):
        bench("policies", True, 3, None, {})


@pytest.mark.slow
@pytest.mark.process
def test_a_real_look_at_one_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = PolicyBenchOptions(policies=("smart-alloc",), scenarios=("usemem",), seeds=1)
    assert run_bench(PolicyBench(options, speeds=False), True, str(tmp_path)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == []
    for world in ("sim", "testbed"):
        for policy in ("greedy", "smart-alloc"):
            figures = found["rows"][f"{world}/usemem/{policy}"]["figures"]
            assert figures["finished"]["mean"] == figures["domains"]["mean"] == 3
            assert figures["worst_slowdown"]["mean"] >= figures["mean_slowdown"]["mean"] > 0
            assert 0 <= figures["utilisation"]["mean"] <= 1
            assert figures["regret"]["mean"] is not None


def test_the_page_lists_what_there_is(checkout: Path) -> None:
    path = checkout / "docs" / "policies.md"
    fill_page(PolicyBench(options_of()), None, path)
    page = path.read_text(encoding="utf-8")
    assert page.count("begin -->") == len(PARTS)
    for part in (views.policy_list(), views.scenario_list()):
        names = [line.split("**")[1] for line in part.splitlines() if line.startswith("- **")]
        assert len(names) > 2
        missing = [name for name in names if f"- **{name}**" not in page]
        assert missing == [], "run memcoord bench policies --markdown docs/policies.md"
