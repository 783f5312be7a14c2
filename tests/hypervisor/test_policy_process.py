"""A policy in a process of its own: what it may do, what it is called when it does something else.

Method: policy files that misbehave on one view and behave on all others; real processes. A clock
that the test can move on stands for waiting; nothing is said about how long anything takes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypervisor.coordination import policy_process
from hypervisor.coordination.policy_process import (
    BACKOFF_MAX_S,
    GRACE_S,
    SAID_BYTES_MAX,
    START_S,
    Begin,
    PolicyProcess,
)
from hypervisor.coordination.policy_runner import Failed, Stalled
from policies import Plan, PolicyError, View, check_plan, confine, forked, load
from policies.kit_views import KIT_PAGES_PER_DOMAIN, sensible_view
from tests.hypervisor.coordinator_world import World

pytestmark = pytest.mark.process
LONG_S, SHORT_S = 100.0, 0.05
#: How a hypervisor starts its first process, and all others.
begun = pytest.mark.parametrize("begin", [None, forked.start], ids=["executed", "forked"])
BAD_TICK = 13

POLICY = """
import ctypes, gc, os, signal, socket, sys, time
import numpy as np
from policies import Plan

class Mine:
    name = "mine"
    def plan(self, view):
        if view.tick == {tick}:
            {body}
        return Plan(tmem=view.target.copy())
