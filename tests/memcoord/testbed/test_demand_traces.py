"""Demand traces: what a burst is, the files, and the sampler over real processes."""

from __future__ import annotations

import errno
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.commands.trace_demand import record_demand
from memcoord.testbed.runs.facts import read_text
from memcoord.testbed.traces import sampling
from memcoord.testbed.traces.demand import (
    SHIPPED,
    Burst,
    DemandTrace,
    burstiness,
    bursts_of,
    rates_mib_s,
    read_demand,
    shipped_demand,
    write_demand,
)
from memcoord.testbed.traces.sampling import record

pytestmark = [pytest.mark.timeout(120), pytest.mark.process]

MIB = 1024  # in KiB
LOOKS_MAX, LOOK_S = 500, 0.01
#: Two children, one of a session of its own; each holds 24 MiB while the parent holds 16.
FAMILY = """
import os, sys, time
held = bytearray(16 << 20)
time.sleep(0.3)
for child in range(2):
    if os.fork() == 0:
        if child:
            os.setsid()
        more = bytearray(24 << 20)
        time.sleep(0.5)
        os._exit(0)
for _ in range(2):
    os.wait()
"""


def trace(*rows: tuple[int, int], processes: tuple[int, ...] = ()) -> DemandTrace:
    """Times in us, anonymous KiB; a sample every 500 us."""
    t_us, kib = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows), np.int64)
    return DemandTrace(t_us, 500 * ones, kib, 0 * ones, np.array(processes or ones, np.int64))


def test_growth_without_a_rest_is_one_burst_and_small_growth_is_none() -> None:
    rows = [(0, 0), (1_000, MIB), (6_000, 2 * MIB), (16_001, 3 * MIB), (40_000, 0)]
    assert bursts_of(trace(*rows)) == [Burst(500, 6_000, 2 * MIB)]
    assert bursts_of(trace(*rows[:2])) == []
    assert bursts_of(trace((0, 5))) == []


def test_what_is_given_back_within_a_burst_is_taken_off() -> None:
    rows = [(0, 0), (1_000, 3 * MIB), (2_000, MIB), (3_000, 2 * MIB)]
    assert bursts_of(trace(*rows)) == [Burst(500, 3_000, 2 * MIB)]
    assert bursts_of(trace(*rows[:3], (3_000, MIB + 1))) == []


def test_a_rate_is_of_a_millisecond_and_leaves_out_what_was_there_before_it_was_found() -> None:
    rows = [(0, 0), (500, MIB), (1_000, 2 * MIB), (1_500, 4 * MIB)]
    found = bursts_of(trace(*rows))
    assert list(rates_mib_s(trace(*rows), found)) == [1000.0, 2000.0, 3000.0]
    came = trace(*rows, processes=(1, 1, 2, 2))
    assert list(rates_mib_s(came, found)) == [1000.0]


def test_figures_of_a_trace() -> None:
    rows = [(0, 0), (1_000, 2 * MIB), (51_000, 6 * MIB), (100_000, MIB)]
    found = burstiness(trace(*rows))
    assert (found.bursts, found.peak_mib, found.seconds) == (2, 6.0, 0.1)
    assert found.burst_mib == {"p50": 2.0, "p99": 4.0, "max": 4.0}
    assert found.gap_ms == {"p50": 49.5, "p99": 49.5, "max": 49.5}
    calm = burstiness(trace(*rows[:1]))
    assert (calm.bursts, calm.rate_mib_s, calm.gap_ms) == (0, {}, {})


def test_a_file_is_read_as_it_was_written_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    made, path = trace((0, 7), (500, 9), (1_500, 3)), tmp_path / "d.csv.xz"
    write_demand(path, made)
    again = read_demand(str(path))
    for name in DemandTrace.__dataclass_fields__:
        assert (getattr(again, name) == getattr(made, name)).all()
    write_demand(path, trace((0, 7), (500, 9), (500, 3)))
    with pytest.raises(ConfigError, match=r"d\.csv\.xz: t_us must grow"):
        read_demand(str(path))
    with pytest.raises(ConfigError, match=r"nowhere\.csv"):
        read_demand("nowhere.csv")


