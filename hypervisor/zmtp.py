"""The server's end of ZeroMQ, as far as the control plane needs it: ZMTP 3.0, mechanism NULL.

Owns: framing and handshake with ZeroMQ peers (DEALER to our ROUTER, SUB to our XPUB) over a
``Door``, whose limits hold here as well. libzmq itself has no limit of connections, and ends the
whole process when it has no file descriptor left for the next one.
Rules: main thread only; nothing here blocks. What a peer says is bounded: a frame of more than
MESSAGE_BYTES_MAX, or what is no ZMTP, costs the peer its connection.

A connection: 64 bytes of greeting and one READY command from each side, then messages of frames. A
frame is a byte of flags, its size in 1 byte (8 with LONG), its body.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypervisor.door import Door, Listen, Peer, listen
from hypervisor.public.messages import MESSAGE_BYTES_MAX

MORE, LONG, COMMAND = 1, 2, 4
FRAMES_MAX = 8
READ_BYTES = 4096
#: What may wait for a peer that does not read; a message that finds no room is dropped.
UNSENT_BYTES_MAX = 8 * MESSAGE_BYTES_MAX
CONNECTIONS_PER_PROCESS_MAX = 24

_SIGNATURE_BYTES, _VERSION_AT, _MECHANISM_AT, GREETING_BYTES = 10, 10, 12, 64
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY"
_IDENTITY, _SOCKET_TYPE = b"Identity", b"Socket-Type"


class _Broken(Exception):
    """A peer says what no ZeroMQ peer says."""


@dataclass(eq=False)
class Line(Peer):
    """One ZeroMQ peer. ``identity`` is what it calls itself, ``topics`` what it subscribed to."""

    identity: bytes = b""
    topics: set[bytes] = field(default_factory=set)
    heard: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    frames: list[bytes] = field(default_factory=list)
    has_spoken: bool = False
    is_greeted: bool = False
    is_ready: bool = False


class ZmtpServer:
    """Serve ``path`` as a ``socket_type``: every whole message goes to ``hear``.

    ``admit`` is asked when a peer has introduced itself; one that is not admitted is dropped.
    """

    def __init__(
        self,
        path: Path,
        socket_type: str,
        hear: Callable[[Line, list[bytes]], None],
        *,
        admit: Callable[[Line], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
        listen: Listen = listen,
    ) -> None:
        self._type, self._hear, self._admit = socket_type.encode(), hear, admit
        self._door: Door[Line] = Door(
            path,
            socket.SOCK_STREAM,
            Line,
            hear=self._receive,
            per_process_max=CONNECTIONS_PER_PROCESS_MAX,
            clock=clock,
            listen=listen,
        )

    @property
    def lines(self) -> list[Line]:
        """The peers there are now."""
        return list(self._door.peers.values())

    def poll_fds(self) -> dict[int, int]:
        """What is to be polled, for which events."""
        wanted = dict.fromkeys(self._door.poll_fds(), select.POLLIN)
        for fileno, line in self._door.peers.items():
            if line.unsent:
                wanted[fileno] |= select.POLLOUT
        return wanted

    def handle(self, fileno: int, events: int) -> None:
        """``events`` came for one of ``poll_fds``."""
        line = self._door.peers.get(fileno)
        if line is not None and events & select.POLLOUT:
            self._flush(line)
        if events & ~select.POLLOUT and (line is None or fileno in self._door.peers):
            self._door.handle(fileno)

    def expire(self) -> None:
        """Let go of peers that connected and did not say what makes them welcome."""
        self._door.expire()

    def send(self, line: Line, frames: list[bytes]) -> None:
        """Send a message, or drop it where the peer is gone or does not read."""
        size = sum(len(frame) for frame in frames)
        if line.connection.fileno() < 0 or len(line.unsent) + size > UNSENT_BYTES_MAX:
            return
        for frame in frames[:-1]:
            line.unsent += _frame(frame, MORE)
        line.unsent += _frame(frames[-1], 0)
        self._flush(line)

    def close(self) -> None:
        """End every connection and remove the socket's file."""
        self._door.close()

    def _flush(self, line: Line) -> None:
        with contextlib.suppress(OSError):  # a peer that is gone is told of by its input
            del line.unsent[: line.connection.send(line.unsent)]

    def _receive(self, line: Line) -> None:
        try:
            data = line.connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not line.has_spoken:
            line.has_spoken = True
            line.unsent += _GREETING
            self._flush(line)
        line.heard += data
        try:
            if not data:
                raise _Broken
            self._read(line)
        except _Broken:
            if self._door.peers.get(line.connection.fileno()) is line:
                self._door.drop(line)

    def _read(self, line: Line) -> None:
        if not line.is_greeted:
            if not _is_greeting(line.heard):
                return
            del line.heard[:GREETING_BYTES]
            line.is_greeted = True
            properties = _property(_SOCKET_TYPE, self._type) + _property(_IDENTITY, b"")
            line.unsent += _frame(_READY + properties, COMMAND)
            self._flush(line)
        while (frame := _take_frame(line.heard)) is not None:
            flags, body = frame
            if flags & COMMAND:
                self._obey(line, body)
            else:
                self._collect(line, flags, body)

    def _obey(self, line: Line, body: bytes) -> None:
        if not body.startswith(_READY) or line.is_ready:
            return  # a heartbeat, say
        line.identity = _properties(body[len(_READY) :]).get(_IDENTITY.lower(), b"")
        line.is_ready = True
        if not self._admit(line):
            raise _Broken

    def _collect(self, line: Line, flags: int, body: bytes) -> None:
        if not line.is_ready or len(line.frames) >= FRAMES_MAX:
            raise _Broken
        line.frames.append(body)
        if not flags & MORE:
            message, line.frames = line.frames, []
            self._hear(line, message)


def _is_greeting(heard: bytearray) -> bool:
    """Whether a whole greeting is there; _Broken as soon as it can be none of ours."""
    if bytes(heard[:1]) not in (b"", b"\xff") or bytes(heard[9:10]) not in (b"", b"\x7f"):
        raise _Broken
    if heard[_VERSION_AT : _VERSION_AT + 1] and heard[_VERSION_AT] < _GREETING[_VERSION_AT]:
        raise _Broken
    if len(heard) < GREETING_BYTES:
        return False
    if heard[_MECHANISM_AT : _MECHANISM_AT + 20] != _GREETING[_MECHANISM_AT : _MECHANISM_AT + 20]:
        raise _Broken
    return True


def _take_frame(heard: bytearray) -> tuple[int, bytes] | None:
    """Flags and body of the first frame, taken out of ``heard``; None until it is all there."""
    if len(heard) < 2:
        return None
    flags, head = heard[0], 9 if heard[0] & LONG else 2
    if flags & ~(MORE | LONG | COMMAND):
        raise _Broken
    if len(heard) < head:
        return None
    size = int.from_bytes(heard[1:head], "big")
    if size > MESSAGE_BYTES_MAX:
        raise _Broken
    if len(heard) < head + size:
        return None
    body = bytes(heard[head : head + size])
    del heard[: head + size]
    return flags, body


def _frame(body: bytes, flags: int) -> bytes:
    if len(body) > 0xFF:
        return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def _properties(data: bytes) -> dict[bytes, bytes]:
    found = {}
    while data:
        name, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        size = int.from_bytes(data[:4], "big")
        found[name.lower()], data = data[4 : 4 + size], data[4 + size :]
    return found
