"""What the tests of every bench check: the JSON it printed and saved, and what it left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memcoord.commands.bench import bench
from memcoord.testbed.runs import rundir
from memcoord.testbed.runs.identity import alive

QUANTILES = ["min", "p50", "p90", "p99", "p999", "max"]


def result_of(
    which: str, out: Path, capsys: pytest.CaptureFixture[str], **own: Any
) -> dict[str, Any]:
    """Run a bench for one round into ``out``, with options; what it printed, checked."""
    before = os.sched_getaffinity(0)
    assert bench(which, True, 1, str(out), own) == 0
    assert os.sched_getaffinity(0) == before
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    result: dict[str, Any] = msgspec.json.decode(printed)
    assert msgspec.json.decode((out / f"{which}.json").read_bytes()) == result
    for name, row in result["rows"].items():
        assert row["unit"] == "ns"
        assert row["count"] > 0
        figures = [row[key] for key in QUANTILES if row[key] is not None]
        assert figures == sorted(figures), name
        assert (out / f"{which}-{name}.npy").is_file()
    return result


def assert_left_clean(out: Path) -> None:
    """Nothing a bench started runs on, no socket is left."""
    manifest = rundir.read_manifest(out)
    assert manifest.state == "finished"
    others = [process for process in manifest.processes if process.pid != os.getpid()]
    assert others
    assert not [process for process in others if alive(process)]
    assert not [path for path in out.rglob("*") if path.is_socket()]
