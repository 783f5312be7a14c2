"""Goal: a confined process ends as a whole, in the way it ended, and not before. Method: real ones,
that fork and detach what they can, ended in every way there is.
"""

from __future__ import annotations

import os
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor import ending
from memcoord.testbed.runs import namespaces
from memcoord.testbed.runs.confine import Rights
from memcoord.testbed.runs.identity import start_ticks
from memcoord.testbed.runs.launcher import Child, Launcher

LIMIT_S = 60.0
GIVEN = namespaces.given()
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(namespaces.PID not in GIVEN, reason="no PID namespaces here"),
]
#: Prints the number outside of each of its processes: itself, a child, and a child's child.
FAMILY = """
    import os, signal, sys, time
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.setsid()
        os.fork()
    os.write(1, f"{os.readlink('/proc/self')} {os.getpid()}\\n".encode())
    time.sleep(600)
"""

Start = Callable[[str], Child]


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Launcher(tmp_path)


@pytest.fixture
def start(launcher: Launcher, tmp_path: Path) -> Start:
    def start(body: str) -> Child:
        (tmp_path / "confined_one.py").write_text(textwrap.dedent(body))
        return launcher.start("one", "confined_one", rights=Rights(secret="/nonexistent"))

    return start


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def family(start: Start) -> tuple[Child, dict[int, int]]:
    """Its processes: number inside, number outside."""
    child = start(FAMILY)
    until(lambda: len(child.stdout_path.read_text().splitlines()) == 3)
    lines = [line.split() for line in child.stdout_path.read_text().splitlines()]
    return child, {int(inside): int(outside) for outside, inside in lines}


def hang_up(child: Child, _: int) -> None:
    assert child.process.stdin is not None
    child.process.stdin.close()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda child, _: child.process.terminate(), -signal.SIGTERM),
        (lambda child, _: child.process.kill(), -signal.SIGKILL),
        (lambda _, domain: os.kill(domain, signal.SIGKILL), -signal.SIGKILL),
        (lambda _, domain: os.kill(domain, signal.SIGTERM), -signal.SIGTERM),
        (hang_up, -signal.SIGKILL),
    ],
    ids=["launcher asks", "guard killed", "domain killed", "domain ends", "launcher died"],
)
def test_all_that_a_domain_forked_ends_with_it(
    launcher: Launcher, start: Start, end: Callable[[Child, int], None], status: int
) -> None:
    with launcher:
        child, pids = family(start)
        assert 2 in pids
        end(child, pids[2])
        assert child.process.wait(LIMIT_S) == status
        until(lambda: all(start_ticks(pid) < 0 for pid in pids.values()))


def test_the_init_of_any_of_its_processes_ends_them_all(launcher: Launcher, start: Start) -> None:
    with launcher:
        child, pids = family(start)
        init = ending.init_of(max(pids.values()))
        signal.pidfd_send_signal(init, signal.SIGKILL)
        os.close(init)
        assert child.process.wait(LIMIT_S) == -signal.SIGKILL
        assert all(start_ticks(pid) < 0 for pid in pids.values())
    assert ending.init_of(max(pids.values())) == -1
    assert ending.init_of(os.getpid()) == -1  # our own namespace's is none of ours


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("pass", "ended"),
        ("raise SystemExit('page 7 is wrong')", "exit code 1: page 7 is wrong"),
        ("import os; os._exit(200)", "exit code 200"),
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import os; os.fork() or os._exit(7)", "ended"),  # a child's status is not its own
    ],
)
def test_the_launcher_sees_how_it_ended(
    launcher: Launcher, start: Start, body: str, how: str
) -> None:
    with launcher:
        child = start(body)
        child.process.wait(LIMIT_S)
        assert child.how_it_ended() == how


INSIDE = """
    import ctypes, os, signal, time
    LIBC = ctypes.CDLL(None, use_errno=True)
    os.kill(1, signal.SIGKILL)
    os.kill(1, signal.SIGINT)
    assert LIBC.ptrace(0x4206, 1, None, None) == -1
    assert LIBC.prctl(39, 0, 0, 0, 0) == 1
    assert [LIBC.unshare(flag) for flag in (0x10000000, 0x20000000)] == [-1, -1]
    for _ in range(700):  # numbers are used again
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    forked = 0
    while forked < 1000:
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            break
        forked += 1
    print(forked)
"""


def test_inside_nobody_can_end_the_init_nest_or_fork_without_end(
    launcher: Launcher, start: Start
) -> None:
    with launcher:
        child = start(INSIDE)
        child.process.wait(LIMIT_S)
        assert child.how_it_ended() == "ended"
        forked = int(child.stdout_path.read_text())
    if namespaces.PIDS in GIVEN:
        assert 100 < forked < namespaces.PIDS_MAX


NESTED = """
    import os
    from memcoord.testbed.runs import namespaces
    print(namespaces.given())
    namespaces.isolate(lambda: print("settled"), lambda: print("hidden"))
    print(os.getpid())
"""


def test_without_namespaces_it_goes_on_as_one_process(launcher: Launcher, start: Start) -> None:
    with launcher:  # inside a confined process there are none to be had
        child = start(NESTED)
        child.process.wait(LIMIT_S)
        assert child.how_it_ended() == "ended"
        assert child.stdout_path.read_text() == "()\nsettled\n2\n"
