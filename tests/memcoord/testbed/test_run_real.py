"""The main job with real processes, shortened: verified pages, deaths, and nothing left behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from memcoord.commands.clean import clean
from memcoord.testbed.runs import rundir

LIMIT_S = 100.0
POLL_S = 0.02
#: Two domains that need 1,598 pages of tmem and get 512; the repeats decide how long.
SCENARIO = """
name = "short"
memory = "8 MiB"
slack = "2 MiB"
tmem = "2 MiB"
interval_ms = 20

[[domain]]
name = "vm1"
maxmem = "4 MiB"
ram = "2 MiB"
workload = {{ kind = "page-trace", trace = "sqlite", resident = "200 pages", repeat = {first} }}

[[domain]]
name = "vm2"
maxmem = "4 MiB"
ram = "2 MiB"
start_after_s = 0.1

[domain.workload]
kind = "page-trace"
trace = "sqlite"
resident = "300 pages"
repeat = {second}
program_file = true
"""
ENDLESS = 3_000
#: Pages of the sqlite trace, and how many of them are of the program's file.
PAGES = 1_049
FILE_PAGES = {"vm1": 0, "vm2": 291}

pytestmark = pytest.mark.process


def whole_lines(path: Path) -> str:
    """A file that another process is writing, up to its last end of line."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1]


