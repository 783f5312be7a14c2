"""Messages between keeper, standby and hypervisor, and the file descriptors that go with them.

Owns: the messages, and ``Channel``, one end of a pair of AF_UNIX SOCK_SEQPACKET sockets.
Rules: a message that was sent stays in the socket although its sender is killed, so the keeper has
what a hypervisor sent before its end, and no message is acknowledged. All ends are ours: a message
that does not decode is a mistake of our own.

  keeper to standby      ``Fork``, with the end of a new channel: the hypervisor's
  standby to keeper      ``Ready`` once, when it has loaded all that a hypervisor needs
  keeper to hypervisor   ``Keep`` for each file descriptor it gets back, then ``Begin``
  hypervisor to keeper   ``Born`` first; ``Keep``, ``Drop`` at any time; ``Serving`` once it serves;
                         ``Ending`` when it was asked to end, ``Failed`` when it cannot serve
  operator to keeper     ``TakeOver`` over ``KEEPER_SOCKET``; the answer is ``Taken``
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from hypervisor.public.errors import ConfigError, MemcoordError

MESSAGE_BYTES_MAX = 1 << 16
#: What the kernel lets one message carry is a little more.
FDS_PER_MESSAGE_MAX = 200
#: How long a message may wait for room in the socket of a peer that reads all the time.
SEND_S = 10.0


# Not written in the class line: type checkers would then want ``frozen=True`` of every subclass.
_SHAPE: dict[str, Any] = {"frozen": True, "tag": True}


class _Message(msgspec.Struct, **_SHAPE):
    pass


class Fork(_Message):
    """Fork a hypervisor, which speaks over the channel that comes with this."""


class Ready(_Message):
    """A standby waits. ``layout``: of the memory that its hypervisors can take over."""

    layout: str


class Keep(_Message):
    """Hold the file descriptors that come with this under ``names``, instead of earlier ones."""

    names: tuple[str, ...]


class Drop(_Message):
    """Close what is held under ``name``, and under every name that begins with it and a slash."""

    name: str


class Begin(_Message):
    """Serve. ``died``: how the one before ended, empty for the first; ``died_ns``: when.

    CLOCK_MONOTONIC. ``restarts``: how many hypervisors there were before.
    """

    restarts: int = 0
    died: str = ""
    died_ns: int = 0


class Born(_Message):
    """A hypervisor was forked, and this is its process id."""

    pid: int


class Serving(_Message):
    """The hypervisor serves; from now on the next one may take over what it holds."""


class Ending(_Message):
    """The hypervisor ends because it was asked to: there is to be no other."""


class Failed(_Message):
    """The hypervisor cannot serve, nor could another. ``key``: of a ConfigError, or empty."""

    key: str
    why: str


def failed(error: MemcoordError) -> Failed:
    """The message that says what ``error`` says."""
    if isinstance(error, ConfigError):
        return Failed(error.key, error.why)
    return Failed("", str(error))


class TakeOver(_Message):
    """Let another installation serve: its interpreter and the folder of its packages."""

    token: str
    python: str
    packages: str


class Taken(_Message):
    """The answer: ``refusal`` is empty when the new hypervisor (process ``pid``) serves."""

    refusal: str
    pid: int = 0


Message = Fork | Ready | Keep | Drop | Begin | Born | Serving | Ending | Failed | TakeOver | Taken


class Channel:
    """One end. ``receive`` waits for a message, unless ``timeout_s`` says otherwise."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.settimeout(SEND_S)

    def fileno(self) -> int:
        """To be polled for input."""
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send ``message`` and file descriptors, which stay open here; OSError."""
        self._socket.settimeout(SEND_S)
        socket.send_fds(self._socket, [msgspec.msgpack.encode(message)], fds)

    def receive(self, timeout_s: float | None = None) -> tuple[Message, list[int]] | None:
        """The next message and what came with it; None at the end of the channel.

        BlockingIOError or TimeoutError when nothing comes in time.
        """
        self._socket.settimeout(timeout_s)
        try:
            data, fds = self._receive()
        except ConnectionResetError:  # it ended with something unread; what it sent is still there
            data, fds = self._receive()
        return (msgspec.msgpack.decode(data, type=Message), fds) if data else None

    def _receive(self) -> tuple[bytes, list[int]]:
        data, fds, _, _ = socket.recv_fds(
            self._socket, MESSAGE_BYTES_MAX, FDS_PER_MESSAGE_MAX, socket.MSG_CMSG_CLOEXEC
        )
        return data, fds

    def close(self) -> None:
        """End the channel."""
        self._socket.close()


def pair() -> tuple[Channel, Channel]:
    """Both ends of a new channel; OSError."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one), Channel(other)


def channel_of(fd: int) -> Channel:
    """The end of a channel that was inherited or received as ``fd``."""
    os.set_inheritable(fd, False)
    return Channel(socket.socket(fileno=fd))
