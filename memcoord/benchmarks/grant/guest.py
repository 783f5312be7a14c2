"""The measured processes of ``memcoord bench grant``: the domains, and a process with plain malloc.

Owns: the rows of grants and of their rivals. Called by: ``memcoord.benchmarks.grant.bench``.
"""

from __future__ import annotations

import time
from array import array

from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.grant import python_rows
from memcoord.benchmarks.measured import AttachedDomain, Measured, bytes_of, ok, run, samples_of
from memcoord.testbed.runs.remote import operation

CREDIT_WAIT_S = 5.0
CREDIT_POLL_S = 0.0005
HOLD_FRAMES_MAX = 16 * AREA_FRAMES


class GrantGuest(Measured):
    """``key`` names the domain an operation is about."""

    @operation
    def empty(self, count: int, ops: int) -> bytes:
        """The loop around nothing."""
        samples = samples_of(count)
        lib.mcb_empty(samples, count, ops)
        return bytes_of(samples)

    @operation
    def malloc_warm(self, count: int, ops: int, size: int) -> bytes:
        """malloc, touch, free."""
        samples = samples_of(count)
        ok(lib.mcb_malloc_warm(samples, count, ops, size), "malloc")
        return bytes_of(samples)

    @operation
    def grant_local(self, key: str, count: int, ops: int) -> bytes:
        """alloc, touch, free of frames the domain holds."""
        at, samples = self._attached[key], samples_of(count)
        ok(lib.mcb_grant_local(at.guest, at.slot, samples, count, ops), "grant local")
        lib.mcb_mark_slot(at.guest, at.slot, at.touched)
        return bytes_of(samples)

    @operation
    def grant_batch(self, key: str, count: int) -> bytes:
        """The same, 64 at a time; each sample is one batch."""
        at, samples = self._attached[key], samples_of(count)
        ok(lib.mcb_grant_batch(at.guest, at.slot, samples, count, at.touched), "grant batch")
        lib.mcb_mark_slot(at.guest, at.slot, at.touched)
        return bytes_of(samples)

    @operation
    def grant_credit(self, key: str, count: int) -> tuple[bytes, int, int]:
        """First touches of 512 frames a sample; also how often credit ran dry, and how many samples
        were thrown away because a frame in them had been touched before."""
        at, samples, thrown = self._attached[key], array("Q"), 0
        sample, recycled = samples_of(1), ffi.new("uint32_t *")
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
        at, samples, paths = self._attached[key], samples_of(count), []
        path = ffi.new("int *")
        for index in range(count):
            time.sleep(pause_s)
            ok(lib.mcb_grant_area(at.guest, at.slot, samples + index, path), "grant area")
            paths.append(int(path[0]))
        return bytes_of(samples), paths

    @operation
    def touch_and_free(self, key: str, areas: int) -> int:
        """As a donor: use ``areas`` areas, then leave them free. Returns how many there were."""
        at = self._attached[key]
        return ok(lib.mcb_touch_and_free(at.guest, at.slot, areas), "touch and free")

    @operation
    def populate(self, count: int) -> tuple[bytes, bytes]:
        """2 MiB given by the kernel; the same mapped once more."""
        writes, reads = samples_of(count), samples_of(count)
        for index in range(count):
            ok(lib.mcb_populate(writes + index, reads + index), "populate")
        return bytes_of(writes), bytes_of(reads)

    @operation
    def python(self, row: str, count: int, ops: int, key: str = "") -> bytes:
        """A loop of ``python_rows``; with ``key``, on that domain."""
        first = (self._attached[key].domain,) if key else ()
        samples: array[int] = python_rows.ROWS[row](*first, count, ops)
        if key:  # the rows the Python slot recycles are not fresh either
            at = self._attached[key]
            lib.mcb_mark_slot(at.guest, at.guest.slot, at.touched)
        return samples.tobytes()


if __name__ == "__main__":
    run(GrantGuest)
