"""The attach listener: who is taken, who is refused, and that nobody can block or crash it."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.attach import (
    PENDING_PER_PROCESS_MAX,
    REQUEST_BYTES_MAX,
    AttachListener,
)
from hypervisor.door import FDS_KEPT, SILENCE_S, fds_left
from hypervisor.public.errors import AttachRefused, ConfigError, InternalError, NoMemory
from hypervisor.public.messages import (
    ATTACH_SOCKET,
    VERSION,
    Attached,
    AttachRequest,
    Message,
    Refused,
    Request,
    decode,
    encode,
)

GOOD = encode(AttachRequest(VERSION, "vm1", 512))
LONG = encode(AttachRequest(VERSION, "v" * 300, 512))
#: Well-formed, one byte more than allowed.
TOO_LONG = encode(AttachRequest(VERSION, "v" * (300 + REQUEST_BYTES_MAX + 1 - len(LONG)), 512))


class Clock:
    """Time that a test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Door:
    """A listener, what it admits, and a client's side of it."""

    def __init__(self, run_dir: Path, uid: int | None = None) -> None:
        self.clock = Clock()
        self.admitted: list[tuple[AttachRequest, int]] = []
        self.kept: list[socket.socket] = []
        self.refuse_with: Exception | None = None
        self.path = str(run_dir / ATTACH_SOCKET)
        self.listener = AttachListener(run_dir, self._admit, uid=uid, clock=self.clock)

    def _admit(
        self, request: AttachRequest, pid: int, connection: socket.socket
    ) -> tuple[Attached, list[int]]:
        if self.refuse_with is not None:
            raise self.refuse_with
        self.admitted.append((request, pid))
        self.kept.append(connection)
        return Attached(VERSION, 0, request.name, 1, 2, 3), [0, 1, 2]

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.settimeout(5)
        made.connect(self.path)
        return made

    def serve(self) -> None:
        for fileno in self.listener.poll_fds():
            self.listener.handle(fileno)

    def close(self) -> None:
        self.listener.close()
        for connection in self.kept:
            connection.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()
    assert not (tmp_path / ATTACH_SOCKET).exists()


def answer(client: socket.socket) -> tuple[Message, int]:
    data, fds, _, _ = socket.recv_fds(client, 4096, 8)
    for fd in fds:
        os.close(fd)
    return decode(data), len(fds)


def ask(door: Door, data: bytes) -> tuple[Message, int]:
    with door.connect() as client:
        client.send(data)
        door.serve()
        door.serve()
        return answer(client)


def test_a_domain_gets_its_three_fds(door: Door) -> None:
    message, fds = ask(door, GOOD)
    assert isinstance(message, Attached)
    assert fds == 3
    assert door.admitted == [(AttachRequest(VERSION, "vm1", 512), os.getpid())]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\xc1" * 100,
        GOOD[:-1],
        GOOD + b"x",
        b"a" * (REQUEST_BYTES_MAX + 1),
        TOO_LONG,
        encode(AttachRequest(VERSION + 1, "vm1", 512)),
        encode(Request(VERSION, 1, "ping", {})),
    ],
)
def test_what_is_no_request_is_refused_and_counted(door: Door, data: bytes) -> None:
    message, fds = ask(door, data)
    assert isinstance(message, Refused)
    assert message.code == "bad-message"
    assert fds == 0
    assert door.listener.refused == 1
    assert door.admitted == []


def test_another_user_is_refused_before_it_says_anything(tmp_path: Path) -> None:
    door = Door(tmp_path, uid=os.getuid() + 1)
    with door.connect() as client:
        door.serve()
        message, _ = answer(client)
    assert isinstance(message, Refused)
    assert message.code == "other-user"
    door.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoMemory("none"), "no-memory"),
        (AttachRefused("name-taken", "vm1"), "name-taken"),
        (InternalError("no fd left"), "failed"),
    ],
)
def test_what_the_host_refuses_reaches_the_domain(door: Door, error: Exception, code: str) -> None:
    door.refuse_with = error
    message, _ = ask(door, GOOD)
    assert isinstance(message, Refused)
    assert message.code == code


def test_the_silent_are_dropped_in_time(door: Door) -> None:
    with door.connect() as client:
        door.serve()
        door.listener.expire()
        assert len(door.listener.poll_fds()) == 2
        door.clock.now_s += SILENCE_S + 1
        door.listener.expire()
        message, _ = answer(client)
    assert isinstance(message, Refused)
    assert message.code == "silent"
    assert len(door.listener.poll_fds()) == 1


def test_who_asked_in_time_is_not_silent_because_nobody_listened(door: Door) -> None:
    with door.connect() as client:
        door.serve()
        client.send(GOOD)
        door.clock.now_s += SILENCE_S + 1  # the main thread was busy meanwhile
        door.listener.expire()
        message, _ = answer(client)
    assert isinstance(message, Attached)
    assert door.listener.refused == 0


def test_a_crowd_does_not_grow_without_bound(door: Door) -> None:
    crowd = []
    for _ in range(PENDING_PER_PROCESS_MAX + 10):
        crowd.append(door.connect())
        door.serve()
    assert len(door.listener.poll_fds()) <= PENDING_PER_PROCESS_MAX + 1
    assert door.listener.refused == 10
    assert isinstance(ask(door, GOOD)[0], Attached)  # the latest is heard
    for client in crowd:
        client.close()
    door.serve()
    assert len(door.listener.poll_fds()) == 1


def test_few_fds_are_kept_for_the_domains_there_are(door: Door) -> None:
    with few_fds(FDS_KEPT + 4), door.connect() as client:
        client.send(GOOD)
        door.serve()
        door.serve()
        message, _ = answer(client)
    assert isinstance(message, Refused)
    assert message.code == "no-fds"
    assert "ulimit -n" in message.reason
    assert door.admitted == []


def test_without_any_fd_newcomers_are_turned_away_and_none_waits(door: Door) -> None:
    clients = [door.connect() for _ in range(3)]
    with few_fds(0):
        door.serve()
    codes = [answer(client)[0] for client in clients]
    assert [one.code for one in codes if isinstance(one, Refused)] == ["no-fds"] * 3
    for client in clients:
        client.close()
    assert isinstance(ask(door, GOOD)[0], Attached)


@contextlib.contextmanager
def few_fds(left: int) -> Iterator[None]:
    """This process has only so many file descriptors left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - fds_left() + left, hard))
        if left == 0:
            with contextlib.suppress(OSError):
                while True:
                    stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


def test_fds_nobody_asked_for_are_closed(door: Door) -> None:
    read, write = os.pipe()
    with door.connect() as client:
        socket.send_fds(client, [GOOD], [write])
        os.close(write)
        door.serve()
        door.serve()
        assert isinstance(answer(client)[0], Attached)
        assert os.read(read, 1) == b""  # no copy of the write end is left
    os.close(read)


def test_a_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with pytest.raises(ConfigError, match="too long"):
        Door(deep)


def test_two_hypervisors_cannot_have_one_run_directory(door: Door, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in use"):
        AttachListener(tmp_path, door._admit)
