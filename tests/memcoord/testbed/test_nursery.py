"""Goal: a process that a nursery forks is as one that was executed. Method: both by a launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from memcoord.commands import packages
from memcoord.testbed.runs.launcher import Child, Launcher
from memcoord.testbed.runs.nursery import Born, Nursery
from memcoord.testbed.runs.nursery_main import MODULE

LIMIT_S = 60.0
#: What the processes below do, as their first argument says.
ACTS = """
    import json, os, signal, sys, time
    loaded_by = os.getpid()

    def main(argv):
        what = argv[1]
        if what == "tell":
            told = {
                "argv": argv, "also": sys.argv, "group": os.getpgrp() == os.getpid(),
                "loaded here": loaded_by == os.getpid(), "stdin": sys.stdin.readline(),
                "files": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
            }
            print(json.dumps(told))
            print("on stderr", file=sys.stderr)
        elif what == "raise":
            raise ValueError("page 7 is wrong")
        elif what == "exit":
            sys.exit("no memory")
        elif what == "shot":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "work":
            while time.process_time() < 0.3:
                pass
        elif what == "wait":
            print("ready", flush=True)
            time.sleep(600)
        return int(argv[2])

    if __name__ == "__main__":
        sys.exit(main(sys.argv))
"""


SCENARIO = """
name = "short"
memory = "16 MiB"
slack = "2 MiB"
tmem = "2 MiB"
interval_ms = 20
policies = ["greedy"]

