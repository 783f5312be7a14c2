"""Real guests under one policy, beside a process, and through every kind of death."""

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

from memcoord.testbed.machines.command_line import PROGRAM
from memcoord.testbed.machines.image.build import Image

#: A machine that emulates guests beside other tests may be slow; nothing here is a speed.
LIMIT_S = 240.0
POLL_S = 0.05
HOST = """
name = "guests"
memory = "{memory} MiB"
slack = "4 MiB"
tmem = "16 MiB"
interval_ms = 200
"""
MACHINE = """
[[domain]]
name = "{name}"
maxmem = "{most} MiB"
ram = "112 MiB"
ram_min = "112 MiB"

[domain.workload]
kind = "qemu"
kernel = "{kernel}"
initrd = "{initrd}"
run = {run}
{more}
"""
PROCESS = """
[[domain]]
name = "process"
maxmem = "8 MiB"
ram = "4 MiB"
workload = { kind = "quiet", size = "6 MiB", resident = "3 MiB", references = 20_000 }
"""

pytestmark = [pytest.mark.qemu, pytest.mark.process, pytest.mark.timeout(int(LIMIT_S) + 30)]


def machine(image: Image, name: str, run: list[str], *, most: int = 112, more: str = "") -> str:
    files = {"kernel": image.kernel, "initrd": image.initrd}
    return MACHINE.format(name=name, run=json.dumps(run), most=most, more=more, **files)


class Job:
    """``memcoord run`` as a user starts it."""

    def __init__(self, folder: Path, memory_mib: int, *domains: str, policy: str) -> None:
        scenario = folder / "guests.toml"
        scenario.write_text(HOST.format(memory=memory_mib) + "".join(domains))
        self.directory = folder / "run"
        self.inner = self.directory / f"1-{policy}"
        words = ("run", str(scenario), "--policy", policy, "--no-alone", "--json")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "memcoord", *words, "--run-dir", str(self.directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def report(self) -> dict[str, Any]:
        """What it prints at its end."""
        out, _ = self.process.communicate(timeout=LIMIT_S)
        found: dict[str, Any] = json.loads(out)
        return found

    def domains(self) -> dict[str, dict[str, Any]]:
        """The domains of its report, by name."""
        (policy,) = self.report()["policies"]
        return {one["domain"]: one for one in policy["domains"]}

    def qemu(self, name: str) -> psutil.Process | None:
        """The QEMU of a domain."""
        for one in self.processes():
            words = one.cmdline()
            if PROGRAM in words[0] and words[words.index("-name") + 1] == name:
                return one
        return None

    def processes(self) -> Iterator[psutil.Process]:
        """All that it started and that is alive."""
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if one.cmdline():
                    yield one
            except psutil.Error:
                continue

    def told(self, name: str) -> list[tuple[str, str]]:
        """What the program of a machine has said of it."""
        return [(one["event"], one["now"]) for one in lines(self.inner / name / "events.jsonl")]

    def references(self, name: str) -> int:
        """Units of work of a domain, as the hypervisor saw them last."""
        done = [int(row["guest_references"]) for row in self.series() if row["domain"] == name]
        return done[-1] if done else 0

    def series(self) -> list[dict[str, str]]:
        """The rows of all ticks so far."""
        path = self.directory / "series.csv"
        text = path.read_text() if path.exists() else ""
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=LIMIT_S)


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def wait(what: str, done: Callable[[], object]) -> None:
    until = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < until, what
        time.sleep(POLL_S)


def test_a_guest_and_a_process_under_one_policy(guest_image: Image, tmp_path: Path) -> None:
    more = 'work = "sweeps"\ntotal = 4\nnodes = 2\nswap_size = "128 MiB"'
    run = ["usemem", "--step", "64", "--most", "128", "--sweeps", "2"]
    job = Job(
        tmp_path,
        448,
        machine(guest_image, "guest", run, most=368, more=more),
        PROCESS,
        policy="ram-max-min",
    )
    try:
        found = job.domains()
    finally:
        job.end()
    assert {one["state"] for one in found.values()} == {"done"}
    assert found["guest"]["references"] == 4
    assert found["process"]["references"] == 20_000
    outcome = json.loads((job.inner / "guest" / "outcome.json").read_bytes())
    assert outcome["major_faults"] >= 0
    assert outcome["reboots"] == 0
    rows = job.series()
    sizes = [int(row["current_frames"]) for row in rows if row["domain"] == "guest"]
    assert max(sizes) > sizes[0]  # it grew, out of what was booked
    why = (job.directory / "decisions.jsonl").read_text()
    assert "failed_puts by proxy" in why
    assert "yet" not in (job.inner / "guest" / "qemu.log").read_text()


