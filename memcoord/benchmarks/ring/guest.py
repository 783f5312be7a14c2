"""The measured processes of ``memcoord bench ring``: the one that asks and the one that echoes.

Owns: round trips on the ring of a domain, over file descriptors, and over ZeroMQ.
Called by: ``memcoord.benchmarks.ring.bench``.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from typing import Any

import zmq

from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.measured import Measured, bytes_of, ok, on_thread, run, samples_of
from memcoord.testbed.runs.remote import operation


class RingGuest(Measured):
    """``key`` names the domain an operation is about."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._sockets: dict[str, zmq.Socket[bytes]] = {}

    @operation
    def ring(self, key: str, count: int, batch: int, rest_ns: int = 0) -> tuple[bytes, float]:
        """NOP round trips; also the share of them that slept."""
        at, samples = self._attached[key], samples_of(count)
        sleeps = int(at.guest.sleeps)
        ok(lib.mcb_ring_nop(at.guest, samples, count, batch, rest_ns), "ring")
        return bytes_of(samples), (int(at.guest.sleeps) - sleeps) / count

    @operation
    def call_fds(self, read_fd: int, write_fd: int, size: int, count: int, rest_ns: int) -> bytes:
        """Round trips over two file descriptors."""
        samples = samples_of(count)
        status = lib.mcb_fd_call(read_fd, write_fd, size, samples, count, rest_ns)
        ok(status, "fd round trip")
        return bytes_of(samples)

    @operation
    def serve_fds(self, read_fd: int, write_fd: int, size: int) -> None:
        """Echo on a thread, until the other end closes."""
        on_thread(lib.mcb_fd_echo, read_fd, write_fd, size)

    @operation
    def call_zmq(self, endpoint: str, size: int, count: int, rest_ns: int) -> bytes:
        """REQ round trips."""
        return _zmq_call(self._zmq(endpoint, zmq.REQ), bytes(size), count, rest_ns)

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


def _zmq_call(made: Any, message: bytes, count: int, rest_ns: int) -> bytes:
    samples = array("Q")
    for _ in range(count):
        lib.mcb_rest(rest_ns)
        start = time.perf_counter_ns()
        made.send(message)
        made.recv()
        samples.append(time.perf_counter_ns() - start)
    return samples.tobytes()


def _zmq_echo(made: Any) -> None:
    while True:  # ends with the process: the thread is a daemon
        made.send(made.recv())


if __name__ == "__main__":
    run(RingGuest)
