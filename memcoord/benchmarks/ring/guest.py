"""The measured processes of ``memcoord bench ring``: the one that asks and the one that echoes.

Owns: round trips on the ring of a domain, over file descriptors, and over ZeroMQ.
Called by: ``memcoord.benchmarks.ring.bench``.
"""

from __future__ import annotations

import contextlib
import mmap
import time
from array import array
from typing import Any

import zmq

from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import Measured, ok, on_thread, run, timed
from memcoord.testbed.runs.remote import operation


class RingGuest(Measured):
    """``key`` names the domain an operation is about."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._pages: dict[int, Any] = {}  # shared with the other end, by fd

    @operation
    def ring(self, key: str, count: int, batch: int, rest_ns: int = 0) -> tuple[bytes, float]:
        """NOP round trips; also the share of them that slept."""
        guest = self._attached[key].guest
        sleeps = int(guest.sleeps)
        samples = timed("ring", lib.mcb_ring_nop, (guest,), count, batch, rest_ns)
        return samples, (int(guest.sleeps) - sleeps) / count

    @operation
    def call_fds(self, read_fd: int, write_fd: int, size: int, count: int, rest_ns: int) -> bytes:
        """Round trips over two file descriptors."""
        fds = (read_fd, write_fd)
        return timed("fd round trip", lib.mcb_fd_call, (*fds, size), count, rest_ns)

    @operation
    def serve_fds(self, read_fd: int, write_fd: int, size: int) -> None:
        """Echo on a thread, until the other end closes."""
        on_thread(lib.mcb_fd_echo, read_fd, write_fd, size)

    @operation
    def call_flag(self, fd: int, count: int, first: int) -> bytes:
        """Round trips over two polled flags in a shared page."""
        return timed("flag round trip", lib.mcb_flag_call, (self._flags(fd),), count, first)

    @operation
    def serve_flag(self, fd: int, count: int, first: int) -> None:
        """Answer as many."""
        ok(lib.mcb_flag_echo(self._flags(fd), count, first), "flag echo")

    def _flags(self, fd: int) -> Any:
        if fd not in self._pages:
            self._pages[fd] = ffi.from_buffer(mmap.mmap(fd, mmap.PAGESIZE))
        return ffi.cast("struct mcb_flags *", self._pages[fd])

    @operation
    def call_zmq(self, endpoint: str, size: int, count: int, rest_ns: int) -> bytes:
        """REQ round trips."""
        made, message, samples = self._zmq(endpoint, zmq.REQ), bytes(size), array("Q")
        for _ in range(count):
            lib.mcb_rest(rest_ns)
            start = time.perf_counter_ns()
            made.send(message)
            made.recv()
            samples.append(time.perf_counter_ns() - start)
        return samples.tobytes()

    @operation
    def serve_zmq(self, endpoint: str) -> None:
        """REP echo on a thread."""
        on_thread(_zmq_echo, self._zmq(endpoint, zmq.REP))

    def _zmq(self, endpoint: str, kind: int) -> zmq.Socket[bytes]:
        if endpoint not in self._sockets:
            made: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
            made.linger = 0
            (made.bind if kind == zmq.REP else made.connect)(endpoint)
            self._sockets[endpoint] = made
        return self._sockets[endpoint]


def _zmq_echo(made: Any) -> None:
    while True:  # ends with the process: the thread is a daemon
        made.send(made.recv())


if __name__ == "__main__":
    run(RingGuest)
