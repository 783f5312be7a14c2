"""Goal: agreement is told as it was. Method: cells that only pretend to run, and no clock."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_cells
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import tables
from memcoord.benchmarks.agreement import summary, views
from memcoord.benchmarks.agreement.bench import AgreementBench, AgreementOptions, AgreementPlan
from memcoord.benchmarks.agreement.correlation import Point, correlation
from memcoord.benchmarks.runner import run_bench
from memcoord.benchmarks.sweep.cell import Cell, Result, scenario_of
from memcoord.benchmarks.sweep.local import Outcome, Outcomes
from memcoord.commands.bench import bench_of
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs.load import OTHERS_CPUS_MAX

POLICIES = ("greedy", "static-alloc", "smart-alloc:P=2", "fallow")
SLOWDOWN = {"greedy": 4.0, "static-alloc": 3.0, "idle-tax": 2.5, "smart-alloc": 2.0, "fallow": 1.5}
READS = {"greedy": 400, "static-alloc": 300, "idle-tax": 250, "smart-alloc": 200, "fallow": 100}


def result_of(cell: Cell, *, longer: float = 1.0, others_cpus: float = 0.0) -> Result:
    """As if: each policy takes its time, ``longer`` times as long in real processes."""
    found = fake_cells.run(cell)
    is_real = cell.world == "testbed"
    for entry in found["domains"]:
        factor = 1.0 if cell.kind == "alone" else SLOWDOWN[cell.policy] * (longer if is_real else 1)
        reads = 0 if cell.kind == "alone" else READS[cell.policy]
        entry |= {"run_s": (10.0 + cell.seed) * factor, "swap_ins": reads, "file_reads": 0}
        entry |= {"swap_outs": reads, "tmem_hits": 0}
    if is_real:
        load = {"before_1m": 0.1, "after_1m": 0.1, "others_cpus": others_cpus}
        found |= {"load": load, "overlap": []}
    return found


def measured(directory: Path, made: Any = result_of, **options: Any) -> dict[str, Any]:
    def run(cells: Sequence[Cell]) -> Outcomes:
        for cell in cells:
            yield Outcome(cell, made(cell))

    given = {"policies": POLICIES, "scenarios": ("main", "usemem"), "seeds": 2} | options
    with Progress() as progress:
        found = AgreementBench(AgreementOptions(**given), run=run).measure(directory, progress)
    decoded: dict[str, Any] = json.loads(json.dumps(found))
    return decoded


def points(*pairs: tuple[float, float], group: str = "one") -> list[Point]:
    return [Point(group, *pair) for pair in pairs]


def test_rho_and_p_of_all_orders() -> None:
    """Goal: p is the share of orders. Method: four points, whose 24 orders are all counted."""
    second = (1.0, 2.0, 4.0, 3.0)
    found = correlation(points(*zip((1.0, 2.0, 3.0, 4.0), second, strict=True)))
    assert found.rho == pytest.approx(0.8)
    rhos = [
        1 - sum((a - b) ** 2 for a, b in zip(range(4), order, strict=True)) / 10
        for order in itertools.permutations(range(4))
    ]
    share = sum(rho >= 0.8 - 1e-9 for rho in rhos) / 24
    assert found.p == pytest.approx(share, abs=0.02)
    assert found.n == 4


def test_what_differs_between_scenarios_only_is_no_agreement() -> None:
    """Goal: pooling cannot make agreement. Method: scenarios apart, policies in opposite orders."""
    opposite = [
        Point(group, base + rank, base + 4 - rank)
        for group, base in (("a", 0.0), ("b", 100.0), ("c", 200.0))
        for rank in range(5)
    ]
    pooled = correlation(opposite)
    assert pooled.rho is not None
    assert pooled.rho > 0.7
    assert correlation(opposite, within=True).rho == pytest.approx(-1)
    assert pooled.p is not None
    assert pooled.p > 0.99  # no other order within the scenarios agrees less


def test_too_few_points_and_equal_ones_have_no_correlation() -> None:
    assert correlation(points((1, 2), (2, 3))).rho is None
    assert correlation(points((1, 2), (1, 3), (1, 4))).rho is None
    some = correlation(points((1, 2), (2, math.nan), (3, 4)))
    assert (some.rho, some.n) == (None, 2)


def test_worlds_that_agree_reach_every_aim(tmp_path: Path) -> None:
    found = measured(tmp_path)
    assert found["correlations"]["time"]["pooled"]["rho"] == pytest.approx(1)
    assert found["correlations"]["traffic"]["main"]["n"] == len(POLICIES)
    assert found["policies"]["greedy"]["ratio"]["value"] == pytest.approx(1)
    assert {one["reached"] for one in found["targets"].values()} == {"aim"}
    assert found["repeats"]["main"] == pytest.approx(1)


def test_a_slower_world_misses_the_ratio_and_keeps_the_ranks(tmp_path: Path) -> None:
    found = measured(tmp_path, lambda cell: result_of(cell, longer=1.5))
    targets = found["targets"]
    assert targets["slowdown ratio, worst policy"]["measured"] == pytest.approx(1.5)
    assert targets["slowdown ratio, worst policy"]["reached"] == "missed"
    assert targets["rank time, worst scenario"]["reached"] == "aim"
    assert found["rows"]["main/greedy"]["testbed"]["slowdown"] == pytest.approx(6)


def test_loaded_runs_are_marked_and_left_out_of_times(tmp_path: Path) -> None:
    def some(cell: Cell) -> Result:
        busy = cell.seed == 1 and cell.kind == "run" and cell.policy == "greedy"
        return result_of(
            cell, longer=9.0 if busy else 1.0, others_cpus=2 * OTHERS_CPUS_MAX if busy else 0.0
        )

    found = measured(tmp_path, some)
    assert (found["marked_runs"], found["real_runs"]) == (2, 16)
    assert found["times_comparable"]
    assert found["policies"]["greedy"]["ratio"]["value"] == pytest.approx(1)
    assert found["rows"]["main/greedy"]["marked"] == 1
    assert "!" in views.markdown(found)
    assert "left out of the times" in views.markdown(found)


def test_with_load_everywhere_times_are_not_comparable_and_counts_are(tmp_path: Path) -> None:
    def busy(cell: Cell) -> Result:
        return result_of(cell, others_cpus=2.0 if cell.kind == "alone" else 0.0)

    found = measured(tmp_path, busy)
    assert found["marked_runs"] == found["real_runs"]
    assert not found["times_comparable"]
    reached = {name: one["reached"] for name, one in found["targets"].items()}
    assert reached.pop("rank traffic, pooled") == "aim"
    assert set(reached.values()) == {summary.NOT_COMPARABLE}


def test_every_round_has_every_policy_and_another_first() -> None:
    plan = AgreementPlan.of(AgreementOptions(policies=POLICIES, scenarios=("loop",), seeds=4))
    for cells in plan.cells.values():
        rounds = [[c for c in cells if c.seed == seed] for seed in plan.seeds]
        runs = [[c.policy_text for c in one if c.kind == "run"] for one in rounds]
        assert len({one[0] for one in runs}) == len(POLICIES)
        assert all(sorted(one) == sorted(POLICIES) for one in runs)
        assert all({c.domain for c in one if c.kind == "alone"} == {"vm1", "vm2"} for one in rounds)
    texts = [{cell.text for cell in cells if cell.seed == 2} for cells in plan.cells.values()]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 1


def test_scenarios_have_their_size_and_vary_with_the_seed() -> None:
    plan = AgreementPlan.of(AgreementOptions(policies=POLICIES, scenarios=("usemem", "main")))
    cells = [cell for cell in plan.cells["sim"] if cell.kind == "run" and cell.policy == "greedy"]
    found = {(cell.scenario, cell.seed): scenario_of(cell) for cell in cells}
    assert found["usemem", 1].memory == 4 * 20 << 20  # a quarter of 16 times its file's
    assert found["main", 1].memory == 24 << 20
    starts = {found["usemem", seed].domain[2].start_when for seed in plan.seeds}
    assert len(starts) == len(plan.seeds)
    assert plan.expected_s() > 60


def test_who_cannot_run_in_both_worlds_is_left_out_and_named() -> None:
    plan = AgreementPlan.of(AgreementOptions(scenarios=("main",), seeds=1))
    assert "far-memory" not in plan.policies
    assert "far-memory" in plan.left_out
    assert "greedy" in plan.policies


def test_the_page_and_the_json_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{tables.begin('agreement')}\n{tables.end('agreement')}\n", encoding="utf-8")

    def run(cells: Sequence[Cell]) -> Outcomes:
        for cell in cells:
            yield Outcome(cell, result_of(cell))

    bench = AgreementBench(AgreementOptions(quick=True), run=run)
    assert run_bench(bench, True, str(tmp_path / "out"), str(page)) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["quick"] is True
    assert told.err.startswith("bench agreement: ")
    assert "about" in told.err.splitlines()[0]
    text = page.read_text(encoding="utf-8")
    assert "**Do both worlds rank the policies alike**" in text
    assert "| pooled, ranks within scenarios |" in text


def test_rounds_are_seeds_and_wrong_options_are_named() -> None:
    made = bench_of("agreement", 3, {"scenarios": ("main",), "policies": POLICIES})
    assert isinstance(made, AgreementBench)
    assert made.plan.seeds == (1, 2, 3)
    with pytest.raises(ConfigError, match="--rounds"):
        bench_of("agreement", 3, {"seeds": 3})
    with pytest.raises(ConfigError, match="--world"):
        bench_of("agreement", None, {"world": "sim"})
    with pytest.raises(ConfigError, match="--scale"):
        bench_of("agreement", None, {"scale": 1.5})
    with pytest.raises(ConfigError, match="costs"):
        bench_of("agreement", None, {"costs": "no-such-set"})
