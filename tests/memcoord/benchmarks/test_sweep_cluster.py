"""Goal: a cluster gives what one machine gives. Method: a real scheduler, two real workers of which
one is killed while it works."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fake_cells
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.sweep import cluster
from memcoord.commands.sweep import sweep_command
from memcoord.testbed.runs.launcher import ROOT

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    # Not ours: what dask and tornado say of themselves.
    pytest.mark.filterwarnings("ignore"),
]

GRID = """
[sweep]
policies = ["greedy", "static-alloc", "smart-alloc"]
scenarios = ["main"]
seeds = 8
"""
CELLS = 48
HERE = """
from memcoord.commands.sweep import sweep_command
if __name__ == "__main__":
    raise SystemExit(sweep_command("grid.toml", "here", 2, "{local}", True, "{runner}"))
"""
WAIT_S = 60.0
REST_S = 0.1
Popen = subprocess.Popen[bytes]


@contextlib.contextmanager
def process(*arguments: str, directory: Path) -> Iterator[Popen]:
    with (directory / f"{arguments[0]}.log").open("ab") as log:
        made = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{arguments[0]}", *arguments[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
        )
    try:
        yield made
    finally:
        made.kill()
        made.wait(WAIT_S)


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("distributed")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(ROOT)]))
    monkeypatch.setenv(fake_cells.LOG, str(tmp_path / "ran"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    with process("dask_scheduler", *options, directory=tmp_path):
        yield f"tcp://127.0.0.1:{port}"


def worker(address: str, directory: Path) -> contextlib.AbstractContextManager[Popen]:
    options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", "60")
    return process("dask_worker", address, *options, directory=directory)


def sweep(directory: Path, out: str, dask: str | None) -> int:
    grid = directory / "grid.toml"
    grid.write_text(GRID, encoding="utf-8")
    return sweep_command(str(grid), str(directory / out), 2, dask, True, fake_cells.RUNNER)


def table(directory: Path, out: str) -> str:
    return (directory / out / "results.csv").read_text(encoding="utf-8")


def kill_when(cells: Path, count: int, victim: Popen) -> None:
    """SIGKILL ``victim`` once ``count`` results are there."""
    deadline = time.monotonic() + WAIT_S
    while len(list(cells.glob("*.json"))) < count and time.monotonic() < deadline:
        time.sleep(REST_S / 10)
    victim.send_signal(signal.SIGKILL)


def test_a_worker_killed_half_way_loses_and_doubles_nothing(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_cells.REST_S, str(REST_S))
    with worker(scheduler, tmp_path), worker(scheduler, tmp_path) as victim:
        cells = tmp_path / "cluster" / "cells"
        killer = threading.Thread(target=kill_when, args=(cells, CELLS // 4, victim))
        killer.start()
        assert sweep(tmp_path, "cluster", scheduler) == 0
        killer.join()
        assert victim.wait(WAIT_S) == -signal.SIGKILL
    times = Counter(fake_cells.ran())
    assert len(times) == CELLS
    # Both worked: what the victim had in hand, and no result has of it, was run again.
    assert CELLS // 4 <= len(list(cells.glob("*.json"))) == CELLS
    monkeypatch.setenv(fake_cells.REST_S, "0")
    assert sweep(tmp_path, "local", None) == 0
    assert table(tmp_path, "cluster") == table(tmp_path, "local")
    assert len(table(tmp_path, "cluster").splitlines()) == 1 + CELLS // 2


def test_a_cluster_may_be_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT)]))
    monkeypatch.setenv(fake_cells.LOG, str(tmp_path / "ran"))
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    # By itself: dask keeps a process that ends with the one that made the cluster.
    program = tmp_path / "here.py"
    program.write_text(HERE.format(local=cluster.LOCAL, runner=fake_cells.RUNNER), encoding="utf-8")
    subprocess.run([sys.executable, program], cwd=tmp_path, timeout=WAIT_S, check=True)
    assert len(fake_cells.ran()) == CELLS


def test_a_cell_that_fails_on_a_cluster_is_told_of(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_cells.BAD, "alone vm3, seed 2")
    monkeypatch.setenv(fake_cells.HOW, "raise")
    with worker(scheduler, tmp_path):
        assert sweep(tmp_path, "cluster", scheduler) == 1
    assert len(list((tmp_path / "cluster" / "cells").glob("*.json"))) == CELLS - 1


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://127.0.0.1:x"])
def test_a_cluster_that_is_not_there_is_named(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    with pytest.raises(ConfigError, match="--dask"):
        sweep(tmp_path, "out", address)
