"""Goal: who asks for much is served in turns. Method: a ring full of the largest requests there
are, and one small request of somebody else, who must not wait for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from backend_steps import WAIT_S, close_domain, spec
from guest_double import GuestDouble

from backend.host import HostBackend
from frontend._guest import ffi, lib
from hypervisor.public.units import AREA_FRAMES, DomId

HOG_AREAS = 60


@pytest.fixture
def wide() -> Iterator[HostBackend]:
    """Room for a domain whose growth takes long."""
    made = HostBackend(total_frames=80 * AREA_FRAMES, slack_frames=2 * AREA_FRAMES, spin_ns=0)
    yield made
    made.validate()
    made.stop()


def answered(guest: GuestDouble) -> list[tuple[int, int]]:
    """Id and status of the answers there are."""
    record = ffi.new("struct mc_record *")
    found = []
    while lib.mc_front_pop(guest._fronts[0], record) > 0:
        found.append((record.id, record.status))
    return found


def fill_ring(guest: GuestDouble) -> None:
    """GROW 64 and RELEASE 64 in turns, at once."""
    for number in range(lib.MC_RING_SLOTS):
        op = lib.MC_OP_RELEASE if number % 2 else lib.MC_OP_GROW
        record = ffi.new("struct mc_record *", {"op": op, "id": number, "arg": [64]})
        assert lib.mc_front_push(guest._fronts[0], record) == 0
    lib.mc_front_publish(guest._fronts[0])
    lib.mc_eventfd_ring(guest.handles.bell_fd)


def test_a_ring_full_of_large_requests_does_not_keep_others_waiting(wide: HostBackend) -> None:
    hog = GuestDouble(wide.open(DomId(0), spec("hog", maxmem=HOG_AREAS)))
    other = GuestDouble(wide.open(DomId(1), spec("other")))
    fill_ring(hog)
    assert other.grow()[0] == 1
    assert len(answered(hog)) < lib.MC_RING_SLOTS / 2
    close_domain(wide, DomId(0))
    assert other.grow()[0] == 1
    for guest in (hog, other):
        guest.close()


def test_a_large_request_that_took_several_turns_is_answered_once_and_whole(
    wide: HostBackend,
) -> None:
    guest = GuestDouble(wide.open(DomId(0), spec("vm", maxmem=HOG_AREAS)))
    # The status of a request is the guest's word: nothing may be taken from it.
    record = ffi.new("struct mc_record *", {"op": lib.MC_OP_GROW, "id": 5, "arg": [HOG_AREAS]})
    record.status = 17
    assert lib.mc_front_push(guest._fronts[0], record) == 0
    lib.mc_front_publish(guest._fronts[0])
    lib.mc_eventfd_ring(guest.handles.bell_fd)
    until, found = time.monotonic() + WAIT_S, answered(guest)
    while not found and time.monotonic() < until:
        time.sleep(0.001)
        found = answered(guest)
    assert found == [(5, HOG_AREAS)]
    assert wide.snapshot().domains[0].ring_requests == 1
    assert wide.snapshot().domains[0].current_frames == HOG_AREAS * AREA_FRAMES
    guest.close()


def test_a_reboot_forgets_what_was_under_way(wide: HostBackend) -> None:
    hog = GuestDouble(wide.open(DomId(0), spec("hog", maxmem=HOG_AREAS)))
    fill_ring(hog)
    wide.reboot(DomId(0))
    hog.close()
    fresh = GuestDouble(hog.handles)
    assert fresh.grow()[0] == 1
    assert wide.snapshot().domains[0].current_frames >= AREA_FRAMES
    fresh.close()
