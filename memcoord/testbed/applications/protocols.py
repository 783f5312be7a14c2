"""How ``client`` speaks to the servers it knows: the one of ``server``, and Redis, unmodified.

Owns: requests as bytes, and where a reply ends. A reply is right when it is that of the row which
the request named, byte by byte; so a wrong byte in a server's memory is seen. Pure, but for
``fill``, which puts the rows into a server that has none.
"""

from __future__ import annotations

import socket
from typing import Protocol as Shape

from memcoord.testbed.applications.server import NUMBER, answer, row, rows_in

#: Rows sent before their replies are read.
BATCH_ROWS = 64
CHUNK_BYTES = 1 << 16
WAIT_S = 300.0


class Protocol(Shape):
    """What a client needs of a server."""

    def fill(self, line: socket.socket, mib: int) -> None:
        """Have the server hold all rows."""

    def request(self, number: int) -> bytes:
        """The question for a row."""

    def reply(self, number: int, got: bytes) -> tuple[bool, int] | None:
        """Whether it is right, and its bytes; None until it is whole."""

    def farewell(self) -> bytes:
        """What ends the server."""


class Sqlite:
    """The server of ``server``, which fills itself and ends by itself."""

    def fill(self, line: socket.socket, mib: int) -> None:
        """It has."""
        del line, mib

    def request(self, number: int) -> bytes:
        """As there."""
        return NUMBER.pack(number)

    def reply(self, number: int, got: bytes) -> tuple[bool, int] | None:
        """As there."""
        if len(got) < NUMBER.size:
            return None
        return NUMBER.unpack(got[: NUMBER.size])[0] == answer(number), NUMBER.size

    def farewell(self) -> bytes:
        """Not needed."""
        return b""


class Redis:
    """A redis-server: a key for each row."""

    def fill(self, line: socket.socket, mib: int) -> None:
        """No snapshots, then SET all; ValueError when it refuses one."""
        line.settimeout(WAIT_S)
        _accepted(line, [_command(b"CONFIG", b"SET", b"save", b"")])
        for first in range(0, rows_in(mib), BATCH_ROWS):
            batch = range(first, min(first + BATCH_ROWS, rows_in(mib)))
            _accepted(line, [_command(b"SET", _key(at), row(at)) for at in batch])

    def request(self, number: int) -> bytes:
        """GET."""
        return _command(b"GET", _key(number))

    def reply(self, number: int, got: bytes) -> tuple[bool, int] | None:
        """The content, or an error, which is wrong."""
        head, mark, body = got.partition(b"\r\n")
        if not mark:
            return None
        if not head.startswith(b"$") or head == b"$-1":
            return False, len(head) + 2
        size = int(head[1:])
        if len(body) < size + 2:
            return None
        return body[:size] == row(number), len(head) + 2 + size + 2

    def farewell(self) -> bytes:
        """Without a file."""
        return _command(b"SHUTDOWN", b"NOSAVE")


PROTOCOLS: dict[str, type[Sqlite] | type[Redis]] = {"sqlite": Sqlite, "redis": Redis}


def _accepted(line: socket.socket, commands: list[bytes]) -> None:
    """Send them and wait for as many agreements; ValueError for anything else."""
    line.sendall(b"".join(commands))
    wanted, got = b"+OK\r\n" * len(commands), b""
    while got != wanted:
        more = line.recv(CHUNK_BYTES)
        got += more
        if not more or not wanted.startswith(got):
            raise ValueError(f"the server does not agree: {got[-80:]!r}")


def _key(number: int) -> bytes:
    return b"row%d" % number


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
