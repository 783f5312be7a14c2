"""Goal: a run's directory is private, whole at any moment, and clear when it cannot be."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import msgspec
import pytest

from hypervisor.public.errors import ConfigError
from hypervisor.public.messages import SOCKET_PATH_BYTES_MAX
from memcoord.testbed.runs import rundir


def test_a_run_describes_itself(short_path: Path) -> None:
    run = rundir.create("main", base=short_path / "runs", seed=7, clock_ns=lambda: 42)
    run.event("vm1", "started", frames=3)
    run.event("hv0", "tick")
    run.write("report.txt", b"done")
    run.record_files(["attach.sock", "attach.sock"])
    run.finish("finished")

    assert run.path.parent == short_path / "runs"
    assert run.path.stat().st_mode & 0o777 == 0o700
    events = (run.path / rundir.EVENTS).read_text().splitlines()
    assert [json.loads(line) for line in events] == [
        {"time_ns": 42, "source": "vm1", "event": "started", "frames": 3},
        {"time_ns": 42, "source": "hv0", "event": "tick"},
    ]
    manifest = rundir.read_manifest(run.path)
    assert (manifest.scenario, manifest.seed, manifest.state) == ("main", 7, "finished")
    assert manifest.files == ["attach.sock"]
    assert manifest.processes[0].pid == os.getpid()
    assert manifest.machine["cores"] >= 1
    assert {"cpu", "kernel", "shmem_thp", "load_1m", "commit"} <= set(manifest.machine)
    assert "python" in manifest.versions
    assert not list(run.path.glob(".*"))


def test_a_scenario_name_cannot_leave_the_base(short_path: Path) -> None:
    run = rundir.create("../../etc/passwd", base=short_path)
    run.finish("finished")
    assert run.path.parent == short_path


def test_an_existing_directory_is_made_private_and_used_once(short_path: Path) -> None:
    where = short_path / "mine"
    where.mkdir(mode=0o755)
    rundir.create("main", path=where).finish("finished")
    assert where.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="holds a run already"):
        rundir.create("main", path=where)


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(short_path: Path) -> None:
    where = short_path / ("x" * SOCKET_PATH_BYTES_MAX)
    with pytest.raises(ConfigError, match="shorter") as caught:
        rundir.create("main", path=where)
    assert caught.value.key == "--run-dir"
    assert not where.exists()


def test_a_file_in_the_way_is_one_clear_error(short_path: Path) -> None:
    (short_path / "file").write_text("")
    with pytest.raises(rundir.RunDirError, match="file"):
        rundir.create("main", path=short_path / "file" / "run")


def test_a_full_disk_is_one_clear_error(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rundir.create("main", base=short_path)
    whole = (run.path / rundir.MANIFEST).read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(rundir.RunDirError, match="No space left"):
            run.event("vm1", "started")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(rundir.RunDirError, match=r"manifest\.json: No space left"):
            run.record_files(["a.sock"])
    assert (run.path / rundir.MANIFEST).read_bytes() == whole
    run.finish("failed")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"schema": 1}', '{"schema": "one"}', "x" * (rundir.MANIFEST_BYTES_MAX + 1)],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(short_path: Path, text: str) -> None:
    (short_path / rundir.MANIFEST).write_text(text)
    with pytest.raises(rundir.RunDirError):
        rundir.read_manifest(short_path)


def test_a_manifest_of_another_schema_is_refused(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    run.finish("finished")
    newer = msgspec.structs.replace(run.manifest, schema=rundir.SCHEMA + 1)
    (run.path / rundir.MANIFEST).write_bytes(msgspec.json.encode(newer))
    with pytest.raises(rundir.RunDirError, match="schema 2"):
        rundir.read_manifest(run.path)


def test_the_newest_live_run_is_found_and_dead_ones_are_not(short_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run is live"):
        rundir.newest_live(short_path)
    run = rundir.create("main", base=short_path)
    dead = short_path / "999999-000000-later-0000"
    dead.mkdir()
    gone = [msgspec.structs.replace(run.manifest.processes[0], start_ticks=1)]
    manifest = msgspec.structs.replace(run.manifest, processes=gone)
    (dead / rundir.MANIFEST).write_bytes(msgspec.json.encode(manifest))
    assert rundir.runs(short_path) == [dead, run.path]
    assert rundir.newest_live(short_path) == run.path
    run.finish("finished")


def test_the_base_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert rundir.default_base() == Path("/somewhere/state/memcoord/runs")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification says: ignore it
    monkeypatch.setenv("HOME", "/somewhere")
    assert rundir.default_base() == Path("/somewhere/.local/state/memcoord/runs")
