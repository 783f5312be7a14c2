"""The sections mechanism: the plan by bare records, then real guests that migrate and refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backend_steps import AREA, WAIT_S, close_domain, ledger, settle
from guest_double import GuestDouble
from sections_double import (
    KEPT,
    NEXT,
    NOTHING,
    OFFLINE,
    OFFLINED,
    ONLINED,
    SECTION,
    STUCK,
    VM1,
    N,
    claim,
    drive,
    host,
    spec,
    used,
)

from backend.host import HostBackend
from hypervisor.public.backend import BankSpec, DomainSpec
from hypervisor.public.errors import MemcoordError, Status
from hypervisor.public.units import DomId
from memcoord.testbed.guests.obedient import GuestProcess


@pytest.fixture
def backend() -> Iterator[HostBackend]:
    """Six sections near, six far."""
    made = host(6, 6, remote=[1])
    yield made
    made.validate()
    made.stop()


def quiet(backend: HostBackend) -> None:
    """Nothing is on its way any more."""
    settle(backend, lambda s: s.ready_frames == 0)
    backend.validate()
    assert ledger(backend.snapshot()) == backend.snapshot().total_frames


# What a section is


@pytest.mark.parametrize(
    ("maxmem_areas", "areas"), [(4096, 64), (256, 64), (128, 32), (16, 4), (18, 2), (7, 1)]
)
def test_a_section_is_as_large_as_linux_has_it_or_a_quarter(maxmem_areas: int, areas: int) -> None:
    backend = HostBackend(total_frames=4096 * AREA, slack_frames=0, tmem_max_frames=0, spin_ns=0)
    backend.open(VM1, DomainSpec("vm1", maxmem_areas * AREA, 0, 0, mechanism="sections"))
    domain = backend._host.domains[0]
    assert domain.granule_frames == areas * AREA
    assert domain.control.options[0] == areas
    backend.stop()


@pytest.mark.parametrize("areas", [3, 16, 1025])
def test_a_size_that_cannot_be_is_refused(backend: HostBackend, areas: int) -> None:
    with pytest.raises(MemcoordError):
        backend.open(VM1, spec(4, 0, section_areas=areas))
    assert backend.snapshot().free_frames == 12 * SECTION


def test_a_domain_boots_with_whole_sections(backend: HostBackend) -> None:
    wanted = DomainSpec(
        "vm1", 4 * SECTION, AREA, AREA, mechanism="sections", options={"section_areas": N}
    )
    backend.open(VM1, wanted)
    assert backend.snapshot().domains[0].current_frames == SECTION
    assert backend.snapshot().domains[0].target_frames == SECTION


# Banks


def test_local_banks_come_first_and_no_chunk_spans_two() -> None:
    backend = host(2, 3, 2, remote=[2])
    guest = GuestDouble(backend.open(VM1, spec(7, 0)))
    seen = []
    for target in range(1, 8):
        backend.set_target(VM1, target * SECTION)
        assert drive(guest, N)[-1][0] == NOTHING
        backend.validate()
        seen.append(used(backend))
    assert seen[4] == [2, 3, 0]
    assert seen[6] == [2, 3, 2]
    guest.close()
    backend.stop()


def test_remote_banks_come_first_when_asked(backend: HostBackend) -> None:
    backend.open(VM1, spec(8, 7, remote_first=1))
    assert used(backend) == [1, 6]


def test_what_is_remote_goes_first(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(8, 8)))
    assert used(backend) == [6, 2]
    backend.set_target(VM1, 5 * SECTION)
    assert [what for what, _ in drive(guest, N)] == [OFFLINE] * 3 + [NOTHING]
    quiet(backend)
    assert used(backend) == [5, 0]
    guest.close()


def test_pieces_of_several_banks_are_no_section() -> None:
    backend = HostBackend(
        total_frames=6 * AREA,
        slack_frames=0,
        tmem_max_frames=0,
        spin_ns=0,
        banks=[BankSpec(3 * AREA), BankSpec(3 * AREA)],
    )
    guest = GuestDouble(backend.open(VM1, spec(3, 0, target=3)))
    assert drive(guest, N)[-1] == (Status.ENOMEM, 0)
    settled = backend.settle(VM1, WAIT_S)
    assert (settled.state, settled.why, settled.plugged_frames) == ("partial", "bank", 2 * SECTION)
    assert backend.snapshot().free_frames == 2 * AREA
    guest.close()
    backend.stop()


def test_what_the_banks_could_not_give_is_offered_when_they_can() -> None:
    backend = host(4)
    other = GuestDouble(backend.open(DomId(1), spec(3, 3)))
    guest = GuestDouble(backend.open(VM1, spec(3, 0, target=3)))
    assert drive(guest, N)[-1] == (Status.ENOMEM, 0)
    assert backend.settle(VM1, WAIT_S).why == "no memory"
    bell = guest.control.config_bell
    close_domain(backend, DomId(1))
    settle(backend, lambda _: guest.control.config_bell != bell)
    assert drive(guest, N)[-1][0] == NOTHING
    assert backend.settle(VM1, WAIT_S).state == "reached"
    for each in (guest, other):
        each.close()
    backend.stop()


def test_a_section_waits_for_what_is_being_punched() -> None:
    backend = host(3)
    guest = GuestDouble(backend.open(VM1, spec(3, 3)))
    for _ in range(20):
        backend.set_target(VM1, SECTION)
        assert [what for what, _ in drive(guest, N)] == [OFFLINE, OFFLINE, NOTHING]
        backend.set_target(VM1, 3 * SECTION)
        assert [what for what, _ in drive(guest, N)] == [ONLINED, ONLINED, NOTHING]
    guest.close()
    backend.stop()


def test_banks_are_bound_to_their_node() -> None:
    backend = host(2, 2, node=0)
    guest = GuestDouble(backend.open(VM1, spec(4, 3)))
    ram = backend._host.domains[0].ram
    with open("/proc/self/numa_maps") as maps:
        rows = {int(line.split()[0], 16): line.split()[1] for line in maps}
    assert rows[ram].startswith(("prefer", "bind"))
    assert not rows[ram + 3 * SECTION * 4096].startswith(("prefer", "bind"))
    guest.close()
    backend.stop()


# The records


def test_an_allocation_that_finds_nothing_gets_a_section(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(4, 1, target=2)))
    assert guest.send(NEXT, 1)[0] == ONLINED
    assert guest.send(NEXT, 1)[0] == Status.ETARGET
    assert backend.snapshot().domains[0].grants_ring == N
    assert backend.snapshot().domains[0].refused == 1
    guest.close()


def test_only_the_section_that_was_asked_for_is_taken(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(4, 4)))
    assert claim(guest, 0, N)
    assert guest.send(OFFLINED, 0)[0] == Status.ETARGET
    backend.set_target(VM1, 3 * SECTION)
    assert guest.send(NEXT)[0] == OFFLINE
    backend.set_target(VM1, 4 * SECTION)
    assert guest.send(OFFLINED, 3)[0] == Status.ETARGET
    assert guest.send(KEPT, 3, 7)[0] == Status.OK
    assert backend.snapshot().domains[0].current_frames == 4 * SECTION
    assert backend.snapshot().domains[0].bad_requests == 0
    guest.close()


def test_a_section_that_is_not_empty_is_not_taken_in_part(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(4, 4, target=4)))
    backend.set_target(VM1, 3 * SECTION)
    assert guest.send(NEXT) == (OFFLINE, [3, 0, N, 0, 0])
    assert guest.send(OFFLINED, 3)[0] == Status.ESTATE
    assert backend.snapshot().domains[0].current_frames == 4 * SECTION
    assert backend.snapshot().domains[0].bad_requests == 1
    guest.close()


def test_a_pin_that_comes_late_is_respected(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(4, 4)))
    backend.set_target(VM1, 3 * SECTION)
    assert guest.send(NEXT)[0] == OFFLINE
    backend.pin_dma(VM1, 4 * SECTION - 1, 1)
    assert claim(guest, 3, N)
    assert guest.send(OFFLINED, 3)[0] == Status.EPERM
    assert backend.snapshot().domains[0].current_frames == 4 * SECTION
    assert backend.snapshot().domains[0].refused_dma == 1
    assert guest.send(NEXT) == (OFFLINE, [2, 0, N, 0, 0])
    guest.close()


def test_what_is_pinned_is_not_even_asked_for(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(4, 4)))
    for section in range(4):
        backend.pin_dma(VM1, section * SECTION, 1)
    backend.set_target(VM1, SECTION)
    assert drive(guest, N) == [(STUCK, -Status.EPERM)]
    assert backend.settle(VM1, WAIT_S).why == "pinned"
    assert backend.snapshot().domains[0].refused_dma == 4
    backend.unpin_dma(VM1, 2 * SECTION, 1)
    backend.set_target(VM1, SECTION)
    assert drive(guest, N) == [(OFFLINE, 2), (STUCK, -Status.EPERM)]
    guest.close()


def test_pins_at_a_reboot_leave_sections_that_are_filled_first(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(6, 1)))
    backend.set_target(VM1, 6 * SECTION)
    drive(guest, N)
    backend.pin_dma(VM1, 4 * SECTION, 1)
    backend.set_target(VM1, 2 * SECTION)
    backend.reboot(VM1)
    guest.close()
    backend.validate()
    assert backend.snapshot().domains[0].current_frames == SECTION + AREA
    domain = backend._host.domains[0]
    again = GuestDouble(
        type(guest.handles)(
            domain.ram_fd,
            domain.meta_fd,
            domain.bell_fd,
            guest.handles.ram_bytes,
            guest.handles.meta_bytes,
            0,
        )
    )
    assert drive(again, N) == [(ONLINED, 4), (NOTHING, 0)]
    assert backend.settle(VM1, WAIT_S).state == "reached"
    again.close()


@pytest.mark.parametrize(("op", "args"), [(OFFLINED, (4,)), (KEPT, (2**63, 1)), (KEPT + 1, ())])
def test_nonsense_is_counted(backend: HostBackend, op: int, args: tuple[int, ...]) -> None:
    guest = GuestDouble(backend.open(VM1, spec(4, 1)))
    assert guest.send(op, *args)[0] in (Status.EINDEX, Status.EOP)
    assert backend.snapshot().domains[0].bad_requests == 1
    guest.close()


# Real guests


@pytest.mark.process
def test_movable_frames_move_out_of_the_way_with_their_content() -> None:
    backend = host(6)
    guest = GuestProcess(backend.open(VM1, spec(4, 4, target=4)), "vm1", 0)
    assert guest.take("movable", 4 * SECTION) == 4 * SECTION
    guest.give("movable", 4 * SECTION, stride=3)
    guest.give("movable", SECTION, stride=2)
    backend.set_target(VM1, 2 * SECTION)
    assert backend.settle(VM1, WAIT_S).state == "reached"
    assert backend.snapshot().domains[0].guest_migrated_frames > 0
    assert guest.verify() == 0
    quiet(backend)
    assert backend.snapshot().domains[0].resident_frames <= 2 * SECTION
    guest.close()
    backend.stop()


@pytest.mark.process
def test_a_section_that_cannot_be_emptied_is_put_back_as_it_was() -> None:
    backend = host(4)
    guest = GuestProcess(backend.open(VM1, spec(4, 4, target=4)), "vm1", 0)
    assert guest.take("frames", 3 * SECTION) == 3 * SECTION
    guest.give("frames", 3 * SECTION, stride=2)
    backend.set_target(VM1, SECTION)
    settled = backend.settle(VM1, WAIT_S)
    assert (settled.state, settled.why) == ("partial", "in use")
    assert settled.plugged_frames == 3 * SECTION
    control = backend._host.domains[0].control
    assert (control.driver[1], control.driver[2]) == (1, 3)
    guest.take("frames", 1 << 20)
    assert len(guest.frames("frames")) == 3 * SECTION
    assert guest.verify() == 0
    guest.close()
    backend.stop()
