"""The domains that ``memcoord bench grant`` measures.

Owns: the rows of grants, and what the donor and the taker of a transfer do. The rivals are in
``memcoord.benchmarks.grant.malloc_guest``. Called by: ``memcoord.benchmarks.grant.bench``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import timeit
from array import array
from typing import Any

from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import AttachedDomain, Measured, ok, on_thread, run, timed
from memcoord.testbed.runs.remote import operation

CREDIT_WAIT_S = 5.0
CREDIT_POLL_S = 0.001
SETTLE_S = 5.0
END_S = 5.0
HOLD_FRAMES_MAX = 16 * AREA_FRAMES
#: Rows of the interpreter, whose overhead counts: what is timed and what is prepared before. The
#: loop itself costs every row the same; the row ``nothing`` shows how much. A free list holds views
#: of pages that the process has already: the cheapest way to have a page in Python.
PYTHON_ROWS = {
    "nothing": ("pass", "pass"),
    "grant": (
        "frame = alloc(); memory[frame << 12] = 1; free(frame)",
        "alloc, free, memory = domain.alloc, domain.free, domain.memory",
    ),
    "of_free_list": (
        "page = pop(); page[0] = 1; append(page)",
        "whole = memoryview(bytearray(64 * 4096)); "
        "pages = [whole[at : at + 4096] for at in range(0, 64 * 4096, 4096)]; "
        "pop, append = pages.pop, pages.append",
    ),
    "of_bytearray": ("block = bytearray(4096); block[0] = 1; del block", "pass"),
    "of_numpy": (
        "block = empty(4096, kind); block[0] = 1; del block",
        "import numpy; empty, kind = numpy.empty, numpy.dtype(numpy.uint8)",
    ),
}


class Busy:
    """A donor's program: it holds areas and touches them, on a thread of its own, until ended."""

    def __init__(self, at: AttachedDomain, areas: int, rest_ns: int) -> None:
        self._at, self._rest_ns = at, rest_ns
        self._firsts: Any = ffi.new("int64_t[]", max(areas, 1))
        held = lib.mcb_hold_areas(at.guest, at.slot, areas, self._firsts, 0)
        self.held = ok(held, "hold")
        self._stop: Any = ffi.new("uint32_t *")
        self._ended = threading.Event()
        on_thread(self._work)

    def _work(self) -> None:
        lib.mcb_use_areas(self._at.guest, self._firsts, self.held, self._rest_ns, self._stop)
        self._ended.set()

    def end(self) -> None:
        """Free what it held."""
        self._stop[0] = 1
        if not self._ended.wait(END_S):
            raise TimeoutError(f"a donor's thread went on for {END_S} s")
        ok(lib.mcb_free_areas(self._at.guest, self._at.slot, self._firsts, self.held), "free")


