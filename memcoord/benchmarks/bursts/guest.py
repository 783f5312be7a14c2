"""The measured process of ``memcoord bench bursts``: a guest whose need of memory follows a series.

Owns: the operation that runs ``mcb_demand_run`` on an adopted domain. Times are CLOCK_MONOTONIC
nanoseconds. Called by: ``memcoord.benchmarks.bursts.bench`` and ``interference.bench``.
"""

from __future__ import annotations

from array import array

from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import ok, run
from memcoord.benchmarks.mechanisms.guest import MechanismGuest
from memcoord.testbed.runs.remote import operation


class DemandGuest(MechanismGuest):
    """Domains that can be made to want memory."""

    @operation
    def demand(
        self, key: str, steps: list[tuple[int, int]], asks: bool, plea_fd: int, missed_ns: int,
        is_apart: bool = False,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Go through ``steps``: (nanoseconds after the start, areas wanted or, negative, given).
        ``is_apart``: nanoseconds after the end of the step before.

        Per request, in order: until it was granted, and until all of it was touched; 0 when that
        was not within ``missed_ns``. Areas held in the end are given back.
        """
        guest = self._adopted[key]
        room = _peak(steps) * AREA_FRAMES
        frames, table = ffi.new("uint32_t[]", max(room, 1)), ffi.new("struct mcb_step[]", steps)
        demand = ffi.new("struct mcb_demand *")
        demand.steps, demand.count = table, len(steps)
        demand.frames, demand.room, demand.base_frames = frames, room, guest.held
        demand.asks, demand.plea_fd, demand.missed_ns = asks, plea_fd, missed_ns
        demand.is_apart = is_apart
        status = lib.mcb_demand_run(guest.guest, guest.slot, demand)
        given = lib.mcb_give_all(guest.guest, guest.slot, frames, demand.held)
        guest.domain.report(used_frames=guest.held)
        ok(status, "demand")
        ok(given, "demand")
        wanted = [step for step in table if step.areas > 0]
        granted = array("Q", [step.granted_ns for step in wanted])
        touched = array("Q", [step.touched_ns for step in wanted])
        return granted.tobytes(), touched.tobytes()


def _peak(steps: list[tuple[int, int]]) -> int:
    """Most areas held at once, if every request is served."""
    level = peak = 0
    for _, areas in steps:
        level = max(level + areas, 0)
        peak = max(peak, level)
    return peak


if __name__ == "__main__":
    run(DemandGuest)
