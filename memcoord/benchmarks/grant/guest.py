"""The measured processes of ``memcoord bench grant``: the domains, and a process with plain malloc.

Owns: the rows of grants and of their rivals. Called by: ``memcoord.benchmarks.grant.bench``.
"""

from __future__ import annotations

import time
import timeit
from array import array

from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import AttachedDomain, Measured, ok, run, timed
from memcoord.testbed.runs.remote import operation

CREDIT_WAIT_S = 5.0
CREDIT_POLL_S = 0.0005
HOLD_FRAMES_MAX = 16 * AREA_FRAMES
#: Rows of the interpreter, whose overhead counts: what is timed and what is prepared before. The
#: loop itself costs every row the same; the row ``nothing`` shows how much. numpy is loaded by its
#: own row only, and leaves the memory as it is; a bytearray is filled with zeros.
PYTHON_ROWS = {
    "nothing": ("pass", "pass"),
    "grant": (
        "frame = alloc(); memory[frame << 12] = 1; free(frame)",
        "alloc, free, memory = domain.alloc, domain.free, domain.memory",
    ),
    "of_bytearray": ("block = bytearray(4096); block[0] = 1; del block", "pass"),
    "of_numpy": (
        "block = empty(4096, kind); block[0] = 1; del block",
        "import numpy; empty, kind = numpy.empty, numpy.dtype(numpy.uint8)",
    ),
}


class GrantGuest(Measured):
    """``key`` names the domain an operation is about."""

    @operation
    def empty(self, count: int, ops: int) -> bytes:
        """The loop around nothing."""
        return timed("empty", lib.mcb_empty, (), count, ops)

    @operation
    def malloc_warm(self, count: int, ops: int, size: int) -> bytes:
        """malloc, touch, free."""
        return timed("malloc", lib.mcb_malloc_warm, (), count, ops, size)

    @operation
    def grant_local(self, key: str, count: int, ops: int) -> bytes:
        """alloc, touch, free of frames the domain holds."""
        at = self._attached[key]
        samples = timed("grant local", lib.mcb_grant_local, (at.guest, at.slot), count, ops)
        lib.mcb_mark_slot(at.guest, at.slot, at.touched)
        return samples

    @operation
    def grant_batch(self, key: str, count: int) -> bytes:
        """The same, 64 at a time; each sample is one batch."""
        at = self._attached[key]
        samples = timed("grant batch", lib.mcb_grant_batch, (at.guest, at.slot), count, at.touched)
        lib.mcb_mark_slot(at.guest, at.slot, at.touched)
        return samples

    @operation
    def grant_credit(self, key: str, count: int) -> tuple[bytes, int, int]:
        """First touches of 512 frames a sample; also how often credit ran dry, and how many samples
        were thrown away because a frame in them had been touched before."""
        at, samples, thrown = self._attached[key], array("Q"), 0
        sample, recycled = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        ok(lib.mcb_hold_touched(at.guest, at.slot, HOLD_FRAMES_MAX, at.touched), "hold")
        dry = int(at.guest.control.credit_dry)
        for _ in range(count):
            self._await_credit(at)
            status = lib.mcb_grant_fresh(
                at.guest, at.slot, sample, AREA_FRAMES, at.touched, recycled
            )
            ok(status, "grant credit")
            if recycled[0]:
                thrown += 1
            else:
                samples.append(sample[0])
        return samples.tobytes(), int(at.guest.control.credit_dry) - dry, thrown

    def _await_credit(self, at: AttachedDomain) -> None:
        deadline = time.monotonic() + CREDIT_WAIT_S
        while lib.mcb_credit_areas(at.guest) == 0:
            if time.monotonic() > deadline:
                return  # the row is then one of credit run dry, and says so
            time.sleep(CREDIT_POLL_S)

    @operation
    def grant_area(self, key: str, count: int, pause_s: float) -> tuple[bytes, list[int]]:
        """2 MiB asked for on the ring, all of it touched; also the path of each grant."""
        at, samples, paths = self._attached[key], array("Q"), []
        sample, path = ffi.new("uint64_t *"), ffi.new("int *")
        for _ in range(count):
            time.sleep(pause_s)
            ok(lib.mcb_grant_area(at.guest, at.slot, sample, path), "grant area")
            samples.append(sample[0])
            paths.append(int(path[0]))
        return samples.tobytes(), paths

    @operation
    def touch_and_free(self, key: str, areas: int) -> int:
        """As a donor: use ``areas`` areas, then leave them free. Returns how many there were."""
        at = self._attached[key]
        return ok(lib.mcb_touch_and_free(at.guest, at.slot, areas), "touch and free")

    @operation
    def populate(self, count: int) -> tuple[bytes, bytes]:
        """2 MiB given by the kernel; the same mapped once more."""
        writes, reads = ffi.new("uint64_t[]", count), ffi.new("uint64_t[]", count)
        for index in range(count):
            ok(lib.mcb_populate(writes + index, reads + index), "populate")
        return bytes(ffi.buffer(writes)), bytes(ffi.buffer(reads))

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