class GrantGuest(Measured):
    """``key`` names the domain an operation is about."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self._busy: Busy | None = None

    @operation
    def place_all(self, cpus: list[int]) -> None:
        """Run the measuring thread, and those it starts, on these CPUs from now on."""
        os.sched_setaffinity(0, cpus)

    @operation
    def empty(self, count: int, ops: int) -> bytes:
        """The loop around nothing."""
        return timed("empty", lib.mcb_empty, (), count, ops)

    @operation
    def recycled(self, key: str, count: int, ops: int, live: int, threads: int, size: int) -> bytes:
        """Free, alloc and touch, of memory the domain holds."""
        at = self._attached[key]
        how = ffi.new("struct mcb_recycling *", (count, ops, live, threads, size))
        samples = ffi.new("uint64_t[]", count * threads)
        ok(lib.mcb_grant_recycled(at.guest, samples, how), "grant recycled")
        return bytes(ffi.buffer(samples))

    @operation
    def grant_batch(self, key: str, count: int) -> bytes:
        """Frames, 64 at a time; each sample is one batch."""
        at = self._attached[key]
        samples = timed("grant batch", lib.mcb_grant_batch, (at.guest, at.slot), count, at.touched)
        lib.mcb_mark_slot(at.guest, at.slot, at.touched)
        return samples

    @operation
    def grant_credit(self, key: str, count: int, ops: int) -> tuple[bytes, int, int, int, int]:
        """First touches, ``count`` areas of them, in samples of ``ops``; how often credit ran dry,
        how many areas were thrown away because a frame in them had been touched before, the CPU
        time of this process, and the areas that were granted and mapped meanwhile."""
        at, found, thrown = self._attached[key], array("Q"), 0
        each = AREA_FRAMES // ops
        samples, recycled = ffi.new("uint64_t[]", each), ffi.new("uint32_t *")
        ok(lib.mcb_hold_touched(at.guest, at.slot, HOLD_FRAMES_MAX, at.touched), "hold")
        most = int(at.guest.control.credit_areas) // 2 + 1  # less is told, and comes again
        self._await_credit(at, most)
        dry, mapped = int(at.guest.control.credit_dry), int(at.guest.mapped_areas)
        cpu_ns = time.process_time_ns()
        for _ in range(count):
            status = lib.mcb_grant_fresh(
                at.guest, at.slot, samples, each, ops, at.touched, recycled
            )
            ok(status, "grant credit")
            if recycled[0]:
                thrown += 1
            else:
                found.frombytes(bytes(ffi.buffer(samples)))
            self._await_credit(at, 1)
        self._await_credit(at, most)
        cpu_ns = time.process_time_ns() - cpu_ns
        dry, mapped = at.guest.control.credit_dry - dry, int(at.guest.mapped_areas) - mapped
        return found.tobytes(), dry, thrown, cpu_ns, mapped

    def _await_credit(self, at: AttachedDomain, areas: int) -> None:
        deadline = time.monotonic() + CREDIT_WAIT_S
        while lib.mcb_credit_areas(at.guest) < areas:
            if time.monotonic() > deadline:
                return  # the row is then one of credit run dry, and says so
            time.sleep(CREDIT_POLL_S)

    @operation
    def grant_areas(
        self, key: str, count: int, pause_ns: int
    ) -> tuple[bytes, list[int], list[int]]:
        """2 MiB asked for on the ring, all of it touched; also the path of each grant, and the time
        of the request that was refused, if one was."""
        at = self._attached[key]
        samples, paths = ffi.new("uint64_t[]", count), ffi.new("int[]", count)
        how = ffi.new("struct mcb_growth *", (count, pause_ns))
        granted = ok(lib.mcb_grant_areas(at.guest, at.slot, how, samples, paths), "grant areas")
        refused = [int(samples[granted])] if granted < count else []
        return bytes(ffi.buffer(samples, granted * 8)), list(paths[0:granted]), refused

    @operation
    def grant_frames(self, key: str, areas: int) -> bytes:
        """Single frames, first touches, one sample each, from a domain that asks when it is out."""
        at, found = self._attached[key], array("Q")
        samples, recycled = ffi.new("uint64_t[]", AREA_FRAMES), ffi.new("uint32_t *")
        for _ in range(areas):
            status = lib.mcb_grant_fresh(
                at.guest, at.slot, samples, AREA_FRAMES, 1, at.touched, recycled
            )
            ok(status, "grant frames")
            found.frombytes(bytes(ffi.buffer(samples)))
        return found.tobytes()

    @operation
    def give_back(self, key: str) -> int:
        """Free everything and give it to the host. Returns the areas that are left."""
        at = self._attached[key]
        ok(lib.mcb_free_held(at.guest, at.slot), "free")
        ok(lib.mcb_give_back(at.guest, at.slot), "give back")
        ffi.buffer(at.touched)[:] = bytes(len(at.touched))  # what comes again is fresh
        return int(at.domain.current_frames) // AREA_FRAMES

    @operation
    def fill(self, key: str, areas: int) -> int:
        """As a donor: have ``areas`` areas, use each once, leave all free. Returns how many."""
        at = self._attached[key]
        firsts = ffi.new("int64_t[]", areas)
        held, deadline = 0, time.monotonic() + SETTLE_S
        while held < areas and time.monotonic() < deadline:  # the host punches meanwhile
            more = lib.mcb_hold_areas(at.guest, at.slot, areas - held, firsts + held, 1)
            held += ok(more, "fill")
        ok(lib.mcb_free_areas(at.guest, at.slot, firsts, held), "free")
        return held

    @operation
    def resident(self, key: str) -> int:
        """Frames of the domain that have pages, by the kernel's word."""
        return ok(lib.mcb_resident(self._attached[key].guest), "resident")

    @operation
    def be_busy(self, key: str, areas: int, rest_ns: int) -> int:
        """As a donor: hold ``areas`` areas and touch them all the time. Returns how many."""
        self._busy = Busy(self._attached[key], areas, rest_ns)
        return self._busy.held

    @operation
    def be_idle(self) -> None:
        """Free them."""
        if self._busy is not None:
            self._busy.end()
            self._busy = None

    @operation
    def populate(self, count: int) -> tuple[bytes, bytes, bytes]:
        """2 MiB given by the kernel; the same mapped once more; the same punched."""
        times = [ffi.new("uint64_t[]", count) for _ in range(3)]
        for index in range(count):
            ok(lib.mcb_populate(*(of + index for of in times)), "populate")
        writes, reads, punches = (bytes(ffi.buffer(of)) for of in times)
        return writes, reads, punches

    @operation
    def warm(self, size: int) -> None:
        """Have the machine find so much memory."""
        ok(lib.mcb_warm_memory(size), "warm")

    @operation
    def python(self, row: str, count: int, ops: int, key: str = "") -> bytes:
        """One of PYTHON_ROWS; with ``key``, on that domain."""
        at = self._attached.get(key)
        names = {"domain": at and at.domain}
        timer = timeit.Timer(*PYTHON_ROWS[row], time.perf_counter_ns, names)
        samples = array("Q", map(int, timer.repeat(count, ops)))
        if at is not None:  # the rows the Python slot recycles are not fresh either
            lib.mcb_mark_slot(at.guest, at.guest.slot, at.touched)
        return samples.tobytes()


if __name__ == "__main__":
    run(GrantGuest)