def test_swap_in_tmem_comes_back_as_it_was(guest_image: Image, tmp_path: Path) -> None:
    """``usemem`` ends with an error at the first word that is not what it wrote."""
    more = 'work = "sweeps"\ntotal = 3\nswap = "tmem"\nswap_size = "128 MiB"'
    run = ["usemem", "--step", "96", "--most", "96", "--sweeps", "3"]
    job = Job(tmp_path, 160, machine(guest_image, "guest", run, more=more), policy="greedy")
    try:
        guest = job.domains()["guest"]
    finally:
        job.end()
    assert guest["state"] == "done", guest
    assert guest["tmem_hits"] > 0
    assert guest["failed_puts"] > 0  # tmem has 16 MiB, the file the rest
    assert guest["swap_ins"] > 0


def test_deaths_of_all_kinds_cost_nobody_else_anything(guest_image: Image, tmp_path: Path) -> None:
    ticks = ["sh", "-c", "for i in $(seq 1 100000); do echo $i; sleep 0.1; done"]
    more = 'work = "ticks"\ntotal = 100000'
    names = ("stopped", "killed", "orphan")
    machines = [machine(guest_image, name, ticks, more=more) for name in names]
    last = machine(
        guest_image,
        "last",
        ["sh", "-c", "echo 1; sleep 20; echo 2"],
        more='work = "halves"\ntotal = 2',
    )
    job = Job(tmp_path, 496, *machines, last, policy="greedy")
    try:
        for name in names:
            wait(f"{name} works", lambda name=name: job.references(name) > 0)
        _stop_and_go_on(job)
        _kill_the_hypervisor(job, "killed")
        _kill_qemu_and_stub(job)
        wait("the last one is done", lambda: job.qemu("last") is None)
        stopped = job.qemu("stopped")
        assert stopped is not None
        stopped.kill()
        found = job.domains()
    finally:
        job.end()
    assert (found["last"]["state"], found["last"]["references"]) == ("done", 2)
    assert "SIGKILL" in found["killed"]["reason"] or "ended" in found["killed"]["reason"]
    assert found["orphan"]["state"] == "killed"
    rows = job.series()
    alone = [row for row in rows if row["tick"] == rows[-1]["tick"]]
    held = sum(int(row["current_frames"]) for row in alone)
    assert int(rows[-1]["host_installed_frames"]) == held  # what they had is the host's again


def _stop_and_go_on(job: Job) -> None:
    stopped = job.qemu("stopped")
    assert stopped is not None
    stopped.suspend()
    before = job.references("killed")
    silent = ("guest", "QEMU does not answer")
    wait("a stopped QEMU is silent", lambda: silent in job.told("stopped"))
    wait("the others go on", lambda: job.references("killed") > before)
    stopped.resume()
    wait("it is found again", lambda: ("guest", "running") in job.told("stopped"))


def _kill_the_hypervisor(job: Job, name: str) -> None:
    events = job.inner / "events.jsonl"
    pid = next(one["pid"] for one in lines(events) if one["event"] == "started")
    os.kill(pid, signal.SIGKILL)
    wait("another hypervisor", lambda: any(one["event"] == "restarted" for one in lines(events)))
    before = job.references(name)
    wait("machines go on under it", lambda: job.references(name) > before)


def _kill_qemu_and_stub(job: Job) -> None:
    killed, orphan = job.qemu("killed"), job.qemu("orphan")
    assert killed is not None
    assert orphan is not None
    stub = orphan.parent()
    assert stub is not None
    killed.kill()
    stub.kill()
    wait("QEMU ends with its stub", lambda: not orphan.is_running() or orphan.status() == "zombie")
    gone = {
        one["domain"] for one in lines(job.inner / "events.jsonl") if one["event"] == "detached"
    }
    wait(
        "both domains are struck off",
        lambda: (
            {"killed", "orphan"}
            <= {
                one["domain"]
                for one in lines(job.inner / "events.jsonl")
                if one["event"] == "detached"
            }
        ),
    )
    assert gone <= {"killed", "orphan"}
