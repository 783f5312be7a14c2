"""Goal: the bench of malloc measures what it names, and leaves nothing. Never its times."""

from __future__ import annotations

import lzma
from array import array
from pathlib import Path

import numpy as np
import pytest
from bench_results import assert_left_clean, result_of

from memcoord.benchmarks.harness import Sheet
from memcoord.benchmarks.malloc import plan, record, traces, views
from memcoord.benchmarks.malloc.plan import NATIVE, OWN_LIMIT, SITUATIONS
from memcoord.testbed.runs import userfaults

CELL = plan.CELLS[0]


def test_the_quick_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obstacle = userfaults.probe().obstacle()
    if obstacle:
        pytest.skip(obstacle)
    out = tmp_path / "m"
    result = result_of("malloc", out, capsys, quick=True)
    measured = [one for one in SITUATIONS if one not in result["skipped"]]
    wanted = {name(*CELL, one) for name in (plan.calls, plan.total) for one in measured}
    died = result["machine"].get("killed_by_the_kernel", {})
    assert set(result["rows"]) >= wanted - {
        name(*CELL, OWN_LIMIT) for name in (plan.calls, plan.total) if died
    }
    assert {plan.P50, plan.P99, plan.SUM_HOST, plan.SUM_NEIGHBOUR} <= set(result["ratios"])
    row = result["rows"][plan.calls(*CELL, NATIVE)]
    assert row[plan.KEY_SHARES] == sorted(row[plan.KEY_SHARES])
    assert len(views.figure(result).lines) >= 4
    assert [len(table.lines) for table in views.tables(result)] == [1, 1]
    assert_left_clean(out)


def test_every_shipped_trace_can_be_carried_out() -> None:
    assert {"cc1", "python", "sqlite"} <= set(traces.names())
    for name in traces.names():
        trace = traces.shipped(name)
        lives: set[int] = set()
        for call, place in zip(trace.calls.tolist(), trace.places.tolist(), strict=True):
            assert (place in lives) == (call in (traces.FREE, traces.REALLOC))
            (lives.discard if call == traces.FREE else lives.add)(place)
        assert len(lives) <= trace.held
        assert trace.kept_bytes() > 0


def test_addresses_become_places() -> None:
    noted = [(1, 100, 0, 8), (1, 200, 0, 16), (2, 100, 0, 0), (2, 999, 0, 0), (3, 300, 200, 32),
             (4, 100, 0, 64), (3, 400, 0, 5)]  # fmt: skip
    trace = record.places_of(np.array(noted, record.ENTRY))
    assert trace.calls.tolist() == [
        traces.MALLOC, traces.MALLOC, traces.FREE, traces.REALLOC, traces.CALLOC, traces.MALLOC,
    ]  # fmt: skip
    assert trace.places.tolist() == [0, 1, 0, 1, 0, 2]
    assert trace.kept_bytes() == 32 + 64 + 5


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    trace = traces.shipped("sqlite")
    traces.write(tmp_path / "t.xz", trace)
    assert traces.read(tmp_path / "t.xz").sizes.tolist() == trace.sizes.tolist()
    (tmp_path / "bad.xz").write_bytes(lzma.compress(b"abc"))
    with pytest.raises(ValueError, match="no trace"):
        traces.read(tmp_path / "bad.xz")


def test_ratios_are_means_over_traces_and_allocators() -> None:
    sheet = Sheet(plan.PLAN)
    times = {NATIVE: (100, 200), plan.FROM_HOST: (200, 100), OWN_LIMIT: (800, 800)}
    for situation, found in times.items():
        for cell, ns in zip(plan.CELLS[:2], found, strict=True):
            sheet.add(plan.total(*cell, situation), array("Q", [ns]).tobytes(), 1)
    assert sheet.ratios() == {plan.SUM_HOST: 1.0}
