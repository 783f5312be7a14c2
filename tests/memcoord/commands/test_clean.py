"""Goal: clean removes what a manifest names and nothing else. Method: real processes and files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.commands.clean import clean, lines
from memcoord.testbed.runs import identity, rundir

pytestmark = pytest.mark.process


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when told to, or with the test."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "input()"], stdin=subprocess.PIPE, process_group=0
    )
    with process:
        yield process
        process.kill()


def make_run(base: Path, others: list[identity.ProcessId], *, launcher: bool) -> Path:
    """A run with some files, whose launcher is this process or a dead one."""
    run = rundir.create("main", base=base)
    for name in ("attach.sock", "control.ipc", "result.txt"):
        run.write(name, b"")
    run.record_files(["attach.sock", "control.ipc", "absent.ipc"])
    run.manifest.processes.extend(others)
    if not launcher:
        dead = msgspec.structs.replace(run.manifest.processes[0], start_ticks=1)
        run.manifest.processes[0] = dead
    run.finish("running")
    return run.path


def test_a_dead_run_loses_its_sockets_and_its_orphans(
    short_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    orphan = identity.identify("vm1", bystander.pid)
    path = make_run(short_path, [orphan], launcher=False)
    done = clean(short_path)
    assert (done["killed"], done["removed"], done["skipped_live"]) == (1, 2, 0)
    assert bystander.wait(10) < 0
    assert sorted(entry.name for entry in path.iterdir()) == [
        "events.jsonl",
        "manifest.json",
        "result.txt",
    ]
    assert clean(short_path)["runs"] == {}
    assert any("ended vm1" in line for line in lines(done))


def test_another_process_under_a_recorded_pid_is_left_alone(
    short_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    true = identity.identify("vm1", bystander.pid)
    reused = [
        msgspec.structs.replace(true, start_ticks=true.start_ticks - 1),
        msgspec.structs.replace(true, boot_id="another boot"),
        msgspec.structs.replace(true, start_ticks=-1),
    ]
    make_run(short_path, reused, launcher=False)
    assert clean(short_path, force=True)["killed"] == 0
    assert bystander.poll() is None


def test_a_live_run_is_left_alone(short_path: Path) -> None:
    path = make_run(short_path, [], launcher=True)
    done = clean(short_path, all_runs=True)
    assert done["skipped_live"] == 1
    assert (path / "attach.sock").exists()
    assert lines(done)[0] == "left 1 live run alone"


def test_force_ends_a_live_run(short_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    launcher = identity.identify("launcher", bystander.pid)
    path = make_run(short_path, [launcher], launcher=False)
    assert clean(short_path)["skipped_live"] == 1
    assert clean(short_path, force=True)["killed"] == 1
    assert not (path / "attach.sock").exists()


def test_files_outside_the_run_directory_are_left_alone(short_path: Path) -> None:
    base, outside = short_path / "runs", short_path / "precious"
    outside.write_text("")
    path = make_run(base, [], launcher=False)
    (path / "way-out").symlink_to(short_path)
    manifest = rundir.read_manifest(path)
    manifest.files = ["../../precious", str(outside), "way-out/precious", ".", ".."]
    (path / rundir.MANIFEST).write_bytes(msgspec.json.encode(manifest))
    assert clean(base)["removed"] == 0
    assert outside.exists()


def test_all_removes_ended_directories_and_nothing_beside_them(short_path: Path) -> None:
    path = make_run(short_path, [], launcher=False)
    stranger = short_path / "not-a-run"
    stranger.mkdir()
    broken = short_path / "broken"
    broken.mkdir()
    (broken / rundir.MANIFEST).write_text("{")
    done = clean(short_path, all_runs=True)
    assert not path.exists()
    assert stranger.exists()
    assert broken.exists()
    assert "left alone" in done["runs"][str(broken)][0]


def test_a_directory_that_is_no_run_is_refused(short_path: Path) -> None:
    with pytest.raises(ConfigError):
        clean(short_path, run_dir=str(short_path))


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); input()"
    command = [sys.executable, "-P", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert identity.kill(identity.identify("vm1", process.pid), wait_s=1.0)
        assert process.wait(10) == -9


def test_a_process_is_itself_and_a_dead_one_is_not() -> None:
    assert identity.alive(identity.identify("test", os.getpid()))
    with subprocess.Popen([sys.executable, "-P", "-c", ""]) as process:
        once = identity.identify("vm1", process.pid)
    assert not identity.alive(once)
