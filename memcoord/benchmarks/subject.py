"""The measured process: ``python -P -m memcoord.benchmarks.subject SOCKET [--single-threaded]``.

Owns: the domains it is attached to and one function per row, called by the bench's parent over a
socket in the bench's directory. Rival rows (malloc, eventfd, ...) run in this same process, between
ours. Several domains, also of several hypervisors, may be attached at once: each stands for another
situation of the host, and all are measured beside the same malloc.
Rules: a row's function returns native uint64 nanoseconds per sample, and facts about the samples.
Ends when its parent does. ``--single-threaded`` starts no thread, for malloc without locks.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from hypervisor.public.errors import error_of
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.grant import python_rows
from memcoord.testbed.runs.launcher import end_with_parent

CREDIT_WAIT_S = 5.0
CREDIT_POLL_S = 0.0005
HOLD_FRAMES_MAX = 16 * AREA_FRAMES
FDS_MAX = 8


class Attached:
    """One domain, and what the compiled loops need to know of it."""

    def __init__(self, stack: contextlib.ExitStack, run_dir: str, name: str, doorbell: str) -> None:
        from frontend import attach  # here only: not every measured process is a domain

        self.domain = stack.enter_context(attach(run_dir, name=name, doorbell=doorbell))
        self.guest: Any = ffi.cast("struct mc_guest *", self.domain.guest_address)
        self.slot = self.domain.claim_slot()
        self.touched: Any = ffi.new("uint8_t[]", self.guest.frames.area_count * AREA_FRAMES)


class Subject:
    """The rows. Every public method is an operation its parent may call by name."""

    def __init__(self, stack: contextlib.ExitStack, fds: Callable[[], list[int]]) -> None:
        self._stack = stack
        self._receive_fds = fds
        self._attached: dict[str, Attached] = {}
        self._sockets: dict[str, Any] = {}
        self._tmem: Any = None
        self._mechanism: Any = None
        self._pages: dict[int, Any] = {}  # shared with other processes, by fd

    def attach(self, run_dir: str, name: str, doorbell: str = "futex") -> None:
        """Become domain ``name`` of the hypervisor at ``run_dir``; ``key`` means it from now on."""
        self._attached[name] = Attached(self._stack, run_dir, name, doorbell)

    def place(self, cpu: int) -> None:
        """Run the measuring thread on one CPU from now on."""
        os.sched_setaffinity(0, {cpu})

    def empty(self, count: int, ops: int) -> bytes:
        """The loop around nothing."""
        samples = _samples(count)
        lib.mcb_empty(samples, count, ops)
        return _bytes(samples)

    def malloc_warm(self, count: int, ops: int, size: int) -> bytes:
        """malloc, touch, free."""
        samples = _samples(count)
        _ok(lib.mcb_malloc_warm(samples, count, ops, size), "malloc")
        return _bytes(samples)

    def malloc_fresh(self, count: int, ops: int, size: int) -> tuple[bytes, float]:
        """The samples, and page faults per page: about 1 shows that the heap was fresh."""
        samples, faults = _samples(count), ffi.new("uint64_t *")
        _ok(lib.mcb_malloc_fresh(samples, count, ops, size, faults), "malloc")
        return _bytes(samples), faults[0] / (count * ops * size / FRAME_BYTES)

    def grant_local(self, key: str, count: int, ops: int) -> bytes:
        """alloc, touch, free of frames the domain holds."""
        at, samples = self._attached[key], _samples(count)
        _ok(lib.mcb_grant_local(at.guest, at.slot, samples, count, ops), "grant local")
        lib.mcb_mark_slot(at.guest, at.slot, at.touched)
        return _bytes(samples)

    def grant_batch(self, key: str, count: int) -> bytes:
        """The same, 64 at a time; each sample is one batch."""
        at, samples = self._attached[key], _samples(count)
        _ok(lib.mcb_grant_batch(at.guest, at.slot, samples, count, at.touched), "grant batch")
        lib.mcb_mark_slot(at.guest, at.slot, at.touched)
        return _bytes(samples)

    def grant_credit(self, key: str, count: int) -> tuple[bytes, int, int]:
        """First touches of 512 frames a sample; also how often credit ran dry, and how many samples
        were thrown away because a frame in them had been touched before."""
        at, samples, thrown = self._attached[key], array("Q"), 0
        sample, recycled = _samples(1), ffi.new("uint32_t *")
        _ok(lib.mcb_hold_touched(at.guest, at.slot, HOLD_FRAMES_MAX, at.touched), "hold")
        dry = int(at.guest.control.credit_dry)
        for _ in range(count):
            self._await_credit(at)
            status = lib.mcb_grant_fresh(
                at.guest, at.slot, sample, AREA_FRAMES, at.touched, recycled
            )
            _ok(status, "grant credit")
            if recycled[0]:
                thrown += 1
            else:
                samples.append(sample[0])
        return samples.tobytes(), int(at.guest.control.credit_dry) - dry, thrown

    def _await_credit(self, at: Attached) -> None:
        deadline = time.monotonic() + CREDIT_WAIT_S
        while lib.mcb_credit_areas(at.guest) == 0:
            if time.monotonic() > deadline:
                return  # the row is then one of credit run dry, and says so
            time.sleep(CREDIT_POLL_S)

    def grant_area(self, key: str, count: int, pause_s: float) -> tuple[bytes, list[int]]:
        """2 MiB asked for on the ring, all of it touched; also the path of each grant."""
        at, samples, paths = self._attached[key], _samples(count), []
        path = ffi.new("int *")
        for index in range(count):
            time.sleep(pause_s)
            _ok(lib.mcb_grant_area(at.guest, at.slot, samples + index, path), "grant area")
            paths.append(int(path[0]))
        return _bytes(samples), paths

    def touch_and_free(self, key: str, areas: int) -> int:
        """As a donor: use ``areas`` areas, then leave them free. Returns how many there were."""
        at = self._attached[key]
        return _ok(lib.mcb_touch_and_free(at.guest, at.slot, areas), "touch and free")

    def populate(self, count: int) -> tuple[bytes, bytes]:
        """2 MiB given by the kernel; the same mapped once more."""
        writes, reads = _samples(count), _samples(count)
        for index in range(count):
            _ok(lib.mcb_populate(writes + index, reads + index), "populate")
        return _bytes(writes), _bytes(reads)

    def python(self, row: str, count: int, ops: int, key: str = "") -> bytes:
        """A loop of ``python_rows``; with ``key``, on that domain."""
        first = (self._attached[key].domain,) if key else ()
        samples: array[int] = getattr(python_rows, row)(*first, count, ops)
        if key:  # the rows the Python slot recycles are not fresh either
            at = self._attached[key]
            lib.mcb_mark_slot(at.guest, at.guest.slot, at.touched)
        return samples.tobytes()

    def tmem(self, row: str, **args: Any) -> Any:
        """An operation of ``tmem_rows``: the pool embedded here, its rivals, a domain's pool."""
        if self._tmem is None:
            from memcoord.benchmarks.tmem.rows import TmemRows  # here only: it loads numba

            self._tmem = self._stack.enter_context(TmemRows())
        if "key" in args:
            at = self._attached[args.pop("key")]
            args |= {"domain": at.domain, "guest": at.guest}
        return getattr(self._tmem, row)(**args)

    def mechanism(self, row: str, **args: Any) -> Any:
        """An operation of ``demand_guest``, on a domain handed over by its fds."""
        if self._mechanism is None:
            from memcoord.benchmarks.bursts.guest import DemandGuest

            self._mechanism = DemandGuest()
        return getattr(self._mechanism, row)(**args)

    def spin(self, key: str, spin_ns: int) -> int:
        """Set how long this side spins; returns what it was."""
        guest = self._attached[key].guest
        before, guest.spin_ns = int(guest.spin_ns), spin_ns
        return before

    def ring(self, key: str, count: int, batch: int, rest_ns: int = 0) -> tuple[bytes, float]:
        """NOP round trips; also the share of them that slept."""
        at, samples = self._attached[key], _samples(count)
        sleeps = int(at.guest.sleeps)
        _ok(lib.mcb_ring_nop(at.guest, samples, count, batch, rest_ns), "ring")
        return _bytes(samples), (int(at.guest.sleeps) - sleeps) / count

    def receive_fds(self) -> list[int]:
        """Take file descriptors the parent sent beside this call."""
        return self._receive_fds()

    def call_fds(self, read_fd: int, write_fd: int, size: int, count: int, rest_ns: int) -> bytes:
        """Round trips over two file descriptors."""
        samples = _samples(count)
        status = lib.mcb_fd_call(read_fd, write_fd, size, samples, count, rest_ns)
        _ok(status, "fd round trip")
        return _bytes(samples)

    def serve_fds(self, read_fd: int, write_fd: int, size: int) -> None:
        """Echo on a thread, until the other end closes."""
        _thread(lib.mcb_fd_echo, read_fd, write_fd, size)

    def call_futex(self, fd: int, count: int, rest_ns: int) -> bytes:
        """Round trips over two futex words in a shared page."""
        samples = _samples(count)
        _ok(lib.mcb_futex_call(self._bells(fd), samples, count, rest_ns), "futex round trip")
        return _bytes(samples)

    def serve_futex(self, fd: int) -> None:
        """Answer them on a thread."""
        _thread(lib.mcb_futex_echo, self._bells(fd))

    def _bells(self, fd: int) -> Any:
        if fd not in self._pages:
            self._pages[fd] = ffi.from_buffer(mmap.mmap(fd, mmap.PAGESIZE))
        return ffi.cast("struct mcb_bells *", self._pages[fd])

    def call_zmq(self, endpoint: str, size: int, count: int, rest_ns: int) -> bytes:
        """REQ round trips."""
        return _zmq_call(self._zmq(endpoint, "REQ"), bytes(size), count, rest_ns)

    def serve_zmq(self, endpoint: str) -> None:
        """REP echo on a thread."""
        _thread(_zmq_echo, self._zmq(endpoint, "REP"))

    def _zmq(self, endpoint: str, kind: str) -> Any:
        import zmq  # here only: not every measured process has a use for it

        if endpoint not in self._sockets:
            made: Any = zmq.Context.instance().socket(getattr(zmq, kind))
            made.linger = 0
            (made.bind if kind == "REP" else made.connect)(endpoint)
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


def _thread(target: Callable[..., Any], *args: Any) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def _samples(count: int) -> Any:
    return ffi.new("uint64_t[]", count)


def _bytes(samples: Any) -> bytes:
    return bytes(ffi.buffer(samples))


def _ok(status: int, what: str) -> int:
    if status < 0:
        raise error_of(status, what)
    return status


def main(address: str, single_threaded: bool) -> None:
    """Serve the parent at ``address`` until it hangs up."""
    if not single_threaded:
        end_with_parent()
    joined = socket.socket(socket.AF_UNIX)
    joined.connect(address)

    def fds() -> list[int]:
        return list(socket.recv_fds(joined, 1, FDS_MAX)[1])

    connection = Connection(os.dup(joined.fileno()))
    with contextlib.ExitStack() as stack:
        subject = Subject(stack, fds)
        while True:
            try:
                op, args = connection.recv()
            except (EOFError, OSError):  # it hung up, or was killed
                return
            try:
                answer = (True, getattr(subject, op)(**args))
            except Exception:  # whatever it is, the parent reports it
                answer = (False, traceback.format_exc())
            connection.send(answer)


if __name__ == "__main__":
    main(sys.argv[1], "--single-threaded" in sys.argv[2:])
