"""Launcher: children start apart, are noticed when they end, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from memcoord.testbed.runs.launcher import EXIT_ORPHANED, Child, Interrupts, Launcher

LIMIT_S = 60.0
STUBBORN = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(600)
"""


MakeModule = Callable[[str, str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    """Makes a module that a child can run by name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, body: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(body))
        return name

    return make


def wait_for_output(child: Child) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not child.stdout_path.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_ended_children_are_reported_once_with_how_they_ended(
    tmp_path: Path, module: MakeModule
) -> None:
    with Launcher(tmp_path) as launcher:
        good = launcher.start("good", module("good", "print('hello')"))
        bad = launcher.start("bad", module("bad", "raise SystemExit('page 7 is wrong\\n \\n')"))
        shot = launcher.start(
            "shot", module("shot", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        )
        assert launcher.wait([good, bad, shot], LIMIT_S)
        assert set(map(id, launcher.reap())) == {id(good), id(bad), id(shot)}
        assert launcher.reap() == []
    assert good.how_it_ended() == "ended"
    assert good.stdout_path.read_text() == "hello\n"
    assert bad.how_it_ended() == "exit code 1: page 7 is wrong"
    assert shot.how_it_ended() == "killed by SIGKILL"
    assert launcher.children == (good, bad, shot)


def test_a_child_that_ended_by_a_check_is_shown_with_its_report(
    tmp_path: Path, module: MakeModule
) -> None:
    body = """
        import resource
        from backend._service import ffi, lib
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        host = ffi.new("struct mc_host **")
        lib.mc_host_open(host, 4, 0, 0, -1)
        lib.mc_host_promise(host[0], 5)
    """
    with Launcher(tmp_path) as launcher:
        child = launcher.start("checked", module("checked", body))
        child.process.wait(LIMIT_S)
        assert child.how_it_ended().startswith("memcoord: check failed: backend/abi/domain.c:")
        assert child.how_it_ended().endswith("promised 5 frames, no whole areas")


def test_leaving_ends_a_child_that_ignores_sigterm(
    tmp_path: Path,
    module: MakeModule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memcoord.testbed.runs.launcher.TERM_S", 0.1)
    with Launcher(tmp_path) as launcher:
        child = launcher.start("stubborn", module("stubborn", STUBBORN))
        wait_for_output(child)
    assert child.returncode == -signal.SIGKILL


def test_a_stopped_child_is_ended_too(
    tmp_path: Path,
    module: MakeModule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memcoord.testbed.runs.launcher.TERM_S", 0.1)
    with Launcher(tmp_path) as launcher:
        child = launcher.start("asleep", module("asleep", STUBBORN))
        wait_for_output(child)
        child.process.send_signal(signal.SIGSTOP)
    assert child.returncode == -signal.SIGKILL


def test_a_child_that_was_asked_gets_time_to_end_by_itself(
    tmp_path: Path, module: MakeModule
) -> None:
    path = tmp_path / "asked"
    name = module(
        "polite",
        f"""
        import pathlib, time
        while not pathlib.Path({str(path)!r}).exists():
            time.sleep(0.01)
        """,
    )
    with Launcher(tmp_path) as launcher:
        child = launcher.start("polite", name)
        path.touch()
        launcher.stop([child], ask_s=LIMIT_S)
    assert child.returncode == 0


def test_children_stand_in_process_groups_of_their_own(tmp_path: Path, module: MakeModule) -> None:
    with Launcher(tmp_path) as launcher:
        child = launcher.start("group", module("group", "import time\ntime.sleep(600)"))
        assert os.getpgid(child.pid) == child.pid


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, module: MakeModule) -> None:
    module(
        "orphan",
        """
        import os, time
        from memcoord.testbed.runs.launcher import end_with_parent
        end_with_parent()
        print(os.getpid(), flush=True)
        time.sleep(600)
        """,
    )
    module(
        "parent",
        f"""
        import pathlib, time
        from memcoord.testbed.runs.launcher import Launcher
        with Launcher(pathlib.Path({str(tmp_path)!r})) as launcher:
            launcher.start("orphan", "orphan")
            time.sleep(600)
        """,
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.pathsep.join(sys.path)}"}
    parent = subprocess.Popen([sys.executable, "-P", "-m", "parent"], env=environment)
    out = tmp_path / "orphan.out"
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (out.exists() and out.read_text().endswith("\n")):
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.01)
    finally:
        parent.kill()
        parent.wait(LIMIT_S)
    pid = int(out.read_text())
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_end_with_parent_uses_its_own_exit_code(tmp_path: Path, module: MakeModule) -> None:
    name = module(
        "lonely",
        """
        import time
        from memcoord.testbed.runs.launcher import end_with_parent
        end_with_parent()
        time.sleep(600)
        """,
    )
    with Launcher(tmp_path) as launcher:
        child = launcher.start("lonely", name)
        assert child.process.stdin is not None
        child.process.stdin.close()
        assert launcher.wait([child], LIMIT_S)
    assert child.returncode == EXIT_ORPHANED


def test_interrupts_set_a_flag_and_put_the_old_handlers_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        assert interrupts.received is None
        signal.raise_signal(signal.SIGINT)
        assert interrupts.received is signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
