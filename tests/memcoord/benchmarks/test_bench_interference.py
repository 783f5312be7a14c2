"""``bench interference``, run once against real processes: its shape, never its times."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bench_results import assert_left_clean, result_of

from backend.host import HostBackend
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import neighbours, tables
from memcoord.benchmarks.harness import Sheet
from memcoord.benchmarks.interference import bench as interference
from memcoord.benchmarks.interference.bench import PATHS, PROTECTIONS, row_name
from memcoord.benchmarks.lab import Lab
from memcoord.benchmarks.neighbours import Neighbours
from memcoord.commands.bench import write_page
from memcoord.testbed.runs import rundir
from memcoord.testbed.runs.facts import read_text
from memcoord.testbed.runs.identity import alive

pytestmark = [pytest.mark.timeout(180), pytest.mark.process]

PAGE = f"before\n{tables.begin('measured')}\nold\n{tables.end('measured')}\nafter\n"
WAIT_S = 20.0
BEGUN_LOOKS_MAX, LOOK_S = 2000, 0.01


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples, few neighbours."""
    for name, value in (("SAMPLES", 3), ("WARM_UP", 1), ("COUNTS", (0, 1)), ("COMPARED", 1)):
        monkeypatch.setattr(interference, name, value)
    monkeypatch.setattr(interference, "REST_S", 0.001)
    monkeypatch.setattr(interference, "BOUND_NS", 10**10)


def _state(pid: int) -> str:
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]


def _await_state(pid: int, wanted: str) -> None:
    until = time.monotonic() + WAIT_S
    while _state(pid) not in wanted and time.monotonic() < until:
        time.sleep(0.01)
    assert _state(pid) in wanted


def test_every_path_is_measured_with_and_without_help(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of("interference", tmp_path / "i", capsys)
    assert not {path.name for path in PATHS} & set(result["skipped"])
    for path in PATHS:
        for protection in PROTECTIONS:
            if protection.name in result["skipped"]:
                continue
            for count in (0, 1):
                is_wanted = not protection.helps or path.name in protection.helps
                is_wanted &= protection.name in interference.ALWAYS or count == 1
                name = row_name(path.name, protection.name, count)
                assert (name in result["rows"]) == is_wanted, name
                assert not is_wanted or result["rows"][name]["count"] == 3
    found = (tmp_path / "p.md", tmp_path / "interference.svg")
    for row in result["rows"].values():  # three samples carry no p99: nothing is drawn
        assert row["p99"] is None
        row["p99"] = row["p50"]
    (tmp_path / "i" / "interference.json").write_text(json.dumps(result))
    found[0].write_text(PAGE)
    write_page(tmp_path / "i" / "interference.json", found[0])
    text = found[0].read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| cmm dom0 |" in text
    assert found[1].read_text().count(", together</text>") == len(PATHS)
    assert_left_clean(tmp_path / "i")


def test_the_ratio_of_the_designs_is_dom0_over_hypervisor_at_the_99th_percentile() -> None:
    (key,) = interference.PLAN.targets
    assert key == "cmm dom0/cmm hypervisor transfer p99 4 neighbours"
    sheet = Sheet(interference.PLAN)
    for name, slowest in (("cmm dom0", 600), ("cmm hypervisor", 200)):
        samples = np.array([50] * 90 + [slowest] * 10, np.uint64)
        sheet.add(row_name(name, "plain", 4), samples.tobytes(), 1)
    assert sheet.ratios()[key] == 3
    assert sheet.verdicts()[key]["reached"] == "must"


def test_what_is_not_permitted_is_skipped_by_name(
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(interference, "how_to_prefer", lambda: "")
    monkeypatch.setattr(interference, "PATHS", interference.PATHS[2:3])
    result = result_of("interference", tmp_path / "i", capsys)
    assert result["skipped"] == ["priority"]
    assert "ring together 0 neighbours" in result["rows"]
    assert any("nor nice" in warning for warning in result["machine"]["warnings"])


def test_the_designs_have_a_thousand_samples_and_the_others_enough_for_a_p99() -> None:
    rounds = range(interference.ROUNDS)
    assert interference.SAMPLES * len(rounds) >= 1000
    others = sum(map(interference._has_others, rounds))
    assert 100 <= interference.SAMPLES * others < interference.SAMPLES * len(rounds)
    assert all(map(interference._has_others, range(3)))  # what claims --quick runs


def test_the_interval_of_a_ratio_of_p99_is_of_rounds_drawn_anew() -> None:
    sheet = Sheet(interference.PLAN)
    for number in range(6):
        for name, slowest in (("cmm dom0", 600 + 60 * number), ("cmm hypervisor", 200)):
            samples = np.array([50] * 90 + [slowest] * 10, np.uint64)
            sheet.add(row_name(name, "plain", 4), samples.tobytes(), 1)
    key = interference.designs_key("plain", 4)
    low, high = sheet.ratio_intervals()[key]
    assert 3.0 <= low < sheet.ratios()[key] == 4.5 >= high > low
    assert sheet.ratio_intervals() == sheet.ratio_intervals()


def test_requests_rest_the_same_for_the_same_seed_and_keep_what_they_should() -> None:
    kept = interference.requests(5, 1, True)
    assert kept == interference.requests(5, 1, True) != interference.requests(5, 2, True)
    assert [areas for _, areas in kept] == [1] * 5
    assert sum(areas for _, areas in interference.requests(5, 1, False)) == 0


def test_neighbours_stand_still_but_within_the_block(tmp_path: Path) -> None:
    run = rundir.create("test-neighbours", path=str(tmp_path / "run"))
    with Lab(run) as lab, Neighbours(lab, 2) as two:
        started = [
            process
            for process in rundir.read_manifest(run.path).processes
            if process.pid != os.getpid()
        ]
        pids = [process.pid for process in started]
        for pid in pids:
            _await_state(pid, "T")
        with two.running(1):
            _await_state(pids[0], "RS")
            assert _state(pids[1]) == "T"
        _await_state(pids[0], "T")
        two.place({max(os.sched_getaffinity(0))})
        assert os.sched_getaffinity(pids[0]) == {max(os.sched_getaffinity(0))}
    run.finish("finished")
    assert not any(alive(process) for process in started)


def test_the_hypervisors_threads_are_preferred_and_nobody_else() -> None:
    how = neighbours.how_to_prefer()
    if not how:
        pytest.skip("neither SCHED_FIFO nor nice is permitted")
    backend = HostBackend(total_frames=8 * AREA_FRAMES, slack_frames=0, tmem_max_frames=0)
    try:
        threads = neighbours.hypervisor_threads()
        assert len(threads) == 2
        for _ in range(BEGUN_LOOKS_MAX):  # the worker chooses a class of its own as it begins
            if os.SCHED_BATCH in map(os.sched_getscheduler, threads):
                break
            time.sleep(LOOK_S)
        assert threading.get_native_id() not in threads
        neighbours.prefer(how)
        policies = {os.sched_getscheduler(thread) for thread in threads}
        nices = [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads]
        assert policies == {os.SCHED_FIFO} if how == "SCHED_FIFO" else max(nices) < 0
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    finally:
        backend.stop()