def test_a_full_disk_is_said_and_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match="No space left"):
        record_demand(["true"], str(tmp_path / "d.csv.xz"), period_us=500, seconds=5, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_program_that_ends_before_it_is_seen_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = sampling._sample

    def late(told: Any) -> None:
        while not told.stop:
            time.sleep(LOOK_S)
        sample(told)

    monkeypatch.setattr(sampling, "_sample", late)
    done = record(["true"])
    assert (done.exit_code, done.samples) == (0, 1)
    assert burstiness(done.trace).bursts == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_programs_want_memory_in_bursts(name: str) -> None:
    made = shipped_demand(name)
    assert np.median(made.since_us) <= 1_000
    found = burstiness(made)
    assert found.bursts >= 10
    assert found.seconds > 10
    assert found.rate_mib_s["max"] >= found.rate_mib_s["p99"] >= found.rate_mib_s["p50"] > 0


def test_a_whole_family_is_sampled() -> None:
    done = record([sys.executable, "-c", FAMILY], period_us=500)
    assert done.exit_code == 0
    assert done.processes == 3
    assert done.trace.processes.max() == 3
    alone = done.trace.anonymous_kib[done.trace.processes == 1].max()
    # Pages that a child shares with its parent since the fork are counted for both.
    assert done.trace.anonymous_kib.max() > alone + 2 * 24 * MIB
    assert 0 < done.cpu_share < 2
    assert done.samples >= len(done.trace.t_us) > 2
    assert (np.diff(done.trace.t_us) > 0).all()


def test_shared_memory_is_told_apart() -> None:
    words = "import mmap,time; m=mmap.mmap(-1, 12<<20); m.write(b'x'*(12<<20)); time.sleep(0.3)"
    done = record([sys.executable, "-c", words])
    assert 12 * MIB <= done.trace.shared_kib.max() < 14 * MIB


def _is_over(pid: int) -> bool:
    """Gone, or dead and waiting for somebody to reap it."""
    text = read_text(f"/proc/{pid}/stat")
    return not text or text.rpartition(")")[2].split()[0] == "Z"


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    words = f"sleep 60 & echo $! > {path}; sleep 60"
    done = record(["sh", "-c", words], seconds=0.5)
    assert done.exit_code is None
    for _ in range(LOOKS_MAX):
        if _is_over(int(path.read_text())):
            return
        time.sleep(LOOK_S)
    pytest.fail("a child of the program lives on")


def test_without_room_for_rows_it_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "ROWS_MAX", 2)
    grows = "import time\nx=[]\nfor _ in range(9): x.append(bytearray(4<<20)); time.sleep(0.02)"
    done = record([sys.executable, "-c", grows])
    assert done.is_full
    assert len(done.trace.t_us) == 2


def test_the_verb_writes_a_trace_and_says_how_bursty_it_is(tmp_path: Path) -> None:
    path = tmp_path / "d.csv.xz"
    grows = "import time\nx=[]\nfor _ in range(3): x.append(bytearray(8<<20)); time.sleep(0.1)"
    argv = [sys.executable, "-c", grows]
    result, lines = record_demand(argv, str(path), period_us=500, seconds=20, quiet=True)
    assert json.loads(json.dumps(result))["burstiness"]["bursts"] >= 3
    assert read_demand(str(path)).kib.max() > 24 * MIB
    assert "samples of 1 processes" in lines[0]
    assert any(line.startswith("rate of growth, MiB/s: p50") for line in lines)


@pytest.mark.parametrize(
    ("out", "period_us", "argv", "why"),
    [
        ("d.csv", 500, ["true"], r"must end with \.csv\.xz"),
        ("no/d.csv.xz", 500, ["true"], "no folder"),
        ("d.csv.xz", 49, ["true"], "--period-us: must be 50 to"),
        ("d.csv.xz", 500, ["no-such-program"], "no-such-program: No such file"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    out: str, period_us: int, argv: list[str], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why):
        record_demand(argv, str(tmp_path / out), period_us=period_us, seconds=1, quiet=True)
    assert not list(tmp_path.iterdir())
