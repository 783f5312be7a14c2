"""Doorbells as Python sees them: one end of a pair, whatever carries the ring.

Owns: the ``Doorbell`` protocol and its three carriers. ``FutexBell`` and ``EventfdBell`` join two
processes of one host, ``ZmqBell`` those that share nothing to sleep on. Compiled code uses
``abi/bell.h`` directly; what it does per message is the same.

Rules of use, the same for every carrier:
  1. A bell carries no data and no count. Rings coalesce, and a ring may be spurious: after
     ``wait`` returned, look at the ring; only the ring knows.
  2. To sleep: arm the ring (``mc_front_arm``, ``mc_back_arm``); if that says nothing has arrived,
     ``wait``. A ``notify`` made after the arming is never missed, also when it comes before the
     ``wait``: every carrier remembers a ring until a ``wait`` has returned it.
  3. An end is used by one thread at a time. ``wait`` lets other Python threads run, but a signal
     handler of Python may have to wait for it: sleep in slices of a second at most.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hypervisor.public.errors import InternalError

if TYPE_CHECKING:
    import zmq

#: Messages a ZmqBell queues on arrival and takes in one wait; more only make the next wait short.
DRAIN_MAX = 1024
_NS_PER_S = 1_000_000_000
_MS_PER_S = 1_000


class Doorbell(Protocol):
    """One end of a pair: ``notify`` rings the other end, ``wait`` hears it."""

    def notify(self) -> None:
        """Ring the other end. Never blocks, and never fails because nobody listens."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until rung, at most ``timeout_s`` seconds; True when rung since the last True."""

    def close(self) -> None:
        """Give up what this end owns. May be called twice."""


@dataclass(frozen=True)
class FutexWord:
    """Addresses of a bell's word and of its waiters, both uint32 in memory both ends map.

    Both start at zero; nobody but ``abi/bell.c`` writes them.
    """

    word_address: int
    waiters_address: int


class FutexBell:
    """A pair of futex words. The memory is the caller's and must outlive the bell."""

    def __init__(self, hear: FutexWord, ring: FutexWord) -> None:
        from hypervisor.public._abi import ffi, lib

        self._lib = lib
        self._hear = _cast(ffi, hear)
        self._ring = _cast(ffi, ring)
        self._seen = 0  # what was rung before this end existed counts as rung

    def notify(self) -> None:
        """Ring the other end: one atomic addition, and a system call only if it sleeps."""
        self._lib.mc_bell_ring(*self._ring)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the word has changed since the last wait that returned True."""
        timeout_ns = int(max(timeout_s, 0.0) * _NS_PER_S)
        status = self._lib.mc_bell_wait(*self._hear, self._seen, timeout_ns)
        if status == self._lib.MC_ETIMEOUT:
            return False
        if status != self._lib.MC_OK:
            raise InternalError(f"futex wait on a doorbell: status {status}")
        self._seen = self._hear[0][0]
        return True

    def close(self) -> None:
        """Nothing to give up: the words are the caller's."""


class EventfdBell:
    """A pair of eventfds, which may be inherited or passed over a socket. The fds stay open."""

    def __init__(self, hear_fd: int, ring_fd: int) -> None:
        self._hear_fd, self._ring_fd = hear_fd, ring_fd
        self._poll = select.poll()
        self._poll.register(hear_fd, select.POLLIN)

    def notify(self) -> None:
        """Add one to the other end's eventfd; a full counter is a bell that rings already."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._ring_fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the eventfd is not zero, then take it to zero."""
        if not self._poll.poll(_milliseconds(timeout_s)):
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._hear_fd)
        return True

    def close(self) -> None:
        """Nothing to give up: the fds are the caller's."""


class ZmqBell:
    """A pair of ZeroMQ PAIR sockets; a ring is an empty message.

    A ring that finds the queue full is dropped: the message ahead of it has not left this process,
    so it will reach the other end after what this ring announces. The end that binds has no queue
    before its peer has connected; a ring it makes then is owed until the peer's first message.
    """

    def __init__(self, socket: zmq.Socket[bytes], *, met: bool) -> None:
        import zmq

        self._zmq = zmq
        self._socket = socket
        self._met = met  # there is a queue to the peer
        self._owed = False

    @classmethod
    def bind(cls, context: zmq.Context[Any], endpoint: str) -> ZmqBell:
        """The end that owns ``endpoint``, for example ``ipc://DIRECTORY/doorbell.ipc``."""
        bell = cls(_pair(context), met=False)
        bell._socket.bind(endpoint)
        return bell

    @classmethod
    def connect(cls, context: zmq.Context[Any], endpoint: str) -> ZmqBell:
        """The other end. Its first message tells the binding end that somebody is there."""
        bell = cls(_pair(context), met=True)
        bell._socket.connect(endpoint)
        bell.notify()
        return bell

    def notify(self) -> None:
        """Send a message, unless one is waiting to be sent."""
        # A send that does not block looks at most once a millisecond whether the queue has drained,
        # so it may call a queue full that the other end has emptied long ago. Reading EVENTS looks
        # now. Only after that does "full" mean that a message is still to leave.
        if self._sent():
            return
        self._socket.get(self._zmq.EVENTS)
        self._owed = not self._sent() and not self._met

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a message is there, then take all that have arrived."""
        if not self._socket.poll(_milliseconds(timeout_s)):
            return False
        with contextlib.suppress(self._zmq.Again):
            for _ in range(DRAIN_MAX):
                self._socket.recv(self._zmq.NOBLOCK)
        self._met = True
        if self._owed:
            self.notify()
        return True

    def close(self) -> None:
        """Close the socket; rings not yet sent are forgotten. The context stays the caller's."""
        self._socket.close(linger=0)

    def _sent(self) -> bool:
        try:
            self._socket.send(b"", self._zmq.NOBLOCK)
        except self._zmq.Again:
            return False
        return True


def _pair(context: zmq.Context[Any]) -> zmq.Socket[bytes]:
    import zmq

    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    socket.set(zmq.LINGER, 0)
    # One message is as good as many. With a queue of one the sender hears of each departure, which
    # is what makes a full queue a promise that a message is still on its way.
    socket.set(zmq.SNDHWM, 1)
    socket.set(zmq.RCVHWM, DRAIN_MAX)
    return socket


def _cast(ffi: Any, bell: FutexWord) -> tuple[Any, Any]:
    return (
        ffi.cast("uint32_t *", bell.word_address),
        ffi.cast("uint32_t *", bell.waiters_address),
    )


def _milliseconds(timeout_s: float) -> int:
    """Rounded up, so that a short sleep does not become a busy loop."""
    return math.ceil(max(timeout_s, 0.0) * _MS_PER_S)
