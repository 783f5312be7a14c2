"""Goal: a run's control group stands where it may, limits what it can and leaves nothing behind.
Method: a tree of files in place of the kernel's for what this machine has not, the kernel's else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memcoord.commands.run import RunOptions, run_command
from memcoord.testbed.runs import cgroups, confine, namespaces
from memcoord.testbed.runs.cgroups import Place, Slice
from memcoord.testbed.runs.confine import Rights
from memcoord.testbed.runs.launcher import Launcher

MIB = 1 << 20
WAIT_S = 60.0
HERE = cgroups.place()
needs_group = pytest.mark.skipif(HERE is None, reason="no control group may be made here")
needs_memory = pytest.mark.skipif(
    HERE is None or "memory" not in HERE.controllers, reason="no memory controller here"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Stands for a cgroup2 mount and the /proc/self of a process in its group ``mine``."""
    for name, controllers in (("", "memory pids"), ("mine", "pids")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cgroup.procs").touch()
        (tmp_path / name / "cgroup.subtree_control").write_text(controllers)
    mount = f"30 24 0:26 / {tmp_path} rw,nosuid - cgroup2 cgroup2 rw\n"
    (tmp_path / "mountinfo").write_text(f"24 1 8:1 / / rw - ext4 /dev/root rw\n{mount}")
    (tmp_path / "cgroup").write_text("4:memory:/elsewhere\n0::/mine\n")
    return tmp_path


def test_the_group_lies_where_most_is_handed_on(tree: Path) -> None:
    assert cgroups.place(tree) == Place(tree, ("memory", "pids"))
    assert cgroups.lacking(cgroups.place(tree)) == []
    (tree / "mine" / "cgroup.subtree_control").write_text("pids memory")
    assert cgroups.place(tree) == Place(tree / "mine", ("pids", "memory"))  # as much, and nearer


def test_the_group_lies_where_this_user_may_write(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: "mine" in str(path))
    assert cgroups.place(tree) == Place(tree / "mine", ("pids",))
    assert cgroups.lacking(cgroups.place(tree)) != []


@pytest.mark.parametrize("file", ["mountinfo", "cgroup"])
def test_without_cgroup_v2_there_is_no_place(tree: Path, file: str) -> None:
    (tree / file).write_text("4:memory:/\n24 1 8:1 / / rw - ext4 /dev/root rw\n")
    assert cgroups.place(tree) is None
    (tree / file).unlink()
    assert cgroups.place(tree) is None


def test_a_group_that_may_not_be_written_is_none(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: "cgroup.procs" not in str(path))
    assert cgroups.place(tree) is None


def test_memory_and_processes_are_limited_for_each_and_memory_for_all(tmp_path: Path) -> None:
    made = Slice(tmp_path / "slice", ("memory", "pids", "cpu"), 64 * MIB, {"a": MIB, "b": 2 * MIB})
    own = cgroups.PROCESS_BYTES
    assert int((made.path / "memory.max").read_text()) == 64 * MIB + 2 * own
    assert int((made.of("a") / "memory.max").read_text()) == MIB + own
    assert int((made.of("b") / "memory.max").read_text()) == 2 * MIB + own
    assert int((made.of("b") / "memory.oom.group").read_text()) == 1
    assert int((made.of("a") / "pids.max").read_text()) == cgroups.PROCESSES_MAX


def test_without_controllers_nothing_is_limited(tmp_path: Path) -> None:
    made = Slice(tmp_path / "slice", (), 64 * MIB, {"a": MIB})
    assert list(made.of("a").iterdir()) == []
    assert cgroups.remove(made.path)
    assert not made.path.exists()
    assert cgroups.remove(made.path)  # gone already


def test_a_group_that_cannot_be_made_whole_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a/b"):
        Slice(tmp_path / "slice", (), MIB, {"good": MIB, "a/b": MIB})
    assert not (tmp_path / "slice").exists()


@needs_group
@pytest.mark.process
def test_removing_a_group_ends_all_that_lives_in_it() -> None:
    assert HERE is not None
    with Slice(cgroups.path_of(HERE, "test"), HERE.controllers, MIB, {"a": MIB}) as made:
        forks = "import os, sys, time; os.fork(); os.setsid(); time.sleep(600)"
        code = f"open({str(made.of('a') / 'cgroup.procs')!r}, 'w').write('0'); {forks}"
        process = subprocess.Popen([sys.executable, "-S", "-c", code])
        until = time.monotonic() + WAIT_S
        while len((made.of("a") / "cgroup.procs").read_text().split()) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert process.wait(WAIT_S) == -signal.SIGKILL
    assert not made.path.exists()


@needs_memory
@pytest.mark.process
def test_memory_beyond_the_limit_ends_the_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HERE is not None
    monkeypatch.setattr(cgroups, "PROCESS_BYTES", 64 * MIB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "greedy_one.py").write_text("bytearray(1 << 29)\n")
    path = cgroups.path_of(HERE, "test")
    with (
        Slice(path, HERE.controllers, 64 * MIB, {"a": MIB}) as made,
        Launcher(tmp_path) as launcher,
    ):
        rights = Rights(secret="/nonexistent", cgroup=str(made.of("a")))
        child = launcher.start("a", "greedy_one", rights=rights)
        assert child.process.wait(WAIT_S) == -signal.SIGKILL


@pytest.mark.process
def test_a_run_goes_on_without_a_group_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = Place(tmp_path / "absent", ("memory", "pids"))
    monkeypatch.setattr(cgroups, "place", lambda: where)
    scenario = tmp_path / "small.toml"
    scenario.write_text(
        'name = "small"\nmemory = "8 MiB"\nslack = "2 MiB"\ntmem = 0\n[[domain]]\nname = "vm1"\n'
        'maxmem = "2 MiB"\nram = "2 MiB"\nworkload = { kind = "usemem", step = "1 MiB", '
        'most = "1 MiB", resident = "200 pages", sweeps = 1 }\n'
    )
    options = RunOptions(["greedy"], as_json=True, run_dir=str(tmp_path / "run"), alone=False)
    assert run_command(str(scenario), options) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["policies"][0]["domains"][0]["state"] == "done"
    assert printed.err.count("control group of the domains") == 1


def test_what_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "place", lambda: None)
    monkeypatch.setattr(namespaces, "given", lambda: ())
    monkeypatch.setattr(confine, "landlock_abi", lambda: 5)
    said = " ".join(confine.lacking())
    for word in ("signals", "leaving processes", "without end", "memory"):
        assert word in said
    monkeypatch.setattr(cgroups, "place", lambda: Place(Path("/x"), ("memory", "pids")))
    monkeypatch.setattr(confine, "landlock_abi", lambda: 6)
    assert confine.lacking() == []
