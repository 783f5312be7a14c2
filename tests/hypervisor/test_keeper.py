"""Goal: whatever ends a hypervisor, the next has what it held; and an end is an end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keeper_lab
import pytest

from hypervisor.keeping.takeover import ask
from hypervisor.public.errors import ConfigError, MemcoordError
from hypervisor.public.messages import KEEPER_SOCKET, TOKEN_FILE
from hypervisor.run_dir import LOCK_FILE, is_locked, make_token

pytestmark = pytest.mark.process
WAIT_S = 60.0
STEP_S = 0.01


class Lab:
    """One keeper."""

    def __init__(self, run_dir: Path, orders: str = "", **more: Any) -> None:
        self.run_dir = run_dir
        self.order(orders)
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", keeper_lab.__file__, "keep", str(run_dir)]
        self.keeper = subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True, **more)

    def order(self, word: str) -> None:
        draft = self.run_dir / "draft"
        draft.write_text(word, encoding="utf-8")
        draft.replace(self.run_dir / "orders")

    def lives(self) -> list[dict[str, Any]]:
        text = keeper_lab.read(self.run_dir / "lives")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def life(self, number: int) -> dict[str, Any]:
        """What the hypervisor ``number``, from 0, says of itself once it serves."""
        self.wait(lambda: len(self.lives()) > number)
        return self.lives()[number]

    def wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < until, "did not happen in time"
            assert self.keeper.poll() is None, self.keeper.communicate()[1]
            time.sleep(STEP_S)

    def end(self) -> tuple[int, str]:
        """The keeper's exit code, and what it says, once it has ended."""
        assert self.keeper.stderr is not None
        return self.keeper.wait(WAIT_S), self.keeper.stderr.read()


@pytest.fixture
def start(short_path: Path) -> Iterator[Callable[..., Lab]]:
    labs: list[Lab] = []

    def make(orders: str = "", **more: Any) -> Lab:
        labs.append(Lab(short_path, orders, **more))
        return labs[-1]

    yield make
    for lab in labs:
        lab.keeper.kill()
        lab.keeper.communicate()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_next_hypervisor_has_what_the_killed_one_held(start: Callable[..., Lab]) -> None:
    lab = start()
    for number in range(5):
        life = lab.life(number)
        assert life["begin"] == number
        assert life["count"] == number
        assert life["left"] == ([] if number == 0 else ["goner"])
        assert life["died"] == ("was killed by SIGKILL" if number else "")
        os.kill(life["pid"], signal.SIGKILL)
    last = lab.life(5)
    lab.order("end")
    assert lab.end() == (7, "")
    assert is_gone(last["pid"])
    left = {entry.name for entry in lab.run_dir.iterdir()}
    assert left.isdisjoint({LOCK_FILE, KEEPER_SOCKET})


def test_a_keeper_without_file_descriptors_goes_on(start: Callable[..., Lab]) -> None:
    """What it cannot hold it says, and holds none of what belongs together."""
    few = (keeper_lab.LIMIT, keeper_lab.LIMIT)
    lab = start("too much", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few))
    for life in range(2):
        os.kill(lab.life(life)["pid"], signal.SIGKILL)
    assert lab.life(2)["count"] == 2 * len("x")
    lab.order("end")
    code, said = lab.end()
    assert code == 7
    assert "no file descriptors left" in said


@pytest.mark.parametrize(
    "said",
    [
        b"\x82\xa4type\xa8TakeOver\xa1x" + b"\x91" * 60_000,
        b"\x82\xa4type\xa8TakeOver\xa5token\xa1\xff",
        b"\xc1",
        b"\x91" * 60_000,
    ],
)
def test_what_anybody_says_to_a_keeper_does_not_end_it(
    start: Callable[..., Lab], said: bytes
) -> None:
    """Also a confined domain can connect."""
    lab = start()
    lab.life(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(WAIT_S)
        stranger.connect(str(lab.run_dir / KEEPER_SOCKET))
        stranger.send(said)
        with contextlib.suppress(OSError):
            assert stranger.recv(1) == b"", "it is let go"
    os.kill(lab.life(0)["pid"], signal.SIGKILL)
    assert lab.life(1)["begin"] == 1


def test_one_that_says_none_can_serve_is_the_last(start: Callable[..., Lab]) -> None:
    assert start("refuse").end() == (2, "books: of another make")


def test_one_that_never_served_is_not_followed(start: Callable[..., Lab]) -> None:
    assert start("crash").end() == (1, "the hypervisor ended with exit code 70 before it served")


def test_hypervisors_that_crash_one_after_the_other_come_to_an_end(
    start: Callable[..., Lab],
) -> None:
    lab = start()
    life = lab.life(0)
    lab.order("crash")
    os.kill(life["pid"], signal.SIGKILL)
    code, why = lab.end()
    assert code == 1
    assert "is not started again" in " ".join(why.split())


@pytest.mark.parametrize("how", ["signal", "parent"])
def test_a_keeper_that_is_asked_to_end_asks_the_hypervisor(
    start: Callable[..., Lab], how: str
) -> None:
    lab = start()
    pid = lab.life(0)["pid"]
    if how == "signal":
        lab.keeper.send_signal(signal.SIGTERM)
    else:
        assert lab.keeper.stdin is not None
        lab.keeper.stdin.close()
        lab.keeper.stdin = None
    assert lab.end()[0] == 128 + signal.SIGTERM  # this hypervisor has no handler for it
    assert is_gone(pid)


def test_nothing_outlives_a_killed_keeper(start: Callable[..., Lab]) -> None:
    lab = start()
    pid = lab.life(0)["pid"]
    assert is_locked(lab.run_dir / LOCK_FILE)
    lab.keeper.kill()
    lab.keeper.wait()
    until = time.monotonic() + WAIT_S
    while is_locked(lab.run_dir / LOCK_FILE):  # hypervisor and standby hold it as well
        assert time.monotonic() < until
        time.sleep(STEP_S)
    assert is_gone(pid) or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    again = start()
    assert again.life(1)["begin"] == 0


def test_another_installation_takes_over_if_its_memory_looks_the_same(
    start: Callable[..., Lab],
) -> None:
    lab = start()
    token = make_token(lab.run_dir)
    first = lab.life(0)["pid"]
    with pytest.raises(MemcoordError, match=TOKEN_FILE):
        ask(lab.run_dir, "wrong", sys.executable, "1")
    with pytest.raises(MemcoordError, match="lays memory out as 2, what it would take over is 1"):
        ask(lab.run_dir, token, sys.executable, "2")
    with pytest.raises(MemcoordError, match="cannot serve"):
        ask(lab.run_dir, token, "/bin/false", "1")
    assert not is_gone(first)
    assert len(lab.lives()) == 1
    pid = ask(lab.run_dir, token, sys.executable, "1")
    assert pid == lab.life(1)["pid"]
    assert lab.life(1)["count"] == 1
    assert is_gone(first)


def test_an_installation_that_fails_gives_way_to_the_one_before(start: Callable[..., Lab]) -> None:
    lab = start()
    token = make_token(lab.run_dir)
    lab.life(0)
    lab.order("refuse")
    with pytest.raises(MemcoordError):  # so does the one before, by the same order
        ask(lab.run_dir, token, sys.executable, "1")
    assert lab.end() == (2, "books: of another make")


def test_nobody_to_ask(short_path: Path) -> None:
    with pytest.raises(ConfigError, match="no keeper"):
        ask(short_path, "", sys.executable, "1")
