"""A bank is taken out of the host: sections move, what cannot is reported, nothing new comes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from backend_steps import AREA, WAIT_S, close_domain, ledger
from guest_double import GuestDouble
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sections_double import (
    NOTHING,
    OFFLINE,
    ONLINED,
    SECTION,
    STUCK,
    VM1,
    N,
    drive,
    host,
    spec,
    used,
)

from backend.host import HostBackend
from frontend._guest import lib
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


def test_sections_move_to_another_bank_by_way_of_a_free_one() -> None:
    backend = host(4, 4)
    guest = GuestDouble(backend.open(VM1, spec(6, 3)))
    home = used(backend).index(max(used(backend)))
    report = backend.banks.withdraw(home)
    assert (report.state, report.why) == ("moving", {"vm1": "silent"})
    total = backend.snapshot().total_frames
    assert total == (4 + used(backend)[home]) * SECTION
    done = [what for what, _ in drive(guest, N)]
    assert done[:2] == [ONLINED, OFFLINE]
    assert backend.banks.withdraw(home, WAIT_S).state == "withdrawn"
    assert used(backend)[1 - home] == 3
    assert backend.snapshot().total_frames == 4 * SECTION
    assert backend.settle(VM1, WAIT_S).state == "reached"
    backend.banks.restore(home)
    assert backend.snapshot().total_frames == 8 * SECTION
    backend.validate()
    guest.close()
    backend.stop()


def test_a_full_domain_puts_a_section_offline_before_its_successor_comes() -> None:
    backend = host(4, 4)
    guest = GuestDouble(backend.open(VM1, spec(4, 4, target=4)))
    backend.banks.withdraw(0)
    left = used(backend)[0]
    assert [what for what, _ in drive(guest, N)] == [OFFLINE, ONLINED] * left + [NOTHING]
    assert backend.banks.withdraw(0, WAIT_S).state == "withdrawn"
    assert used(backend) == [0, 4]
    guest.close()
    backend.stop()


def test_a_withdrawn_bank_gets_no_new_chunk(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM1, spec(8, 0)))
    assert backend.banks.withdraw(0).state == "withdrawn"
    direct = GuestDouble(backend.open(DomId(1), DomainSpec("vm2", 4 * AREA, AREA, 4 * AREA)))
    assert direct.grow(3)[0] == 3
    assert all(direct.alloc(9) >= 0 for _ in range(4))
    backend.set_target(VM1, 8 * SECTION)
    assert drive(guest, N)[-1] == (Status.ENOMEM, 0)
    assert used(backend) == [0, 4]
    assert used(backend, DomId(1))[0] == 0
    bell = guest.control.config_bell
    backend.banks.restore(0)
    assert guest.control.config_bell != bell
    assert drive(guest, N)[-1][0] == NOTHING
    assert used(backend) == [4, 4]
    for each in (guest, direct):
        each.close()


def test_what_cannot_move_is_reported_and_goes_when_it_can() -> None:
    backend = host(3, 4)
    guest = GuestDouble(backend.open(VM1, spec(4, 2, remote_first=0)))
    backend.banks.withdraw(1)
    mine = used(backend)[1]
    stuck = next(i for i in range(2) if backend._host.domains[0].banks[i * N] == 1)
    size = backend.snapshot().domains[0].current_frames
    assert drive(guest, N, unmovable=[stuck])[-1] == (STUCK, -Status.ESTATE)
    report = backend.banks.withdraw(1, WAIT_S)
    assert (report.state, report.why) == ("partial", {"vm1": "in use"})
    assert 0 < report.left_frames <= mine * SECTION
    assert backend.snapshot().domains[0].current_frames == size
    backend.set_target(VM1, size)
    assert drive(guest, N)[-1][0] == NOTHING
    assert backend.banks.withdraw(1, WAIT_S).state == "withdrawn"
    guest.close()
    backend.stop()


def test_without_room_elsewhere_the_reason_is_the_bank() -> None:
    backend = host(2, 1)
    guest = GuestDouble(backend.open(VM1, spec(2, 2)))
    biggest = used(backend).index(2)
    backend.banks.withdraw(biggest)
    assert drive(guest, N)[-1] == (Status.ENOMEM, 0)
    report = backend.banks.withdraw(biggest, WAIT_S)
    assert (report.state, report.left_frames) == ("partial", SECTION)
    assert report.why == {"vm1": "no memory"}
    guest.close()
    backend.stop()


def test_what_other_mechanisms_hold_of_a_bank_stays(backend: HostBackend) -> None:
    backend.open(DomId(1), DomainSpec("vm2", 4 * AREA, 2 * AREA, 2 * AREA))
    report = backend.banks.withdraw(0, WAIT_S)
    assert (report.state, report.left_frames) == ("partial", 2 * AREA)
    assert report.why == {"vm2": "direct"}
    close_domain(backend, DomId(1))
    assert backend.banks.withdraw(0).state == "withdrawn"
    assert backend.snapshot().total_frames == 6 * SECTION


@pytest.mark.parametrize("bank", [-1, 2])
def test_a_bank_that_is_not_there_cannot_be_withdrawn(backend: HostBackend, bank: int) -> None:
    with pytest.raises(MemcoordError):
        backend.banks.withdraw(bank)
    with pytest.raises(MemcoordError):
        backend.banks.restore(bank)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["target", "withdraw", "restore", "pin", "unpin", "fill", "drive"]),
            st.integers(0, 5),
        ),
        max_size=25,
    ),
    unmovable=st.sets(st.integers(0, 5), max_size=2),
)
def test_any_order_of_events_ends_and_conserves(
    steps: list[tuple[str, int]], unmovable: set[int]
) -> None:
    """``drive`` asserts that the plan ends."""
    backend = host(3, 2, 3, remote=[2])
    guest = GuestDouble(backend.open(VM1, spec(6, 2)))
    for step, value in [*steps, ("drive", 0)]:
        if step == "target":
            backend.set_target(VM1, value * SECTION)
        elif step == "withdraw":
            backend.banks.withdraw(value % 3)
        elif step == "restore" and backend.banks.all()[value % 3].withdrawn:
            backend.banks.restore(value % 3)
        elif step in ("pin", "unpin"):
            pin = backend.pin_dma if step == "pin" else backend.unpin_dma
            if backend._host.domains[0].states[value * N] == 4:  # installed
                pin(VM1, value * SECTION, 1)
        elif step == "fill":
            guest.alloc(0)
        else:
            drive(guest, N, unmovable)
            settled = backend.settle(VM1, WAIT_S)
            assert settled.state != "moving"
            assert (settled.state == "partial") == (settled.why != "")
        backend.validate()
        assert ledger(backend.snapshot()) == backend.snapshot().total_frames
    guest.close()
    backend.stop()


@pytest.mark.process
def test_a_guest_moves_off_a_bank_that_is_withdrawn() -> None:
    backend = host(4, 4)
    guest = GuestProcess(backend.open(VM1, spec(4, 4, target=4)), "vm1", 0)
    guest.take("movable", 2 * SECTION)
    report = backend.banks.withdraw(0, WAIT_S)
    assert report.state == "withdrawn", report
    assert guest.verify() == 0
    assert (
        backend.settle(VM1, WAIT_S).state == "reached"
    )  # the last section comes after the last goes
    assert used(backend) == [0, 4]
    assert guest.take("frames", 1 << 20) == 2 * SECTION
    report = backend.banks.withdraw(1, WAIT_S)
    assert (report.state, report.why) == ("partial", {"vm1": "no memory"})
    assert guest.verify() == 0
    guest.close()
    backend.validate()
    backend.stop()


def test_what_tmem_gives_of_a_withdrawn_bank_is_granted_to_nobody() -> None:
    banks = [BankSpec(4 * AREA), BankSpec(12 * AREA)]
    backend = HostBackend(
        total_frames=16 * AREA, slack_frames=0, spin_ns=0, tmem_max_frames=8 * AREA, banks=banks
    )
    cache = GuestDouble(backend.open(VM1, DomainSpec("vm1", AREA, AREA, AREA)))
    pool, _ = cache.send(lib.MC_OP_NEW_POOL, 1 << 24, 0, 0, tmem=True)
    frame = cache.alloc()
    for index in range(AREA + AREA // 2):
        cache.bytes_of(frame)[:] = random.Random(index).randbytes(4096)
        cache.send(lib.MC_OP_PUT, pool | index << 32, 1, 0, 0, frame, tmem=True)
    held = backend.snapshot().tmem_frames
    assert held > 0
    backend.banks.withdraw(1)
    receiver = GuestDouble(backend.open(DomId(1), DomainSpec("vm2", 12 * AREA, 0, 12 * AREA)))
    granted = 0
    while receiver.grow()[0] == 1:
        granted += 1
    assert 3 <= granted <= 4
    backend.validate()
    for guest in (cache, receiver):
        guest.close()
    backend.stop()
