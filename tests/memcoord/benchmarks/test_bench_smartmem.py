"""Goal: who gains and who pays is told as it was. Method: cells that only pretend, and no clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_cells
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import tables
from memcoord.benchmarks.runner import run_bench
from memcoord.benchmarks.smartmem import views
from memcoord.benchmarks.smartmem.bench import (
    SITUATIONS,
    SmartmemBench,
    SmartmemOptions,
    SmartmemPlan,
)
from memcoord.benchmarks.sweep.cell import Cell, Result
from memcoord.benchmarks.sweep.local import Outcome, Outcomes
from memcoord.commands.bench import bench, bench_of
from memcoord.testbed.report.progress import Progress

#: Seconds of vm1 and of vm2, which comes last; of every policy that is not named: smart-alloc's.
TIMES = {"greedy": (10.0, 20.0), "static-alloc": (10.0, 10.0)}
SMART = (12.0, 13.0)


def result_of(cell: Cell) -> Result:
    """As if: management helps vm2, and vm1 pays; the seed makes everything longer."""
    found = fake_cells.run(cell)
    for entry, run_s in zip(found["domains"], TIMES.get(cell.policy, SMART), strict=True):
        entry["run_s"] = run_s * (1 + cell.seed / 10)
    return {**found, "ticks": 40 if cell.scenario == "S1" else 150}


def run(cells: Sequence[Cell]) -> Outcomes:
    for cell in cells:
        yield Outcome(cell, result_of(cell))


def measured(directory: Path, **options: Any) -> dict[str, Any]:
    with Progress() as progress:
        return SmartmemBench(SmartmemOptions(**options), run=run).measure(directory, progress)


def test_gains_are_of_greedys_time_and_paired_by_seed(tmp_path: Path) -> None:
    row = measured(tmp_path, scenarios=("S2",))["rows"]["sim/S2/smart-alloc:P=2"]
    late = row["domains"]["vm2"]
    assert late["value"] == pytest.approx(35)
    assert late["low"] == pytest.approx(late["high"]) == pytest.approx(35)
    assert late["n"] == 5
    assert (row["gains"], row["pays"], row["last"]) == (["vm2"], ["vm1"], "vm2")
    assert row["mean"]["value"] == pytest.approx((35 - 20) / 2)


def test_who_does_not_finish_has_no_gain(tmp_path: Path) -> None:
    def crashing(cells: Sequence[Cell]) -> Outcomes:
        for cell in cells:
            found = result_of(cell)
            if cell.policy == "static-alloc":
                found["domains"][1]["state"] = "crashed"
            yield Outcome(cell, found)

    bench = SmartmemBench(SmartmemOptions(scenarios=("S3",), quick=True), run=crashing)
    with Progress() as progress:
        rows = bench.measure(tmp_path, progress)["rows"]
    assert rows["sim/S3/static-alloc"]["domains"]["vm2"]["n"] == 0
    assert rows["sim/S3/static-alloc"]["gains"] == []


def test_every_policy_sees_the_same_starts_and_every_seed_others() -> None:
    cells = SmartmemPlan.of(SmartmemOptions()).cells["sim"]
    assert {cell.scenario for cell in cells} == set(SITUATIONS)
    starts = {(cell.scenario, cell.seed): cell.overrides for cell in cells}
    assert all(cell.overrides == starts[cell.scenario, cell.seed] for cell in cells)
    for name in SITUATIONS:
        assert len({starts[name, seed] for seed in range(1, 6)}) == 5
    first = [next(c for c in cells if (c.scenario, c.seed) == ("S1", s)) for s in range(1, 6)]
    assert len({cell.policy_text for cell in first}) == 5  # none always comes first


def test_the_page_says_what_holds_and_which_runs_are_too_short(tmp_path: Path) -> None:
    found = json.loads(json.dumps(measured(tmp_path, quick=True)))
    text = views.markdown(found)
    assert "| smart-alloc:P=2 | -20 [-20, -20] | +35 [+35, +35] |" in text
    assert "S2, sim: most +35 [+35, +35] % for vm2 under smart-alloc:P=" in text
    assert "fewer than 100 intervals: sim/S1/" in text
    assert "sim/S2/" not in text.partition("fewer than")[2]


def test_a_stopped_bench_goes_on_and_prints_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = SmartmemBench(SmartmemOptions(scenarios=("S1",), quick=True), run=run)
    page = tmp_path / "page.md"
    page.write_text(f"{tables.begin('smartmem')}\n{tables.end('smartmem')}\n", encoding="utf-8")
    for _ in range(2):
        assert run_bench(bench, True, str(tmp_path / "out"), str(page)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["rows"] == json.loads(second)["rows"]
    assert "**S1, sim**" in page.read_text(encoding="utf-8")


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match="--scenario"):
        bench_of("smartmem", None, {"scenarios": ("S9",)})
    with pytest.raises(ConfigError, match="--world"):
        bench_of("smartmem", None, {"world": "moon"})
    with pytest.raises(ConfigError, match="--policies"):
        bench_of("smartmem", None, {"policies": ("greedy",)})
    with pytest.raises(ConfigError, match="--rounds"):
        bench("smartmem", True, 3, None, {})


def test_a_real_look_in_virtual_time(tmp_path: Path) -> None:
    options = SmartmemOptions(scenarios=("cold-early",), quick=True, seeds=1)
    with Progress() as progress:
        found = SmartmemBench(options).measure(tmp_path, progress)
    assert found["errors"] == []
    assert len(found["rows"]) == len(found["policies"])
    assert all(row["intervals"] >= 100 for row in found["rows"].values())
