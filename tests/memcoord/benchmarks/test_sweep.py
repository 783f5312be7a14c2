"""Goal: every cell once, whatever dies. Method: cells that only pretend, real worker processes."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_cells
import msgspec
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.sweep.cell import Cell, policy_of, scenario_of
from memcoord.benchmarks.sweep.grid import Grid, cells_of, read_grid, split_policy
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.table import as_csv, rows_of
from memcoord.benchmarks.sweep.worlds import as_toml
from memcoord.commands.sweep import sweep_command
from memcoord.testbed.runs.launcher import ROOT
from policies.base import PolicyError

pytestmark = pytest.mark.process

WAIT_S = 60
GRID = """
[sweep]
policies = ["greedy", "smart-alloc"]
scenarios = ["main"]
seeds = 3
[parameters.smart-alloc]
P = [1, 2]
[set]
interval_ms = [50, 100]
"""
#: 3 policies x 2 settings x 3 seeds, and each of 3 domains alone in 2 settings x 3 seeds.
RUNS, CELLS = 18, 36


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(ROOT)]))
    monkeypatch.setenv(fake_cells.LOG, str(tmp_path / "ran"))
    path = tmp_path / "grid.toml"
    path.write_text(GRID, encoding="utf-8")
    return path


def sweep(grid: Path, out: str = "out", workers: int = 2) -> int:
    directory = str(grid.parent / out)
    return sweep_command(str(grid), directory, workers, None, True, fake_cells.RUNNER)


def table(grid: Path, out: str = "out") -> str:
    return (grid.parent / out / "results.csv").read_text(encoding="utf-8")


def test_every_cell_runs_once_and_is_found_again(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(grid) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["cells"], json.loads(out)["found"]) == (CELLS, 0)
    assert err.splitlines()[-1] == f"sweep grid: {CELLS} of {CELLS}"
    assert len(fake_cells.ran()) == len(set(fake_cells.ran())) == CELLS
    rows = list(csv.DictReader(table(grid).splitlines()))
    assert len(rows) == RUNS
    assert {row["smart-alloc.P"] for row in rows} == {"", "1", "2"}
    before = table(grid)
    assert sweep(grid) == 0
    assert json.loads(capsys.readouterr().out)["found"] == CELLS
    assert len(fake_cells.ran()) == CELLS
    assert table(grid) == before


def test_the_table_is_the_same_however_it_was_made(grid: Path) -> None:
    assert sweep(grid, "one", workers=1) == sweep(grid, "two", workers=3) == 0
    assert table(grid, "one") == table(grid, "two")


def test_parquet_says_what_csv_says(grid: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert sweep(grid) == 0
    read = parquet.read_table(grid.parent / "out" / "results.parquet").to_pydict()
    rows = list(csv.DictReader(table(grid).splitlines()))
    assert list(read) == list(rows[0])
    for column in ("mean_slowdown", "churn"):
        assert [f"{value:.9g}" for value in read[column]] == [row[column] for row in rows]


def test_a_worker_that_dies_costs_nothing(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_cells.BAD, "smart-alloc:P=1")
    monkeypatch.setenv(fake_cells.HOW, "die")
    monkeypatch.setenv(fake_cells.DEATHS, "2")
    assert sweep(grid, "dying") == 0
    monkeypatch.delenv(fake_cells.BAD)
    assert sweep(grid, "quiet") == 0
    assert table(grid, "dying") == table(grid, "quiet")


def test_a_cell_that_kills_every_worker_is_given_up(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(fake_cells.BAD, "alone vm2, seed 3")
    monkeypatch.setenv(fake_cells.HOW, "die")
    monkeypatch.setenv(fake_cells.DEATHS, "6")  # 3 for each of 2 cells: a fourth would succeed
    assert sweep(grid) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == 2
    assert all("died 3 times" in error for error in report["errors"])
    assert len(list(csv.DictReader(table(grid).splitlines()))) == RUNS


def test_a_cell_that_fails_is_told_of_and_tried_again_next_time(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(fake_cells.BAD, "greedy on main, seed 2")
    monkeypatch.setenv(fake_cells.HOW, "raise")
    assert sweep(grid) == 1
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert errors == ["greedy on main, seed 2, sim: ValueError: told to fail"] * 2
    assert len(table(grid).splitlines()) == 1 + RUNS - 2
    monkeypatch.delenv(fake_cells.BAD)
    assert sweep(grid) == 0
    assert json.loads(capsys.readouterr().out)["found"] == CELLS - 2
    assert len(table(grid).splitlines()) == 1 + RUNS


def test_a_killed_sweep_is_taken_up_again(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_cells.REST_S, "0.05")
    code = (
        "import sys; from memcoord.commands.sweep import sweep_command; "
        f"sweep_command({str(grid)!r}, {str(grid.parent / 'out')!r}, 2, None, True, "
        f"{fake_cells.RUNNER!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cells = grid.parent / "out" / "cells"
    deadline = time.monotonic() + WAIT_S
    while len(list(cells.glob("*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(cells.glob("*.json")))
    assert 5 <= kept < CELLS
    # As a disk that was full, or a machine that lost power, would leave them.
    torn, cut = sorted(cells.glob("*.json"))[:2]
    torn.write_bytes(torn.read_bytes()[:40])
    cut.write_bytes(cut.read_bytes().replace(b'"ticks":7', b'"ticks":8'))
    monkeypatch.setenv(fake_cells.REST_S, "0")
    assert sweep(grid) == sweep(grid, "whole") == 0
    assert table(grid) == table(grid, "whole")


def test_rows_do_not_depend_on_the_order_of_results(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(GRID, encoding="utf-8")
    results = [(cell, fake_cells.run(cell)) for cell in cells_of(read_grid(path))]
    wanted = as_csv(rows_of(results))
    random.Random(1).shuffle(results)
    assert as_csv(rows_of(results)) == wanted


def test_what_was_stored_is_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("key", {"a": float("nan"), "b": [1, 2.5]})
    assert store.read("key") == {"a": None, "b": [1, 2.5]}
    assert store.read("other") is None
    (tmp_path / "cells" / "other.json").write_bytes((tmp_path / "cells" / "key.json").read_bytes())
    assert store.read("other") is None


def test_two_sweeps_may_write_to_one_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other keeps the same cell between this one's writing and its renaming."""
    fsync = os.fsync

    def other_writes_first(descriptor: int) -> None:
        fsync(descriptor)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        Store(tmp_path).write("key", {"a": 1})
        assert Store(tmp_path).read("key") == {"a": 1}

    monkeypatch.setattr(os, "fsync", other_writes_first)
    Store(tmp_path).write("key", {"a": 2})
    assert Store(tmp_path).read("key") == {"a": 2}


