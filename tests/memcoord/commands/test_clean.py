"""Goal: clean removes what a manifest names and nothing else. Method: real processes and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.commands.clean import clean, lines
from memcoord.commands.runs import list_runs
from memcoord.testbed.runs import cgroups, identity, rundir

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


@pytest.mark.skipif(cgroups.place() is None, reason="no control group may be made here")
def test_a_dead_run_loses_its_control_group_and_no_other_is_touched(short_path: Path) -> None:
    where = cgroups.place()
    assert where is not None
    run = rundir.create("main", base=short_path)
    own, other = cgroups.path_of(where, run.path.name), cgroups.path_of(where, "other")
    for path in (own, other, own):
        run.record_cgroup(path)
    with cgroups.Slice(other, where.controllers, 1 << 20, {}):
        groups = cgroups.Slice(own, where.controllers, 1 << 20, {"vm1": 1 << 20})
        code = f"open({str(groups.of('vm1') / 'cgroup.procs')!r}, 'w').write('0'); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as orphan:
            while not (groups.of("vm1") / "cgroup.procs").read_text():
                assert orphan.poll() is None
                time.sleep(0.01)
            run.manifest.processes[0] = msgspec.structs.replace(
                run.manifest.processes[0], start_ticks=1
            )
            run.finish("running")
            done = clean(short_path)
            assert done["runs"][str(run.path)] == [f"removed control group {own}"]
            assert orphan.wait(10) < 0
        assert not own.exists()
        assert other.exists()


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


#: A run whose launcher is in a PID namespace of its own, as in a container, and waits for its end.
ELSEWHERE = """
import sys
from pathlib import Path
from memcoord.testbed.runs import rundir
run = rundir.create("main", base=Path(sys.argv[1]))
run.write("control.ipc", b"")
run.record_files(["control.ipc"])
print(run.path, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def elsewhere(short_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Such a run and its process."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid():
        command.insert(1, "--map-root-user")
    with subprocess.Popen(
        [*command, sys.executable, "-P", "-c", ELSEWHERE, str(short_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        if not path:
            process.wait(10)
            pytest.skip("this machine gives no PID namespace")
        yield Path(path), process
        process.kill()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_a_run_of_another_pid_namespace_is_live_until_it_ends(
    short_path: Path, elsewhere: tuple[Path, subprocess.Popen[str]]
) -> None:
    path, process = elsewhere
    assert not any(identity.alive(one) for one in rundir.read_manifest(path).processes)
    for force in (False, True):
        done = clean(short_path, force=force, all_runs=True)
        assert (done["killed"], done["removed"], done["skipped_live"]) == (0, 0, not force)
        assert (path / "control.ipc").exists()
        assert [row["state"] for row in list_runs(short_path)] == ["live"]
    assert rundir.newest_live(short_path) == path
    process.kill()
    process.wait(30)
    for _ in range(600):  # the kernel ends the others of the namespace in its own time
        if not rundir.held(path):
            break
        time.sleep(0.05)
    assert [row["state"] for row in list_runs(short_path)] == ["dead"]
    assert clean(short_path)["removed"] == 1


def test_a_process_of_another_namespace_is_never_taken_for_one_of_ours(
    bystander: subprocess.Popen[bytes],
) -> None:
    here = identity.identify("vm1", bystander.pid)
    assert identity.alive(here)
    for namespace in ("pid:[1]", "unknown"):
        there = msgspec.structs.replace(here, namespace=namespace)
        assert not identity.alive(there)
        assert not identity.kill(there) or bystander.poll() is None
    assert bystander.poll() is None
