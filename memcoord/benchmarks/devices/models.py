"""The same steps on our models of the devices, which processes use: the other column of the table.

Owns: which model stands for which device. Called by ``bench``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from backend.host import HostBackend
from hypervisor.public.backend import DomainSpec
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, FRAME_BYTES, DomId
from memcoord.benchmarks.devices.guest import MIB, row
from memcoord.benchmarks.devices.measures import HELD_MIB, LARGE_MIB, MOVE_MIB, NODE_MIB, Rows
from memcoord.testbed.guests.obedient import GuestProcess

BASE = DomId(0)
SETTLE_S, STILL_S, LOOK_S = 20.0, 0.3, 0.0005
#: Device -> mechanism and options.
MODELS = {
    "balloon": ("balloon", {}),
    "virtio-mem 2 MiB": ("virtio-mem", {"block_areas": 1}),
    f"virtio-mem {LARGE_MIB} MiB": ("virtio-mem", {"block_areas": LARGE_MIB * MIB // AREA_BYTES}),
    "DIMM": ("sections", {"section_areas": LARGE_MIB * MIB // AREA_BYTES}),
}


def measured() -> Rows:
    """A row for each step of each model."""
    rows: Rows = {}
    for name, (mechanism, options) in MODELS.items():
        low, high = 2 * NODE_MIB, 2 * NODE_MIB + MOVE_MIB
        with _domain(mechanism, options, low, high) as (backend, guest):
            rows[f"{name} grow"] = _move(backend, high)
            rows[f"{name} shrink untouched"] = _move(backend, low)
            _move(backend, high)
            _touch(guest, high)
            rows[f"{name} shrink touched"] = _move(backend, low)
            _move(backend, high)
            held = HELD_MIB + high - 2 * NODE_MIB  # more than is left when all is taken back
            guest.take("movable", min(held, high - 16) * MIB // FRAME_BYTES)
            rows[f"{name} shrink held"] = _move(backend, low)
    return rows


def _touch(guest: GuestProcess, mib: int) -> None:
    """Use so much memory, and give all of it back."""
    taken = guest.take("movable", (mib - 16) * MIB // FRAME_BYTES)
    guest.give("movable", taken)


def _move(backend: HostBackend, want_mib: int) -> dict[str, Any]:
    """Set a target and look at the size until it is reached, or cannot be."""
    before_mib, resident_mib = _size(backend), _resident(backend)
    backend.set_target(BASE, want_mib * MIB // FRAME_BYTES)
    begin_s, last, points = time.monotonic(), before_mib, []
    while time.monotonic() - begin_s < SETTLE_S:
        now = _size(backend)
        if now != last:
            points.append((round(time.monotonic() - begin_s, 5), now))
            last = now
        if now == want_mib or backend.settle(BASE, 0.0).state == "partial":
            break
        time.sleep(LOOK_S)
    found = row(before_mib, want_mib, points)
    return {**found, "returned_mib": round(resident_mib - _resident(backend), 1)}


def _size(backend: HostBackend) -> float:
    """What the domain has, in MiB."""
    return backend.settle(BASE, 0.0).plugged_frames * FRAME_BYTES / MIB


def _resident(backend: HostBackend) -> float:
    """What of it the kernel has given, in MiB, once that changes no more: a punch comes later."""
    seen, since_s = -1.0, time.monotonic()
    until_s = since_s + SETTLE_S
    while time.monotonic() - since_s < STILL_S and time.monotonic() < until_s:
        (domain,) = backend.snapshot().domains
        now = domain.resident_frames * FRAME_BYTES / MIB
        if now != seen:
            seen, since_s = now, time.monotonic()
        time.sleep(LOOK_S)
    return seen


@contextlib.contextmanager
def _domain(
    mechanism: str, options: dict[str, int], low_mib: int, high_mib: int
) -> Iterator[tuple[HostBackend, GuestProcess]]:
    """A host whose one domain boots with the low size, and its guest."""
    high = high_mib * MIB // FRAME_BYTES
    backend = HostBackend(total_frames=high + 8 * AREA_FRAMES, slack_frames=0, tmem_max_frames=0)
    try:
        low = low_mib * MIB // FRAME_BYTES
        spec = DomainSpec("vm1", high, low, low, mechanism=mechanism, options=options)
        handles = backend.open(BASE, spec)
        with contextlib.closing(GuestProcess(handles, "vm1", 0)) as guest:
            yield backend, guest
    finally:
        backend.stop()