def test_a_full_disk_leaves_no_half_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write("key", {})
    assert list((tmp_path / "cells").iterdir()) == []


def test_a_cell_names_itself_by_all_it_is() -> None:
    cell = Cell(policy="greedy", scenario="main", text="", seed=1)
    again = msgspec.json.decode(msgspec.json.encode(cell), type=Cell)
    assert (again, again.key) == (cell, cell.key)
    others = [
        msgspec.structs.replace(cell, **change)
        for change in (
            {"seed": 2},
            {"text": "x"},
            {"world": "testbed"},
            {"policy_file": "y"},
            {"params": (("P", "1"),)},
            {"overrides": (("slack", "2 MiB"),)},
            {"kind": "alone", "domain": "vm1"},
        )
    ]
    assert len({cell.key, *(other.key for other in others)}) == 1 + len(others)


def test_the_policy_file_travels_with_the_cell(tmp_path: Path) -> None:
    from policies.loader import load

    path = tmp_path / "mine.py"
    source = Path(__file__).parents[2] / "policies" / "example_policy.py"
    path.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    name = next(
        line.split()[1].strip(":(")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("class ")
    )
    table = {"policies": [f"{path}:{name}"], "scenarios": ["main"], "seeds": 1}
    cell = cells_of(msgspec.convert({"sweep": table}, Grid))[-1]
    path.unlink()
    with policy_of(cell) as text:
        assert type(load(text)).__name__ == name


def test_a_scenario_written_again_means_the_same() -> None:
    import tomllib

    from memcoord.testbed.scenarios.schema import load, parse

    for name in ("main",):
        scenario = load(name)
        assert parse(tomllib.loads(as_toml(scenario))) == scenario


def test_a_setting_changes_the_scenario() -> None:
    table = {"policies": ["greedy"], "scenarios": ["main"], "seeds": [9]}
    grid = msgspec.convert({"sweep": table, "set": {"domain[0].ram": ["4 MiB"]}}, Grid)
    scenario = scenario_of(cells_of(grid)[-1])
    assert (scenario.domain[0].ram, scenario.seed) == (4 << 20, 9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scenarios": ["nothing"]}, "nothing"),
        ({"policies": ["nothing"]}, "nothing"),
        ({"policies": []}, "sweep.policies"),
        ({"policies": ["greedy", "greedy"]}, "sweep.policies"),
        ({"seeds": 0}, "sweep.seeds"),
        ({"seeds": [1, 1]}, "sweep.seeds"),
        ({"world": "moon"}, "sweep.world"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(
    change: dict[str, object], named: str
) -> None:
    table = {"policies": ["greedy"], "scenarios": ["main"], "seeds": 1} | change
    with pytest.raises((ConfigError, PolicyError), match=named):
        cells_of(msgspec.convert({"sweep": table}, Grid))


@pytest.mark.parametrize("key", ["seed", "seeds", "policies"])
def test_a_setting_that_the_sweep_has_itself_is_refused(key: str) -> None:
    table = {"policies": ["greedy"], "scenarios": ["main"], "seeds": 1}
    with pytest.raises(ConfigError, match=f"write sweep.{key.rstrip('s')}"):
        cells_of(msgspec.convert({"sweep": table, "set": {key: ["1"]}}, Grid))


def test_too_many_combinations_are_counted_not_made() -> None:
    table = {"policies": ["greedy"], "scenarios": ["main"], "seeds": 1}
    settings = {f"domain[{index}].ram": list(range(10)) for index in range(12)}
    with pytest.raises(ConfigError, match="1,000,000,000,000 combinations"):
        cells_of(msgspec.convert({"sweep": table, "set": settings}, Grid))


def test_an_unknown_key_of_the_grid_is_named(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('[sweep]\npolicies = ["greedy"]\nscenarios = ["main"]\nsedes = 3\n')
    with pytest.raises(ConfigError, match="sedes"):
        read_grid(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_grid(tmp_path / "nothing.toml")


def test_a_policy_is_split_from_its_parameters() -> None:
    assert split_policy("smart-alloc:P=2,threshold=3") == (
        "smart-alloc",
        (("P", "2"), ("threshold", "3")),
    )
    assert split_policy("mine.py:Mine") == ("mine.py:Mine", ())
    assert split_policy("mine.py:Mine:a=1") == ("mine.py:Mine", (("a", "1"),))