def is_alive(pid: int) -> bool:
    """Not gone; a child whose parent was killed may wait long for init to reap it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Job:
    """``memcoord run`` as a user starts it, and what it leaves."""

    def __init__(self, tmp_path: Path, repeats: tuple[int, int], *policies: str) -> None:
        scenario = tmp_path / "short.toml"
        scenario.write_text(SCENARIO.format(first=repeats[0], second=repeats[1]))
        self.directory = tmp_path / "run"
        options = [option for policy in policies for option in ("--policy", policy)]
        self.process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "memcoord",
                    "run",
                    str(scenario),
                    "--json",
                    "--no-alone",
                ),
                *("--run-dir", str(self.directory), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=0,
        )

    def wait(self) -> dict[str, Any]:
        """The JSON it printed."""
        stdout, self.stderr = self.process.communicate(timeout=LIMIT_S)
        report: dict[str, Any] = json.loads(stdout)
        return report

    def events(self) -> list[dict[str, Any]]:
        text = whole_lines(self.directory / "events.jsonl")
        return [json.loads(line) for line in text.splitlines()]

    def pid_of(self, name: str) -> int:
        """The pid of a process of the run; of a domain, once it has done part of its work."""
        if name != "hypervisor":
            self.until_counted(name, "guest_references")
        self.until(lambda: self._started(name) is not None)
        pid = self._started(name)
        assert pid is not None
        return pid

    def until_counted(self, domain: str, column: str) -> None:
        """Wait until the series shows something other than 0."""

        def counted() -> bool:
            rows = csv.DictReader(whole_lines(self.directory / "series.csv").splitlines())
            return any(row["domain"] == domain and int(row[column]) > 0 for row in rows)

        self.until(counted)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(POLL_S)

    def pids(self) -> list[int]:
        manifest = json.loads((self.directory / "manifest.json").read_text())
        return [process["pid"] for process in manifest["processes"]]

    def _started(self, name: str) -> int | None:
        started = (e for e in self.events() if e["event"] == "started" and e["process"] == name)
        return next((event["pid"] for event in started), None)

    def assert_nothing_is_left(self) -> None:
        """No process, socket, link or swap file, in the run directory or out of it."""
        deadline = time.monotonic() + LIMIT_S
        while any(is_alive(pid) for pid in self.pids()):
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
        found = list(self.directory.rglob("*"))
        assert [path for path in found if path.is_socket() or path.is_symlink()] == []
        assert [path for path in found if path.name == "swap"] == []


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []
    before = set(tmp_path.parent.iterdir())

    def start(repeats: tuple[int, int], *policies: str) -> Job:
        jobs.append(Job(tmp_path, repeats, *policies))
        return jobs[-1]

    yield start
    for made in jobs:
        if made.process.poll() is None:
            made.process.kill()
            made.process.communicate(timeout=LIMIT_S)
    assert set(tmp_path.parent.iterdir()) == before


def states(report: dict[str, Any]) -> dict[str, str]:
    return {row["domain"]: row["state"] for row in report["policies"][-1]["domains"]}


def test_a_short_run_verifies_every_page_under_both_policies(job: Callable[..., Job]) -> None:
    work = job((4, 4), "greedy", "smart-alloc:P=2")
    report = work.wait()
    assert work.process.returncode == 0, (report, work.stderr)
    for policy in report["policies"]:
        for domain in policy["domains"]:
            assert domain["state"] == "done"
            assert domain["references"] == 4 * 8_395
            # Every reference is verified but the first of each page that is of no file.
            anonymous = PAGES - FILE_PAGES[domain["domain"]]
            assert domain["pages_verified"] == 4 * 8_395 - anonymous
            read = domain["swap_ins"] + domain["file_reads"]
            assert domain["faults"] == domain["tmem_hits"] + read + anonymous
            assert domain["file_reads"] >= FILE_PAGES[domain["domain"]]
            assert (domain["file_reads"] > 0) == (domain["domain"] == "vm2")
            assert domain["tmem_hits"] > 0
            assert domain["failed_puts"] > 0
            assert domain["swap_ins"] > 0
        assert policy["ticks"] > 0
    series = (work.directory / "series.csv").read_text().splitlines()
    assert len(series) > 1
    work.assert_nothing_is_left()


def test_a_killed_domain_is_reported_and_the_other_finishes(job: Callable[..., Job]) -> None:
    work = job((ENDLESS, 4), "greedy")
    os.kill(work.pid_of("vm1"), signal.SIGKILL)
    report = work.wait()
    assert work.process.returncode == 1
    assert states(report) == {"vm1": "killed", "vm2": "done"}
    log = next(work.directory.glob("*/events.jsonl")).read_text().splitlines()
    detached = [json.loads(line) for line in log if '"detached"' in line]
    assert {event["domain"] for event in detached} == {"vm1", "vm2"}
    work.assert_nothing_is_left()


def test_wrong_bytes_on_disk_fail_the_run_by_name(job: Callable[..., Job]) -> None:
    work = job((ENDLESS, 4), "greedy")
    work.until_counted("vm1", "guest_swap_ins")
    swap = next(work.directory.glob("*/vm1/swap"))
    with swap.open("r+b") as file:
        file.write(b"\xdb" * swap.stat().st_size)
    report = work.wait()
    assert work.process.returncode == 1
    assert states(report) == {"vm1": "failed", "vm2": "done"}
    reason = report["policies"][0]["domains"][0]["reason"]
    assert "wrong content: domain vm1, page " in reason
    work.assert_nothing_is_left()


def test_a_killed_hypervisor_is_started_again_and_reported(job: Callable[..., Job]) -> None:
    work = job((6, 6), "greedy")
    work.pid_of("vm1")
    work.pid_of("vm2")
    log = whole_lines(next(work.directory.glob("*/events.jsonl")))
    started = next(json.loads(line) for line in log.splitlines() if '"started"' in line)
    os.kill(started["pid"], signal.SIGKILL)
    report = work.wait()
    assert work.process.returncode == 0, (work.stderr, report)
    assert states(report) == {"vm1": "done", "vm2": "done"}
    assert report["policies"][0]["error"] == ""
    (notice,) = report["policies"][0]["notices"]
    assert notice.startswith("the hypervisor was killed by SIGKILL; the next one serves its 2")
    work.assert_nothing_is_left()


def test_a_killed_keeper_ends_the_domains_with_a_clear_error(job: Callable[..., Job]) -> None:
    work = job((ENDLESS, ENDLESS), "greedy")
    work.pid_of("vm1")
    work.pid_of("vm2")
    os.kill(work.pid_of("hypervisor"), signal.SIGKILL)
    report = work.wait()
    assert work.process.returncode == 1
    assert report["policies"][0]["error"] == "the hypervisor died: killed by SIGKILL"
    assert states(report) == {"vm1": "failed", "vm2": "failed"}
    for domain in report["policies"][0]["domains"]:
        assert "the hypervisor is gone" in domain["reason"]
    work.assert_nothing_is_left()


@pytest.mark.parametrize("moment", ["starting", "running"])
def test_ctrl_c_ends_everything(job: Callable[..., Job], moment: str) -> None:
    work = job((ENDLESS, ENDLESS), "greedy", "smart-alloc")
    work.pid_of("vm2" if moment == "running" else "hypervisor")
    os.killpg(work.process.pid, signal.SIGINT)  # as a terminal does
    report = work.wait()
    assert work.process.returncode == 128 + signal.SIGINT
    assert "SIGINT" in report["policies"][0]["error"]
    work.assert_nothing_is_left()


def test_a_killed_launcher_leaves_no_process(job: Callable[..., Job]) -> None:
    work = job((ENDLESS, ENDLESS), "greedy")
    work.pid_of("vm2")
    pids = work.pids()
    assert len(pids) == 4
    work.process.kill()
    work.process.communicate(timeout=LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    groups = rundir.read_manifest(work.directory).cgroups
    clean(run_dir=str(work.directory))
    assert not any(Path(group).exists() for group in groups)