[[domain]]
name = "vm1"
maxmem = "4 MiB"
ram = "2 MiB"
workload = { kind = "page-trace", trace = "sqlite", resident = "300 pages" }
"""
#: Packages whose import takes long, and ours.
HEAVY = {"numpy", "zmq", "msgspec", "cffi", "ctypes", "email", *packages.ROOTS}


@pytest.fixture(autouse=True)
def acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), path])))
    (tmp_path / "acts.py").write_text(textwrap.dedent(ACTS))


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path, ["acts"]) as made:
        yield made


def process_of(run_dir: Path) -> psutil.Process:
    (found,) = [
        one for one in psutil.Process().children() if {MODULE, str(run_dir)} <= {*one.cmdline()}
    ]
    return found


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_forked_child_has_its_arguments_its_files_and_nothing_else(
    tmp_path: Path, nursery: Nursery
) -> None:
    secret = os.open(os.devnull, os.O_RDONLY)
    with Launcher(tmp_path, {"acts": nursery}) as launcher:
        others = [launcher.start(f"other{n}", "acts", "wait", "0") for n in range(2)]
        child = launcher.start("one", "acts", "tell", "0")
        assert child.process.stdin is not None
        child.process.stdin.write(b"a key\n")
        child.process.stdin.flush()
        assert child.process.wait(LIMIT_S) == 0
        assert all(other.process.poll() is None for other in others)
    os.close(secret)
    argv = '["acts", "tell", "0"]'
    assert child.stdout_path.read_text() == (
        f'{{"argv": {argv}, "also": {argv}, "group": true, "loaded here": false, '
        '"stdin": "a key\\n", "files": [0, 1, 2]}\n'
    )
    assert child.stderr_path.read_text() == "on stderr\n"


@pytest.mark.parametrize("forked", [False, True], ids=["executed", "forked"])
@pytest.mark.parametrize(
    ("words", "ended"),
    [
        (["none", "0"], "ended"),
        (["none", "7"], "exit code 7"),
        (["raise"], "exit code 1: ValueError: page 7 is wrong"),
        (["exit"], "exit code 1: no memory"),
        (["shot"], "killed by SIGKILL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_forked_child_ends_as_an_executed_one_does(
    tmp_path: Path, nursery: Nursery, forked: bool, words: list[str], ended: str
) -> None:
    with Launcher(tmp_path, {"acts": nursery} if forked else {}) as launcher:
        child = launcher.start("one", "acts", *words)
        assert launcher.wait([child], LIMIT_S)
        assert launcher.reap() == [child]
    assert isinstance(child.process, Born) == forked
    assert child.how_it_ended() == ended


def test_the_cpu_time_of_who_was_forked_is_told(tmp_path: Path, nursery: Nursery) -> None:
    before_s = nursery.cpu_s
    with Launcher(tmp_path, {"acts": nursery}) as launcher:
        assert launcher.start("one", "acts", "work", "0").process.wait(LIMIT_S) == 0
    assert nursery.cpu_s - before_s >= 0.25


def test_leaving_ends_a_forked_child(tmp_path: Path, nursery: Nursery) -> None:
    with Launcher(tmp_path, {"acts": nursery}) as launcher:
        child = launcher.start("one", "acts", "wait")
        wait_for(child.stdout_path.read_bytes)
        with pytest.raises(subprocess.TimeoutExpired):
            child.process.wait(0.0)
    assert child.returncode == -signal.SIGTERM
    child.process.kill()  # it has ended: nobody is signalled


def test_where_a_nursery_has_ended_children_are_executed(tmp_path: Path, nursery: Nursery) -> None:
    with Launcher(tmp_path, {"acts": nursery}) as launcher:
        orphan = launcher.start("orphan", "acts", "wait")
        wait_for(orphan.stdout_path.read_bytes)
        process_of(tmp_path).kill()
        assert orphan.process.wait(LIMIT_S) == -signal.SIGKILL
        wait_for(lambda: not psutil.pid_exists(orphan.pid) or is_dead(orphan))
        child = launcher.start("one", "acts", "none", "3")
        assert child.process.wait(LIMIT_S) == 3
        assert not isinstance(child.process, Born)


def is_dead(child: Child) -> bool:
    return psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE


def test_a_module_that_cannot_be_loaded_says_so_in_its_own_file(tmp_path: Path) -> None:
    with (
        Nursery(tmp_path, ["no_such_module"]) as nursery,
        Launcher(tmp_path, {"no_such_module": nursery}) as launcher,
    ):
        child = launcher.start("one", "no_such_module")
        child.process.wait(LIMIT_S)
    assert "No module named no_such_module" in child.how_it_ended()


def test_a_nursery_that_loads_for_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcoord.testbed.runs.nursery.LOAD_S", 0.1)
    (tmp_path / "slow.py").write_text('import time\nif __name__ != "__main__": time.sleep(600)\n')
    with (
        Nursery(tmp_path, ["slow"]) as nursery,
        Launcher(tmp_path, {"slow": nursery}) as launcher,
    ):
        loading = process_of(tmp_path)
        child = launcher.start("one", "slow")
        assert child.process.wait(LIMIT_S) == 0
        wait_for(lambda: loading.status() == psutil.STATUS_ZOMBIE)


def test_a_nursery_ends_with_the_process_that_made_it(tmp_path: Path) -> None:
    body = f"""
        import pathlib, time
        from memcoord.testbed.runs.nursery import Nursery
        with Nursery(pathlib.Path({str(tmp_path)!r}), ["acts"]):
            print("ready", flush=True)
            time.sleep(600)
    """
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.pathsep.join(sys.path)}"}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(body)], env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (nursery,) = psutil.Process(parent.pid).children()
        parent.kill()
    wait_for(lambda: not nursery.is_running() or nursery.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.process
def test_the_processes_of_a_run_import_nothing_once_they_are_forked(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(SCENARIO)
    run_dir = tmp_path / "run"
    command = ["memcoord", "run", str(tmp_path / "short.toml"), "--no-alone"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", *command, "--run-dir", str(run_dir)],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert heavy_in(done.stderr) >= {"numpy", "memcoord"}
    told = {
        name: (run_dir / "1-greedy" / f"{name}.err").read_text() for name in ("hypervisor", "vm1")
    }
    assert {name: heavy_in(text) for name, text in told.items()} == {
        "hypervisor": set(),
        "vm1": set(),
    }


def heavy_in(text: str) -> set[str]:
    """The packages of HEAVY that were imported, by what Python says of it."""
    lines = [line for line in text.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines} & HEAVY
