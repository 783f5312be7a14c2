"""Goal: who gains and who pays is told as it was. Method: cells that only pretend, and no clock."""

from __future__ import annotations

import json
import socket
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_cells
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks import tables
from memcoord.benchmarks.runner import run_bench
from memcoord.benchmarks.smartmem import curves, situations, verdict, views
from memcoord.benchmarks.smartmem.bench import (
    SITUATIONS,
    SmartmemBench,
    SmartmemOptions,
    SmartmemPlan,
)
from memcoord.benchmarks.smartmem.programs import run_cell, thinned
from memcoord.benchmarks.sweep.cell import Cell, Result
from memcoord.benchmarks.sweep.local import Outcome, Outcomes
from memcoord.benchmarks.sweep.worlds import Seen, text_of
from memcoord.commands.bench import bench, bench_of, scale_of
from memcoord.testbed.applications.client import ask
from memcoord.testbed.applications.protocols import PROTOCOLS
from memcoord.testbed.applications.server import NUMBER, answer, row
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs import userfaults
from memcoord.testbed.scenarios.programs import ProgramWorkload
from memcoord.testbed.scenarios.schema import parse
from policies.base import PolicyError

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


# Real programs


def programs_result(cell: Cell) -> Result:
    """As ``result_of``, with what a run of real programs tells beside it."""
    found = result_of(cell)
    ticks = 20 if cell.seed == 0 else 150
    for entry in found["domains"]:
        entry["checksum"] = f"checksum of {entry['domain']} in {cell.scenario}"
    seen = {"p50": 1.0, "p99": 2.0, "p999": 3.0, "max": 4.0, "requests": 9, "wrong": 0}
    return {
        **found, "ticks": ticks, "over_time": {"vm1": [(0.0, 5, -1), (1.0, 7, 9)]},
        "load": {"before_1m": 1.0, "others_cpus": 0.5}, "overlap": [],
        "latencies": {"vm2": seen} if cell.scenario == "servers" else {},
    }  # fmt: skip


def of_programs(
    directory: Path, made: Any = programs_result, **options: Any
) -> tuple[dict[str, Any], list[Cell]]:
    """What the bench makes of cells that ``made`` tells of, and these cells."""
    ran: list[Cell] = []

    def pretend(cells: Sequence[Cell]) -> Outcomes:
        for cell in cells:
            ran.append(cell)
            yield Outcome(cell, made(cell))

    told = SmartmemOptions(world="programs", scale=0.125, **options)
    with Progress() as progress:
        found = SmartmemBench(told, run=pretend).measure(directory, progress)
    return json.loads(json.dumps(found)), ran


def test_a_look_says_how_much_work_a_run_has(tmp_path: Path) -> None:
    found, ran = of_programs(tmp_path, scenarios=("S2",), seeds=2)
    look, *runs = ran
    assert (look.policy, look.seed) == ("greedy", 0)
    assert '--iterations", "12"' in look.text
    # 20 ticks of 2 rounds, 100 wanted and a margin: 14 rounds of 6 iterations.
    assert all('--iterations", "84"' in cell.text for cell in runs)
    assert {cell.policy_text for cell in runs} >= {"greedy", "ram-max-min", "fallow"}
    assert [cell.seed for cell in runs] == sorted(cell.seed for cell in runs)
    again, ran = of_programs(tmp_path, scenarios=("S2",), seeds=2)
    assert (again["rows"], ran) == (found["rows"], [])


def test_every_situation_is_a_scenario_at_every_size(tmp_path: Path) -> None:
    for name in situations.MADE:
        for scale in (situations.FULL, situations.SMALL, 1 / 64):
            made = parse(tomllib.loads(text_of(situations.scenario(name, scale, 3))))
            assert len(made.domain) == 3
            assert made.interval_ms == max(round(1000 * scale), 1)
            for domain in made.domain:
                assert isinstance(domain.workload, ProgramWorkload)
                assert domain.workload.total > 0 or domain.workload.argv[0] == "redis-server"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_client_counts_wrong_answers_and_waits_from_when_they_were_due(name: str) -> None:
    speaks, (ours, theirs) = PROTOCOLS[name](), socket.socketpair()
    replies = {
        "sqlite": lambda number: NUMBER.pack(answer(number)),
        "redis": lambda number: b"$4000\r\n" + row(number) + b"\r\n",
    }

    def serve() -> None:
        for number in (1, 2, 3):
            asked = speaks.request(number)
            assert theirs.recv(len(asked), socket.MSG_WAITALL) == asked
            said = replies[name](7 if number == 2 else number)
            theirs.sendall(said[:5])
            theirs.sendall(said[5:])

    thread = threading.Thread(target=serve)
    thread.start()
    with ours, theirs:
        latencies, wrong = ask(ours, speaks, iter([1, 2, 3]), 1000.0)
        thread.join(20)
    assert (len(latencies), wrong) == (3, 1)
    assert speaks.reply(1, b"") is None


