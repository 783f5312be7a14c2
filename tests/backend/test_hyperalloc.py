"""What is HyperAlloc's own: bookkeeping without pages, installing, the timer, the page cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backend_steps import settle
from guest_double import GuestDouble

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import DomainSpec
from hypervisor.public.errors import Status
from hypervisor.public.units import AREA_FRAMES, DomId
from memcoord.testbed.guests.obedient import GuestProcess

AREA = AREA_FRAMES
VM1 = DomId(0)
CACHE_DROPPED = 64
SETTLE_S = 30.0


@pytest.fixture
def backend() -> Iterator[HostBackend]:
    made = HostBackend(total_frames=16 * AREA, slack_frames=2 * AREA, tmem_max_frames=0, spin_ns=0)
    yield made
    made.validate()
    made.stop()


def spec(period_ms: int = 0, boot: int = 2, maxmem: int = 8) -> DomainSpec:
    options = {"period_ms": period_ms}
    return DomainSpec(
        "vm1", maxmem * AREA, boot * AREA, boot * AREA, mechanism="hyperalloc", options=options
    )


def test_growing_populates_nothing_until_it_is_installed(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec()))
    backend.set_target(VM1, 6 * AREA)
    now = backend.snapshot().domains[0]
    assert (now.plugged_frames, now.current_frames) == (6 * AREA, 2 * AREA)
    assert now.resident_frames == 2 * AREA
    areas = {guest.alloc(9) // AREA for _ in range(6)}
    assert areas == set(range(6))
    now = backend.snapshot().domains[0]
    assert now.current_frames == now.resident_frames == 6 * AREA
    assert guest.alloc(9) == Status.ENOMEM
    assert guest.grow()[0] == Status.ETARGET
    guest.close()


def test_what_has_no_pages_is_taken_by_bookkeeping(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec()))
    for _ in range(3):
        backend.set_target(VM1, 8 * AREA)
        backend.set_target(VM1, 2 * AREA)
        assert backend.settle(VM1, 0).state == "reached"
    now = backend.snapshot().domains[0]
    assert (now.reclaimed_areas, now.shrunk_frames) == (0, 0)
    assert now.resident_frames == 2 * AREA
    guest.close()


def test_free_memory_loses_its_pages_by_and_by_and_stays_the_guests(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(period_ms=1, boot=6)))
    held = guest.alloc(9)
    guest.bytes_of(held)[:4] = b"mine"
    now = settle(backend, lambda s: s.domains[0].resident_frames == AREA).domains[0]
    assert now.plugged_frames == 6 * AREA
    assert bytes(guest.bytes_of(held)[:4]) == b"mine"
    assert guest.alloc(9) >= 0
    guest.close()


def test_an_install_is_refused_when_the_host_has_no_memory(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec()))
    other = GuestDouble(backend.open(DomId(1), DomainSpec("vm2", 12 * AREA, 12 * AREA, 12 * AREA)))
    while other.alloc(9) >= 0:
        pass
    backend.set_target(VM1, 4 * AREA)
    assert [guest.alloc(9) >= 0 for _ in range(2)] == [True, True]
    assert guest.alloc(9) == Status.ENOMEM
    assert backend.snapshot().domains[0].refused == 1
    guest.close()
    other.close()


def test_an_answer_nobody_asked_for_changes_nothing(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(boot=4)))
    before = backend.snapshot().domains[0].plugged_frames
    assert guest.send(CACHE_DROPPED, 2**64 - 1, 7)[0] == 0
    assert guest.send(CACHE_DROPPED + 1)[0] == Status.EOP
    assert guest.send(lib.MC_OP_INSTALL, 2**32)[0] == Status.EINDEX
    assert backend.snapshot().domains[0].plugged_frames == before
    guest.close()


def test_page_cache_is_dropped_when_the_target_asks_for_it(backend: HostBackend) -> None:
    guest = GuestProcess(backend.open(VM1, spec(boot=6)), "vm1", VM1)
    try:
        assert guest.take("frames", 100) == 100
        assert guest.take("cache", 5 * AREA) == 5 * AREA
        backend.set_target(VM1, 3 * AREA)
        settled = backend.settle(VM1, SETTLE_S)
        assert settled.state == "reached", settled
        assert 0 < len(guest.frames("cache")) <= 2 * AREA
        assert guest.verify() == 0
    finally:
        guest.close()
