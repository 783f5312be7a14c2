"""All mechanisms in one real run, under a policy that moves RAM to and fro between them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from hypervisor.public.settings import MECHANISMS
from memcoord.testbed.scenarios import schema

LIMIT_S = 100.0
POLL_S = 0.01
AREA, HALF = 512, 10
#: Every HALF ticks the odd domains get what the even ones had, and the other way round.
TIDE = """
import numpy as np
from policies import Plan

HALF, HIGH, LOW = 10, 4 * 512, 2 * 512

class Tide:
    name = "tide"

    def plan(self, view):
        odd = np.arange(len(view.names)) % 2 == view.tick // HALF % 2
        return Plan(ram=np.clip(np.where(odd, HIGH, LOW), view.ram_minimum, view.ram_maximum))
"""

pytestmark = pytest.mark.process


def begin(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start the scenario; the process and its run directory."""
    (tmp_path / "tide.py").write_text(TIDE)
    command = [sys.executable, "-m", "memcoord", "run", "mechanisms", "--json", "--no-alone"]
    command += ["--set", "tmem=2 MiB"]  # or it would hold what the growers are to get
    command += ["--policy", f"{tmp_path}/tide.py:Tide", "--run-dir", f"{tmp_path}/r"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True), tmp_path / "r"


def end(running: subprocess.Popen[str]) -> Any:
    """Its report; afterwards nothing of it is left."""
    out, err = running.communicate(timeout=LIMIT_S)
    assert out, err
    report = json.loads(out)
    marks = [p.cmdline() for p in psutil.process_iter() if report["run_dir"] in _line(p)]
    assert marks == []
    return report


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def series(run_dir: Path) -> dict[str, list[dict[str, str]]]:
    rows = defaultdict(list)
    with (run_dir / "series.csv").open() as file:
        for row in csv.DictReader(file):
            rows[row["domain"]].append(row)
    return rows


def pid_of(run_dir: Path, name: str) -> int:
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        events = run_dir / "events.jsonl"
        lines = events.read_text() if events.exists() else ""
        for line in lines[: lines.rfind("\n") + 1].splitlines():
            event = json.loads(line)
            if event["event"] == "started" and event["process"] == name:
                return int(event["pid"])
        time.sleep(POLL_S)
    raise AssertionError(f"{name} did not start")


def test_ram_follows_its_targets_whatever_the_mechanism(tmp_path: Path) -> None:
    assert {one.mechanism for one in schema.load("mechanisms").domain} == set(MECHANISMS)
    running, run_dir = begin(tmp_path)
    report = end(running)
    (run,) = report["policies"]
    assert (report["exit_code"], run["error"], run["notices"]) == (0, "", [])
    assert run["policy_faults"] == 0
    for domain in run["domains"]:
        assert domain["state"] == "done", domain
        assert domain["pages_verified"] > 0
    for name, rows in series(run_dir).items():
        targets = [int(row["target_frames"]) for row in rows]
        held = [int(row["current_frames"]) for row in rows]
        steps = [b - a for a, b in pairwise(targets)]
        assert min(steps) < 0 < max(steps), name
        # It grew beyond the lower target, and came back unless it ended before the ebb.
        top = held.index(max(held))
        assert max(held) > 2 * AREA, name
        if len(held) - top > 2 * HALF:
            assert min(held[top:]) < max(held), name


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["balloon", "virtio", "sections", "cmm", "hypervisor"])
def test_a_kill_is_that_ones_loss_only(tmp_path: Path, victim: str) -> None:
    running, run_dir = begin(tmp_path)
    names = [one.name for one in schema.load("mechanisms").domain]
    pid = pid_of(run_dir, victim)
    pid_of(run_dir, names[-1])
    time.sleep(10 * POLL_S)  # somewhere in the middle
    os.kill(pid, signal.SIGKILL)
    report = end(running)
    (run,) = report["policies"]
    assert report["exit_code"] == 1
    if victim == "hypervisor":
        assert "died" in run["error"]
        return
    states = {domain["domain"]: domain["state"] for domain in run["domains"]}
    assert states.pop(victim) == "killed"
    assert set(states.values()) == {"done"}
