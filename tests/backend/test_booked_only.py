"""A domain whose memory lies elsewhere: the ledger has every frame of it, its file no page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backend_steps import close_domain, ledger, settle, spec
from guest_double import GuestDouble
from msgspec.structs import replace

from backend.host import HostBackend
from hypervisor.public.units import AREA_FRAMES, DomId

AREA = AREA_FRAMES
VM, NEIGHBOUR = DomId(0), DomId(1)


@pytest.fixture
def host() -> Iterator[HostBackend]:
    made = HostBackend(
        total_frames=16 * AREA, slack_frames=AREA, tmem_max_frames=0, spin_ns=0, stop_excess=True
    )
    yield made
    made.validate()
    made.stop()


def resident(host: HostBackend, domid: DomId) -> int:
    return next(one.resident_frames for one in host.snapshot().domains if one.domid == domid)


def test_what_it_boots_with_and_grows_by_is_charged_and_brings_no_page(host: HostBackend) -> None:
    guest = GuestDouble(host.open(VM, replace(spec("vm", boot=3), booked_only=True)))
    assert guest.grow(2)[0] == 2
    found = host.snapshot()
    assert found.domains[0].current_frames == 5 * AREA
    assert found.free_frames <= (16 - 5) * AREA
    assert ledger(found) == 16 * AREA
    assert resident(host, VM) == 0
    host.validate()
    guest.close()


def test_an_ordinary_neighbour_gets_its_pages_as_ever(host: HostBackend) -> None:
    booked = GuestDouble(host.open(VM, replace(spec("vm", boot=3), booked_only=True)))
    plain = GuestDouble(host.open(NEIGHBOUR, spec("plain", boot=2)))
    assert (resident(host, VM), resident(host, NEIGHBOUR)) == (0, 2 * AREA)
    booked.close()
    plain.close()


def test_what_it_gives_back_is_free_for_others(host: HostBackend) -> None:
    guest = GuestDouble(host.open(VM, replace(spec("vm", maxmem=14, boot=14), booked_only=True)))
    assert host.snapshot().free_frames == 2 * AREA
    host.set_target(VM, 4 * AREA)
    settle(host, lambda seen: seen.domains[0].current_frames == 4 * AREA)
    settle(host, lambda seen: seen.free_frames == 12 * AREA)
    plain = GuestDouble(host.open(NEIGHBOUR, spec("late", maxmem=10, boot=10)))
    assert resident(host, NEIGHBOUR) == 10 * AREA
    host.validate()
    guest.close()
    plain.close()


def test_all_it_has_comes_back_with_its_end(host: HostBackend) -> None:
    GuestDouble(host.open(VM, replace(spec("vm", boot=6), booked_only=True))).close()
    close_domain(host, VM)
    assert host.snapshot().free_frames == 16 * AREA


def test_memory_that_it_uses_of_its_own_file_goes_with_its_area(host: HostBackend) -> None:
    guest = GuestDouble(host.open(VM, replace(spec("vm", boot=2), booked_only=True)))
    guest.bytes_of(0)[0] = b"\x01"  # room for what it exchanges with tmem, say
    assert resident(host, VM) == 1
    host.set_target(VM, 0)
    settle(host, lambda seen: seen.domains[0].resident_frames == 0)
    guest.close()


def test_a_frontend_does_not_map_what_has_no_page() -> None:
    import memcoord
    from hypervisor.config import DomainConfig

    sizes = {"maxmem_frames": 8 * AREA, "boot_frames": 2 * AREA, "target_frames": 8 * AREA}
    vm = DomainConfig(name="vm", booked_only=True, **sizes)
    with (
        memcoord.Hypervisor("32 MiB", domains=[vm]) as hypervisor,
        memcoord.attach(hypervisor.run_dir, "vm") as domain,
    ):
        held = [domain.alloc_areas(1) for _ in range(6)]
        assert domain.current_frames >= 6 * AREA
        assert domain.statistics().mapped_areas == 0
        for frame in held:
            domain.free_areas(frame, 1)
