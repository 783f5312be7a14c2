"""The measured process of a bench; each bench adds its own rows in its ``guest.py``.

Owns: ``Measured``, the operations shared by all benches, and the helpers that all rows use.
A measured process may be attached to several domains at once, also of several hypervisors: each
domain stands for another situation of a host, and all are measured beside the same malloc.
Rivals (malloc, eventfd, a socket) are measured in the same process, between rows of our own.
Rules: an operation that measures returns native uint64 nanoseconds, one per sample, and facts about
the samples. The process ends with the bench. ``--single-threaded`` on its command line starts no
thread, for a malloc that takes no locks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from hypervisor.public.errors import error_of
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.testbed.runs.remote import operation, serve


class AttachedDomain:
    """One domain, and the addresses and arrays that the compiled loops need."""

    def __init__(self, stack: contextlib.ExitStack, run_dir: str, name: str, doorbell: str) -> None:
        from frontend import attach  # here only: not every measured process is a domain

        self.domain = stack.enter_context(attach(run_dir, name=name, doorbell=doorbell))
        self.guest: Any = ffi.cast("struct mc_guest *", self.domain.guest_address)
        self.slot = self.domain.claim_slot()
        self.touched: Any = ffi.new("uint8_t[]", self.guest.frames.area_count * AREA_FRAMES)


class Measured:
    """The operations. ``stack`` is unwound when the process ends."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._attached: dict[str, AttachedDomain] = {}

    @operation
    def keep_fds(self, fds: list[int]) -> list[int]:
        """Keep file descriptors sent by the bench; their numbers in this process."""
        return fds

    @operation
    def attach(self, run_dir: str, name: str, doorbell: str = "futex") -> None:
        """Become domain ``name`` of the hypervisor at ``run_dir``; ``key`` means it from now on."""
        self._attached[name] = AttachedDomain(self._stack, run_dir, name, doorbell)

    @operation
    def place(self, cpu: int) -> None:
        """Run the measuring thread on one CPU from now on."""
        os.sched_setaffinity(0, {cpu})

    @operation
    def spin(self, key: str, spin_ns: int) -> int:
        """Set the spin time of this side in nanoseconds; returns the one before."""
        guest = self._attached[key].guest
        before, guest.spin_ns = int(guest.spin_ns), spin_ns
        return before

    @operation
    def malloc_fresh(
        self, count: int, ops: int, size: int, keeps: bool = False
    ) -> tuple[bytes, float, int]:
        """The samples; page faults per page, about 1 where the heap was fresh; CPU time in ns."""
        cost = ffi.new("struct mcb_cost *")
        samples = timed("malloc", lib.mcb_malloc_fresh, (), count, ops, size, keeps, cost)
        return samples, cost.faults / (count * ops * size / FRAME_BYTES), int(cost.cpu_ns)


def run(kind: type[Measured]) -> None:
    """Be a measured process with the operations of ``kind`` until the bench hangs up."""
    with contextlib.ExitStack() as stack:
        serve(kind(stack), is_threaded="--single-threaded" not in sys.argv[1:])


def on_thread(target: Callable[..., Any], *args: Any) -> None:
    """Call ``target`` on a thread that ends with the process."""
    threading.Thread(target=target, args=args, daemon=True).start()


def timed(what: str, loop: Any, on: tuple[Any, ...], count: int, *args: Any) -> bytes:
    """The samples of a compiled loop that takes ``on``, their array, ``count`` and ``args``.

    The MemcoordError of a negative status names ``what``.
    """
    samples = ffi.new("uint64_t[]", count)
    ok(loop(*on, samples, count, *args), what)
    return bytes(ffi.buffer(samples))


def ok(status: int, what: str) -> int:
    """``status``, unless it is negative: then the MemcoordError it stands for."""
    if status < 0:
        raise error_of(status, what)
    return int(status)