def test_a_program_that_says_otherwise_is_an_error(tmp_path: Path) -> None:
    def wrong(cell: Cell) -> Result:
        found = programs_result(cell)
        if cell.policy == "fallow" and cell.seed == 2:
            found["domains"][1]["checksum"] = "checksum of something else"
        return found

    found, _ = of_programs(tmp_path, wrong, scenarios=("S1",), seeds=2)
    (error,) = found["errors"]
    assert error.startswith("fallow on S1, seed 2, programs: vm2 said other than in ")
    assert "Wrong bytes: see the errors." in views.closing_lines(found)
    assert SmartmemBench(SmartmemOptions()).status(found) == 1


def test_the_verdict_names_who_gains_who_pays_and_whether_an_equal_share_does_it(
    tmp_path: Path,
) -> None:
    def told(cell: Cell) -> Result:
        """Ours: each is a little quicker than under greedy; smart-alloc costs vm1 20 %."""
        found = programs_result(cell)
        if cell.policy == "fallow":
            for entry, run_s in zip(found["domains"], (9.0, 12.0), strict=True):
                entry["run_s"] = run_s * (1 + cell.seed / 10)
        return found

    found, _ = of_programs(tmp_path, told, scenarios=("S1", "servers"), seeds=3)
    lines = verdict.sentences(found, "programs")
    assert lines[0].startswith("Up to 35 %, programs: reached: +35 % for vm2 in")
    once, _ = of_programs(tmp_path / "once", told, scenarios=("S1",), seeds=1)
    assert "not shown, no interval" in verdict.sentences(once, "programs")[0]
    wide = {"value": 90.0, "low": -5.0, "high": 185.0, "n": 2}
    found["rows"]["programs/S1/smart-alloc:P=2"]["domains"]["vm1"] = wide
    assert verdict.best(found, "programs", "S1")[1] == "vm2"
    assert any("S1, programs: vm2 has the most of smart-alloc" in line for line in lines)
    share = "pays: vm1; an equal share (static-alloc) gives it +50 %, as much"
    assert any(share in line for line in lines)
    (held,) = (line for line in lines if line.startswith("Our policy"))
    assert held.endswith("programs: holds (3 of 3 conditions)")
    shown = list(views.tables_of(found))
    titles = [table.title for table in shown]
    assert titles[:2] == ["S1, programs", "S1, programs: seconds"]
    assert titles[2] == "S1, programs: thousands of pages from the disk"
    assert titles[-1].startswith("answers of the servers")
    assert shown[-1].lines[0][-4:] == ["1.00", "2.00", "3.00", "4.00"]
    assert curves.sheet(found["over_time"])[0][0].title == "S1, greedy"
    assert "Made by `memcoord bench smartmem --world programs" in views.markdown(found)


def test_wrong_options_of_real_programs_are_named(tmp_path: Path) -> None:
    for options, key in (
        ({"scenarios": ("cold-early",)}, "--scenario"),
        ({"scale": 2.0}, "--scale"),
        ({"scale": 0.001}, "--scale"),
        ({"data": str(tmp_path / "none")}, "--data"),
    ):
        with pytest.raises(ConfigError, match=key):
            SmartmemPlan.of(SmartmemOptions(world="programs", **options))
    with pytest.raises(PolicyError, match="nonsense"):
        SmartmemPlan.of(SmartmemOptions(world="programs", policies=("nonsense",)))
    assert (scale_of("small"), scale_of("0.5")) == (0.125, 0.5)
    with pytest.raises(ConfigError, match="--scale: only with --world programs"):
        bench_of("smartmem", None, {"scale": 0.125})


def test_a_curve_is_thinned() -> None:
    seen = [Seen(i / 10, name, i, -1, 0, 0, 0, 0) for i in range(500) for name in ("vm1", "vm2")]
    found = thinned(seen)
    assert set(found) == {"vm1", "vm2"}
    assert 60 <= len(found["vm1"]) <= 120
    assert found["vm1"][1] == (0.5, 5, -1)


@pytest.mark.process
@pytest.mark.parametrize("situation", ["servers", "redis"])
def test_a_real_server_answers_a_client_outside(situation: str) -> None:
    """By the one function that runs a cell, tiny: a server short of memory, and a program."""
    if obstacle := userfaults.probe().obstacle():
        pytest.skip(obstacle)
    if situation not in situations.found():
        pytest.skip(f"needs {situations.NEEDS[situation]}")
    raw = situations.scenario(situation, 1 / 64, 8)
    cell = Cell(policy="greedy", scenario=situation, text=text_of(raw), seed=1, world="programs")
    found = run_cell(cell)
    assert [domain["state"] for domain in found["domains"]] == ["done"] * 3, found["domains"]
    assert found["latencies"]["vm3"]["requests"] == 1000
    assert found["latencies"]["vm3"]["wrong"] == 0
    assert found["domains"][0]["checksum"].startswith("touched")
    assert found["domains"][2]["tmem_hits"] > 0
    assert found["over_time"]["vm1"]
