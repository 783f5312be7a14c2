"""Goal: a child can be told things whatever it does. Method: real children that go wrong."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memcoord.testbed.runs.launcher import Launcher
from memcoord.testbed.runs.remote import Remote, RemoteError, RemoteGone

pytestmark = pytest.mark.process

WAIT_S = 60


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    remote = Remote("child", "remote_child")
    yield remote
    remote.close(grace_s=0.0)


@pytest.mark.parametrize("value", [None, 1 << 63, -1.5, "text", b"\0\xff", [1, [2]], {"a": [True]}])
def test_plain_values_come_back(child: Remote, value: object) -> None:
    assert child.ask("echo", value=value) == value


def test_a_large_answer_arrives_whole(child: Remote) -> None:
    assert child.ask("zeroes", size=5 << 20) == bytes(5 << 20)


def test_answers_come_in_the_order_of_the_operations(child: Remote) -> None:
    for number in range(5):
        child.tell("echo", value=number)
    assert [child.answer() for _ in range(5)] == list(range(5))


def test_an_operation_that_fails_is_told_with_its_reason(child: Remote) -> None:
    with pytest.raises(RemoteError, match="ValueError: told to fail"):
        child.ask("fail")
    with pytest.raises(RemoteError, match="child: "):
        child.ask("unspeakable")
    assert child.ask("echo", value=1) == 1


@pytest.mark.parametrize("op", ["hidden", "nothing", "__init__", "__class__"])
def test_only_what_is_declared_can_be_asked_for(child: Remote, op: str) -> None:
    with pytest.raises(RemoteError, match="no operation is called"):
        child.ask(op)


def test_a_late_answer_is_an_error_and_a_stopped_child_ends(child: Remote) -> None:
    child.ask("echo", value=0)
    child.signal(signal.SIGSTOP)
    child.tell("echo", value=1)
    with pytest.raises(RemoteError, match="no answer within 0 s"):
        child.answer(limit_s=0.0)
    child.close(grace_s=0.0)
    assert child.child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("code", "how"), [(0, "ended"), (3, "exit code 3")])
def test_a_child_that_ends_instead_is_told(child: Remote, code: int, how: str) -> None:
    with pytest.raises(RemoteGone, match=f"child: {how}"):
        child.ask("end", code=code)
    with pytest.raises(RemoteGone):
        child.ask("echo", value=1)


def test_a_selector_sees_answers_and_deaths(child: Remote) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(child, selectors.EVENT_READ)
        child.tell("echo", value=1)
        assert selector.select(WAIT_S)
        assert child.answer() == 1
        assert not selector.select(0)
        child.kill()
        assert selector.select(WAIT_S)


def test_file_descriptors_are_handed_over(child: Remote) -> None:
    pipes = [os.pipe() for _ in range(2)]
    for number, (_, writer) in enumerate(pipes):
        os.write(writer, f"pipe {number}".encode())
    assert child.hand("read", [reader for reader, _ in pipes]) == ["pipe 0", "pipe 1"]
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)


def test_what_an_operation_calls_cannot_read_the_line(child: Remote) -> None:
    assert child.ask("stdin") == ""
    assert child.ask("echo", value=2) == 2


def test_a_launcher_keeps_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with Launcher(tmp_path) as launcher:
        remote = Remote("child", "no_such_module", launcher=launcher)
        with pytest.raises(RemoteGone, match="No module named"):
            remote.ask("echo", value=1)
        remote.close()


def test_a_child_ends_with_its_parent_in_the_middle_of_an_operation() -> None:
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[1]);"
        "os.environ['PYTHONPATH'] = os.pathsep.join(sys.path);"
        "from memcoord.testbed.runs.remote import Remote;"
        "child = Remote('child', 'remote_child'); child.ask('echo', value=1);"
        "child.tell('sleep', for_s=600.0);"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(pid)
        selector.register(ended, selectors.EVENT_READ)
        parent.kill()
        parent.wait(WAIT_S)
        assert selector.select(WAIT_S)
        os.close(ended)
    parent.stdin.close()
    parent.stdout.close()