"""

Make = Callable[..., PolicyProcess]


class Clock:
    """The real one, and what a test adds to it."""

    def __init__(self) -> None:
        self.more_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.more_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Make]:
    made = []

    def start(body: str = "pass", *, deadline_s: float = LONG_S, **more: Any) -> PolicyProcess:
        path = tmp_path / f"mine{len(made)}.py"
        path.write_text(POLICY.format(tick=BAD_TICK, body=body), encoding="utf-8")
        more.setdefault("text", f"{path}:Mine")
        made.append(PolicyProcess(deadline_s=deadline_s, clock=clock, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


def a_view(tick: int = 0) -> View:
    return View.of(capacity=1000, used=[1, 2, 3], target=[100, 200, 300], tick=tick)


def answers_again(process: PolicyProcess, clock: Clock) -> Plan:
    """The next valid plan, waiting for the process as long as it takes and by no other clock."""
    until_s = time.monotonic() + LONG_S
    while time.monotonic() < until_s:
        clock.more_s += BACKOFF_MAX_S / 50  # not so fast that a start runs out of time
        with contextlib.suppress(Failed):
            return process.plan(a_view())
        time.sleep(0.02)
    raise AssertionError("no plan any more")


@pytest.mark.parametrize("text", ["greedy", "smart-alloc:P=6", "fallow", "ginseng", "senpai"])
@pytest.mark.parametrize("domains", [0, 1, 64])
def test_its_plans_are_those_of_the_policy(text: str, domains: int) -> None:
    capacity = domains * KIT_PAGES_PER_DOMAIN
    process, inside = PolicyProcess(text, deadline_s=LONG_S), load(text)
    try:
        process.wait()
        assert process.name == inside.name  # type: ignore[attr-defined]
        for seed in (1, 2):
            view = sensible_view(np.random.default_rng(seed), domains, capacity, measured=seed == 2)
            one, other = check_plan(process.plan(view), view), check_plan(inside.plan(view), view)
            assert one.why == other.why
            for name in ("tmem", "ram", "carry"):
                assert np.array_equal(getattr(one, name), getattr(other, name))
    finally:
        process.close()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("os._exit(0)", "its process ended with status 0"),
        ("os.kill(os.getpid(), 9)", "its process was killed by SIGKILL"),
        ("ctypes.string_at(0)", "its process was killed by SIGSEGV"),
        ("os.closerange(0, 1000)", "its process"),
        (
            "[o.send(b'x' * 99) for o in gc.get_objects() if isinstance(o, socket.socket)]",
            "its process answered no message of ours",
        ),
        (
            "[o.send(b'\\x97\\x01\\xa5ready\\xa0\\x90\\x90\\x90' + b'\\x91' * 9999)"
            " for o in gc.get_objects() if isinstance(o, socket.socket)]",
            "its process answered no message of ours",
        ),
        (
            "[o.send(b'\\x96\\x01\\xa1\\xff\\xa0\\x90\\x90\\x90')"
            " for o in gc.get_objects() if isinstance(o, socket.socket)]",
            "its process answered no message of ours",
        ),
        (
            "[o.send(b'x' * 99999) for o in gc.get_objects() if isinstance(o, socket.socket)]",
            "its process answered no message of ours",
        ),
        ("sys.exit(0)", "raised SystemExit: 0"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("print('hello')", "printed 'hello', and a policy has no output"),
        ("return None", "answered nonsense: type: answered NoneType, not Plan"),
        ("return Plan(tmem=['a', 'b', 'c'])", "answered nonsense: number: tmem holds"),
        ("return Plan(tmem=np.ones(10**6))", "answered nonsense: length: tmem has shape"),
        ("return Plan(carry=np.ones((3, 257)))", "answered nonsense: carry: has shape"),
        ("return Plan(tmem=np.ones(10**12))", "raised MemoryError"),
        ("return Plan(tmem=view.target, why=['y'])", "answered nonsense: length: why must hold"),
        ("view.used.setflags(write=True)", "raised ValueError"),
    ],
)
def test_what_it_does_is_named_and_it_plans_again(
    make: Make, clock: Clock, body: str, named: str
) -> None:
    process = make(body)
    process.wait()
    good = process.plan(a_view()).tmem
    pid = process.pid
    with pytest.raises(Failed) as caught:
        process.plan(a_view(BAD_TICK))
    assert named in str(caught.value)
    assert not isinstance(caught.value, Stalled)
    again = answers_again(process, clock)
    assert np.array_equal(np.asarray(again.tmem), np.asarray(good))
    assert (process.pid != pid) == ("its process" in named)


@pytest.mark.parametrize(
    "body",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "socket.socket()",
        "os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_it_starts_nobody_signals_nobody_and_speaks_to_nobody(make: Make, body: str) -> None:
    said: list[str] = []
    process = make(body, tell=said.append)
    process.wait()
    if any("filter" in line for line in said):
        pytest.skip("this kernel filters no system calls")
    with pytest.raises(Failed, match=r"raised PermissionError.*starts no process"):
        process.plan(a_view(BAD_TICK))


@pytest.mark.parametrize("body", ["while True: pass", "ctypes.PyDLL(None).sleep(1000)"])
def test_one_that_does_not_come_back_is_ended_and_started_again(
    make: Make, clock: Clock, body: str
) -> None:
    process = make(body, deadline_s=LONG_S)
    process.wait()
    process.plan(a_view())
    pid = process.pid
    process._deadline_s = SHORT_S
    with pytest.raises(Stalled, match="no plan within 50 ms"):
        process.plan(a_view(BAD_TICK))
    with pytest.raises(Stalled, match="an earlier call has not come back"):
        process.plan(a_view())
    assert process.pid == pid
    clock.more_s += GRACE_S + SHORT_S
    with pytest.raises(Stalled, match="did not come back and was ended"):
        process.plan(a_view())
    process._deadline_s = LONG_S
    answers_again(process, clock)
    assert process.pid != pid


def test_a_first_plan_may_take_as_long_as_a_start(make: Make, clock: Clock) -> None:
    process = make("while True: pass", deadline_s=SHORT_S)
    process.wait()
    pid = process.pid
    for expected in ("no plan within", "has not come back"):
        with pytest.raises(Stalled, match=expected):
            process.plan(a_view(BAD_TICK))
        clock.more_s += START_S / 2 - 1
        assert process.pid == pid
    clock.more_s += 3
    with pytest.raises(Stalled, match="was ended"):
        process.plan(a_view())


def test_a_late_answer_is_dropped(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    body = f"\n            while not os.path.exists({str(flag)!r}): time.sleep(0.01)"
    process = make(body, deadline_s=SHORT_S)
    process.wait()
    with pytest.raises(Stalled):
        process.plan(a_view(BAD_TICK))
    pid = process.pid
    flag.touch()
    process._deadline_s = LONG_S
    other = View.of(capacity=1000, used=[1, 2], target=[7, 8])
    while True:
        try:
            plan = process.plan(other)
        except Stalled:
            time.sleep(0.01)
        else:
            break
    assert np.asarray(plan.tmem).tolist() == [7, 8]
    assert process.pid == pid


def test_one_that_is_killed_between_two_plans_is_started_again(make: Make, clock: Clock) -> None:
    process = make()
    process.wait()
    process.plan(a_view())
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(Failed, match="was killed by SIGKILL; it is started again"):
        process.plan(a_view())
    answers_again(process, clock)


def test_it_waits_longer_before_each_start_up_to_a_bound(
    make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = make()
    process.wait()
    starts = []

    def fails(*_: Any, **__: Any) -> None:
        starts.append(clock())
        raise OSError(11, "no more processes")

    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    monkeypatch.setattr(policy_process.confine, "start", fails)
    for _ in range(800):
        clock.more_s += 0.05
        with pytest.raises(Failed):
            process.plan(a_view())
    pauses = np.diff(starts)
    assert len(pauses) > 5
    assert (pauses[1:] >= pauses[:-1] - 0.2).all()
    assert BACKOFF_MAX_S <= pauses[-1] <= BACKOFF_MAX_S + 1


def test_what_it_remembers_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "counts.py"
    path.write_text(
        "from policies import Plan\n"
        "class Counts:\n"
        "    def plan(self, view):\n"
        "        count = view.carried(1) + 1\n"
        "        return Plan(tmem=count[:, 0], carry=count)\n"
    )
    process = PolicyProcess(f"{path}:Counts", deadline_s=LONG_S)
    try:
        process.wait()
        world = World(process)
        world.open(1)
        for expected in (1, 2, 3):
            assert world.tick().fault is None
            assert world.tmem() == [expected]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        report = world.tick()
        while report.fault is not None:
            assert "Counts" in str(report.fault)
            assert world.tmem() == [3]
            time.sleep(0.02)
            report = world.tick()
        assert world.tmem() == [4]
    finally:
        process.close()


@begun
def test_it_has_no_file_no_privilege_and_a_limit(make: Make, begin: Begin | None) -> None:
    process = make(begin=begin)
    process.wait()
    proc = Path(f"/proc/{process.pid}")
    links = [os.readlink(link) for link in (proc / "fd").iterdir()]
    assert sorted(link.split(":")[0] for link in links) == [
        "/dev/null",
        "/dev/null",
        "pipe",
        "socket",
    ]
    status = (proc / "status").read_text()
    assert "NoNewPrivs:\t1" in status
    limits = (proc / "limits").read_text().splitlines()
    (space,) = (line.split()[3:5] for line in limits if line.startswith("Max address space"))
    assert space == [str(confine.MEMORY_BYTES)] * 2
    assert os.getsid(process.pid or 0) == process.pid


@pytest.mark.parametrize("begin", ["None", "forked.start"])
def test_it_ends_with_the_hypervisor(tmp_path: Path, begin: str) -> None:
    path = tmp_path / "spins.py"
    path.write_text(POLICY.format(tick=0, body="ctypes.PyDLL(None).sleep(1000)"))
    code = (
        "import sys\n"
        "from hypervisor.coordination.policy_process import PolicyProcess\n"
        "from policies import View, forked\n"
        f"process = PolicyProcess(sys.argv[1], deadline_s=0.05, begin={begin})\n"
        "process.wait()\n"
        "try: process.plan(View.of(capacity=10, used=[1]))\n"
        "except Exception as error: print(process.pid, error, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", code, f"{path}:Mine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        pid, _, why = parent.stdout.readline().partition(" ")
        assert "stalled" in why
        pidfd = os.pidfd_open(int(pid))
    finally:
        parent.kill()
        parent.communicate()
    assert select.select([pidfd], [], [], LONG_S)[0], "it lives on"
    os.close(pidfd)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("import os; os._exit(0)", "its process ended with status 0"),
        ("class Mine: pass", "is no class with plan"),
    ],
)
@begun
def test_one_that_cannot_be_loaded_is_refused(
    tmp_path: Path, source: str, named: str, begin: Begin | None
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(PolicyError, match=named):
        PolicyProcess(f"{path}:Mine", deadline_s=LONG_S, begin=begin).wait()


def test_one_that_was_forked_answers_and_is_followed_by_one_that_is_executed(
    make: Make, clock: Clock
) -> None:
    process = make("raise KeyError('no')", begin=forked.start)
    process.wait()
    first = process.pid
    assert first is not None
    assert process.plan(a_view()).tmem is not None
    with pytest.raises(Failed, match="raised KeyError"):
        process.plan(a_view(BAD_TICK))
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    with pytest.raises(Failed, match="was killed by SIGKILL"):
        process.plan(a_view())
    assert answers_again(process, clock).tmem is not None
    assert process.pid != first


def test_one_that_is_forked_sees_nothing_of_what_its_parent_has_open(
    make: Make, tmp_path: Path
) -> None:
    seen = "raise KeyError(sorted(os.listdir('/proc/self/fd')), signal.getsignal(signal.SIGTERM))"
    with (tmp_path / "secret").open("w") as file:
        os.dup2(file.fileno(), 300)
        process = make(seen, begin=forked.start)
        os.close(300)
        process.wait()
        with pytest.raises(Failed) as failed:
            process.plan(a_view(BAD_TICK))
    assert "'300'" not in str(failed.value)
    assert "SIG_DFL" in str(failed.value)


def test_one_that_does_not_load_in_time_is_refused(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "slow.py"
    path.write_text("while True: pass")
    process = PolicyProcess(f"{path}:Mine", deadline_s=LONG_S, clock=clock)
    clock.more_s += START_S
    with pytest.raises(PolicyError, match=r"slow\.py:Mine: it was not loaded within 30 s"):
        process.wait()


@begun
def test_what_it_writes_on_standard_error_is_passed_on_up_to_a_bound(
    make: Make, begin: Begin | None
) -> None:
    said: list[str] = []
    process = make("sys.stderr.write('word\\n' * 100_000)", tell=said.append, begin=begin)
    process.wait()
    assert process.plan(a_view(BAD_TICK)).tmem is not None
    assert said[0] == "word"
    assert said[-1] == "what it writes from now on is not shown"
    assert sum(len(line) + 1 for line in said) < 2 * SAID_BYTES_MAX


def test_a_view_of_more_domains_than_there_is_room_for_is_an_error(make: Make) -> None:
    process = make(domains=1)
    process.wait()
    view = View.of(capacity=10, used=np.zeros(100))
    with pytest.raises(ValueError, match="cannot hold"):
        process.plan(view)
    assert process.plan(View.of(capacity=10, used=[1])).tmem is not None
