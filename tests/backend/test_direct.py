"""The direct mechanism, through its Backend face on one side and bare ring records on the other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_steps import WAIT_S, close_domain, ledger, settle, spec
from guest_double import GuestDouble
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.errors import NoMemory, Status
from hypervisor.public.units import AREA_FRAMES, DomId
from memcoord.benchmarks.mechanisms.huge_mount import HugeMount

AREA = AREA_FRAMES


def test_boot_memory_is_there_and_really_backed(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", boot=3, target=3)))
    vm1 = backend.snapshot().domains[0]
    assert vm1.current_frames == vm1.resident_frames == 3 * AREA
    frames = {guest.alloc() for _ in range(3 * AREA)}
    assert len(frames) == 3 * AREA
    assert guest.alloc() == Status.ENOMEM
    guest.close()


def test_memory_that_is_not_there_is_refused_and_nothing_leaks(backend: HostBackend) -> None:
    with pytest.raises(NoMemory):
        backend.open(DomId(0), spec("vm1", maxmem=20, boot=20))
    snapshot = backend.snapshot()
    assert snapshot.free_frames == 16 * AREA
    assert snapshot.domains == ()


def test_what_is_promised_is_kept(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", maxmem=16)))
    backend.promise(10 * AREA)
    assert guest.grow(16)[0] == 4
    backend.promise(0)
    assert guest.grow(16)[0] == 10
    guest.close()


def test_grow_takes_free_memory_up_to_the_target(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", target=2)))
    assert guest.grow() == (1, lib.MC_PATH_RING)
    assert guest.grow(5)[0] == 1
    assert guest.grow()[0] == Status.ETARGET
    backend.set_target(DomId(0), 3 * AREA)
    assert guest.grow()[0] == 1
    assert backend.snapshot().domains[0].grants_ring == 3
    guest.close()


def test_a_full_host_takes_from_the_idle_donor(backend: HostBackend) -> None:
    donor = GuestDouble(backend.open(DomId(0), spec("donor", maxmem=14, boot=14)))
    receiver = GuestDouble(backend.open(DomId(1), spec("receiver")))
    frame = donor.alloc(9)
    donor.bytes_of(frame)[:4] = b"mine"
    granted, path = receiver.grow()
    assert (granted, path) == (1, lib.MC_PATH_TRANSFER)
    settle(backend, lambda s: s.domains[0].resident_frames <= 13 * AREA)
    assert donor.bytes_of(frame)[:4] == b"mine"
    got = receiver.alloc(9)
    assert bytes(receiver.bytes_of(got)[:]) == bytes(4096)
    donor.close()
    receiver.close()


def test_a_growing_domain_gets_an_area_ready_even_on_a_full_host(backend: HostBackend) -> None:
    donor = GuestDouble(backend.open(DomId(0), spec("donor", maxmem=14, boot=14)))
    receiver = GuestDouble(backend.open(DomId(1), spec("receiver")))
    assert receiver.grow() == (1, lib.MC_PATH_TRANSFER)
    settle(backend, lambda s: s.domains[1].resident_frames == 2 * AREA)
    now = settle(backend, lambda s: s.free_frames == s.slack_frames)
    assert now.domains[0].resident_frames == 12 * AREA
    donor.close()
    receiver.close()


def test_nothing_left_is_a_clean_no(backend: HostBackend) -> None:
    donor = GuestDouble(backend.open(DomId(0), spec("donor", maxmem=14, boot=14)))
    for _ in range(14):
        donor.alloc(9)
    receiver = GuestDouble(backend.open(DomId(1), spec("receiver")))
    assert receiver.grow()[0] == Status.ENOMEM
    donor.close()
    receiver.close()


def test_a_soft_reclaimed_area_comes_back_by_install(backend: HostBackend) -> None:
    donor = GuestDouble(backend.open(DomId(0), spec("donor", maxmem=14, boot=14)))
    receiver = GuestDouble(backend.open(DomId(1), spec("receiver", maxmem=2)))
    assert receiver.grow(2)[0] == 2
    settle(backend, lambda s: s.domains[0].resident_frames == 12 * AREA)
    evicted = [area for area in range(14) if donor.word(area) & lib.MC_AREA_EVICTED]
    assert len(evicted) == 2
    assert receiver.send(lib.MC_OP_RELEASE, 2)[0] == 2
    settle(backend, lambda s: s.free_frames >= 4 * AREA)
    assert donor.send(lib.MC_OP_INSTALL, evicted[0])[0] == 0
    assert not donor.word(evicted[0]) & lib.MC_AREA_EVICTED
    assert backend.snapshot().domains[0].resident_frames == 13 * AREA
    donor.close()
    receiver.close()


def test_an_area_comes_back_under_a_generation_it_never_had(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", maxmem=1, boot=1)))
    seen = [guest.word(0) >> 16]
    for _ in range(3):
        assert guest.send(lib.MC_OP_RELEASE, 1)[0] == 1
        settle(backend, lambda s: s.free_frames == 16 * AREA)
        assert guest.grow()[0] == 1
        seen.append(guest.word(0) >> 16)
    assert len(set(seen)) == len(seen)
    guest.close()


def test_an_area_that_is_installed_may_be_asked_for_again(backend: HostBackend) -> None:
    """Two threads of one guest that come across an evicted area both ask for it."""
    donor = GuestDouble(backend.open(DomId(0), spec("donor", maxmem=14, boot=13)))
    receiver = GuestDouble(backend.open(DomId(1), spec("receiver", maxmem=2)))
    assert receiver.grow(2)[0] == 2
    evicted = next(area for area in range(14) if donor.word(area) & lib.MC_AREA_EVICTED)
    assert receiver.send(lib.MC_OP_RELEASE, 2)[0] > 0
    assert [donor.send(lib.MC_OP_INSTALL, evicted)[0] for _ in range(3)] == [0, 0, 0]
    assert backend.snapshot().domains[0].bad_requests == 0
    donor.close()
    receiver.close()


def test_an_area_made_ready_beyond_the_target_goes_back(backend: HostBackend) -> None:
    donor = GuestDouble(backend.open(DomId(0), spec("donor", maxmem=12, boot=8)))
    receiver = GuestDouble(backend.open(DomId(1), spec("receiver", maxmem=2)))
    backend.promise(6 * AREA)  # nothing left: the receiver is given what the donor has
    assert receiver.grow(1) == (1, lib.MC_PATH_TRANSFER)
    backend.promise(0)
    close_domain(backend, DomId(1))
    evicted = [area for area in range(12) if donor.word(area) & lib.MC_AREA_EVICTED]
    assert evicted
    assert donor.grow()[0] == 1
    settle(backend, lambda s: s.ready_frames == AREA)
    held = backend.snapshot().domains[0].current_frames
    backend.set_target(DomId(0), held + AREA)
    assert donor.send(lib.MC_OP_INSTALL, evicted[0])[0] == 0
    settle(backend, lambda s: s.domains[0].resident_frames == held + AREA)
    donor.close()
    receiver.close()


def test_what_was_just_released_is_there_for_the_next(backend: HostBackend) -> None:
    """Released memory is punched by and by; meanwhile it is granted out of the slack."""
    guests = [GuestDouble(backend.open(DomId(i), spec(f"vm{i}", maxmem=14))) for i in (0, 1)]
    for turn in range(20):
        here, there = guests[turn % 2], guests[1 - turn % 2]
        here.grow(14)
        frames = []
        while (frame := here.alloc(9)) >= 0:
            frames.append(frame)
        assert there.grow()[0] in (1, Status.ENOMEM)
        there.send(lib.MC_OP_RELEASE, 14)
        for frame in frames[:2]:
            assert here.free(frame, 9) == 0
        assert here.send(lib.MC_OP_RELEASE, 2)[0] == 2
        assert there.grow(2)[0] == 2
        there.send(lib.MC_OP_RELEASE, 14)
        for frame in frames[2:]:
            assert here.free(frame, 9) == 0
        here.send(lib.MC_OP_RELEASE, 14)
    for guest in guests:
        guest.close()


def test_a_closed_domain_cannot_ring_any_more(backend: HostBackend) -> None:
    """A guest that outlives its domain still holds the eventfd."""

    def watched() -> int:
        info = Path(f"/proc/self/fdinfo/{backend._host.epoll_fd}").read_text()
        return info.count("tfd:")

    before = watched()
    guest = GuestDouble(backend.open(DomId(0), spec("vm1")))
    kept = os.dup(guest.handles.bell_fd)
    assert watched() == before + 1
    close_domain(backend, DomId(0))
    assert watched() == before
    os.close(kept)
    guest.close()


def test_a_lower_target_takes_free_areas_at_once(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", boot=6)))
    guest.alloc()
    backend.set_target(DomId(0), 2 * AREA)
    settle(backend, lambda s: s.domains[0].resident_frames == 2 * AREA)
    assert guest.grow()[0] == Status.ETARGET
    guest.close()


def test_credit_is_kept_topped_up(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", credit=2)))
    settle(backend, lambda s: s.domains[0].grants_credit == 2)
    assert guest.alloc(9) >= 0
    guest.control.credit_taken += 1
    lib.mc_eventfd_ring(guest.handles.bell_fd)
    settle(backend, lambda s: s.domains[0].grants_credit == 3)
    guest.close()


def test_closing_gives_every_frame_back(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", boot=5, credit=2)))
    for _ in range(700):
        guest.alloc()
    close_domain(backend, DomId(0))
    assert backend.snapshot().free_frames == 16 * AREA
    guest.close()


@pytest.mark.parametrize(
    ("op", "args", "status"),
    [
        (99, (), Status.EOP),
        (lib.MC_OP_GROW, (0,), Status.EINDEX),
        (lib.MC_OP_GROW, (65,), Status.EINDEX),
        (lib.MC_OP_GROW, (2**64 - 1,), Status.EINDEX),
        (lib.MC_OP_RELEASE, (2**63,), Status.EINDEX),
        (lib.MC_OP_INSTALL, (8,), Status.EINDEX),
        (lib.MC_OP_INSTALL, (0,), Status.EFOREIGN),
    ],
)
def test_bad_requests_are_answered_and_counted(
    backend: HostBackend, op: int, args: tuple[int, ...], status: Status
) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1")))
    assert guest.send(op, *args)[0] == status
    assert backend.snapshot().domains[0].bad_requests == 1
    guest.close()


def test_a_spent_error_budget_breaks_that_domain_only() -> None:
    backend = HostBackend(
        total_frames=8 * AREA, slack_frames=0, tmem_max_frames=0, spin_ns=0, error_budget=3
    )
    bad = GuestDouble(backend.open(DomId(0), spec("bad", maxmem=2)))
    good = GuestDouble(backend.open(DomId(1), spec("good", maxmem=2)))
    for _ in range(4):
        bad.send(77)
    assert backend.broken() == [(DomId(0), "error budget spent")]
    assert good.grow()[0] == 1
    close_domain(backend, DomId(0))
    bad.close()
    good.close()
    backend.stop()


def test_a_producer_that_runs_away_breaks_its_ring(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1")))
    guest.ring(tmem=False).req_prod += 1000
    lib.mc_eventfd_ring(guest.handles.bell_fd)
    until = time.monotonic() + WAIT_S
    while not backend.broken():
        assert time.monotonic() < until
        time.sleep(0.002)
    assert backend.broken() == [(DomId(0), "ring: ERUNAWAY")]
    guest.close()


def test_tmem_over_the_ring_keeps_pages_and_refuses_foreign_frames(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", boot=1)))
    pool, _ = guest.send(lib.MC_OP_NEW_POOL, 1 | 1 << 24, tmem=True)
    assert pool == 0
    source, sink = guest.alloc(), guest.alloc()
    guest.bytes_of(source)[:] = bytes(range(256)) * 16
    assert guest.send(lib.MC_OP_PUT, 5 << 32 | pool, 1, 2, 3, source, tmem=True)[0] == 1
    assert guest.send(lib.MC_OP_GET, 5 << 32 | pool, 1, 2, 3, sink, tmem=True)[0] == 1
    assert guest.bytes_of(sink)[:] == guest.bytes_of(source)[:]
    assert guest.send(lib.MC_OP_GET, 6 << 32 | pool, 1, 2, 3, sink, tmem=True)[0] == 0
    foreign = guest.send(lib.MC_OP_PUT, pool, 0, 0, 0, 5 * AREA, tmem=True)[0]
    assert foreign == lib.MC_TMEM_BAD + Status.EFOREIGN
    outside = guest.send(lib.MC_OP_PUT, pool, 0, 0, 0, 2**63, tmem=True)[0]
    assert outside == lib.MC_TMEM_BAD + Status.EINDEX
    assert backend.snapshot().tmem_frames == AREA
    guest.close()


def test_tmem_gives_memory_up_when_a_domain_needs_it(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", boot=1)))
    pool, _ = guest.send(lib.MC_OP_NEW_POOL, 1 << 24, tmem=True)  # ephemeral
    source = guest.alloc()
    for index in range(13 * AREA):
        guest.bytes_of(source)[:8] = index.to_bytes(8, "little")
        guest.send(lib.MC_OP_PUT, index << 32 | pool, 0, 0, 0, source, tmem=True)
        if backend._host.free_frames <= 2 * AREA:
            break
    before = backend.snapshot().tmem_frames
    assert before > 0
    assert guest.grow(3) == (3, lib.MC_PATH_TRANSFER)
    after = backend.snapshot()
    assert after.tmem_frames < before
    assert ledger(after) == after.total_frames
    guest.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["grow", "release", "alloc", "free", "target", "reopen"]),
            st.integers(0, 1),
            st.integers(0, 8),
        ),
        max_size=30,
    )
)
def test_any_order_of_requests_conserves_the_host(steps: list[tuple[str, int, int]]) -> None:
    backend = HostBackend(total_frames=10 * AREA, slack_frames=AREA, tmem_max_frames=0, spin_ns=0)
    specs = [spec("vm0", credit=1), spec("vm1")]
    guests = [GuestDouble(backend.open(DomId(i), specs[i])) for i in (0, 1)]
    held: list[list[int]] = [[], []]
    for step, who, amount in steps:
        guest = guests[who]
        if step == "grow":
            guest.grow(amount + 1)
        elif step == "release":
            guest.send(lib.MC_OP_RELEASE, amount + 1)
        elif step == "alloc":
            frame = guest.alloc(9)
            if frame >= 0:
                held[who].append(frame)
        elif step == "free" and held[who]:
            assert guest.free(held[who].pop(), 9) == 0
        elif step == "target":
            backend.set_target(DomId(who), amount * AREA)
        elif step == "reopen":
            close_domain(backend, DomId(who))
            guest.close()
            held[who].clear()
            guests[who] = GuestDouble(backend.open(DomId(who), specs[who]))
        backend.validate()
        snapshot = backend.snapshot()
        assert ledger(snapshot) == snapshot.total_frames
        for domain, frames in zip(snapshot.domains, held, strict=True):
            assert len(frames) * AREA <= domain.current_frames
    for guest in guests:
        guest.close()
    backend.stop()


def test_lowering_a_target_of_what_was_never_granted_wakes_nobody(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", maxmem=14, boot=2)))
    control = backend._host.domains[0].control
    bells = [control.credit_bell, control.config_bell, control.guest_bell]
    backend.set_target(DomId(0), 2 * AREA)
    assert [control.credit_bell, control.config_bell, control.guest_bell] == bells
    vm1 = backend.snapshot().domains[0]
    assert vm1.reached_ns >= vm1.set_ns > 0
    assert (vm1.target_frames, vm1.shrunk_frames) == (2 * AREA, 0)
    guest.close()


def test_who_has_most_to_spare_and_cannot_give_hides_nobody(backend: HostBackend) -> None:
    """The driver of a split mechanism gives by its own hand only."""
    split = replace(spec("split", maxmem=8, boot=8), mechanism="cmm", options={"design": 0})
    guests = [
        GuestDouble(backend.open(DomId(0), split)),
        GuestDouble(backend.open(DomId(1), spec("donor", maxmem=6, boot=6))),
        GuestDouble(backend.open(DomId(2), spec("receiver", maxmem=1))),
    ]
    assert guests[2].grow() == (1, lib.MC_PATH_TRANSFER)
    now = settle(backend, lambda s: s.domains[1].current_frames == 5 * AREA)
    assert now.domains[0].current_frames == 8 * AREA
    for guest in guests:
        guest.close()


@pytest.fixture
def huge_backend() -> Iterator[HostBackend]:
    """A host where a touch gives a page of 2 MiB: eight areas, one of them slack."""
    try:
        mount = HugeMount().__enter__()
    except OSError:
        pytest.skip("a tmpfs with huge=always needs CAP_SYS_ADMIN")
    made = HostBackend(
        total_frames=8 * AREA, slack_frames=AREA, spin_ns=0, tmem_max_frames=0, backing="2m",
        huge_dir=mount.directory,
    )  # fmt: skip
    yield made
    made.validate()
    made.stop()
    mount.__exit__()


def test_where_a_touch_gives_2_mib_an_area_is_granted_without_its_page(
    huge_backend: HostBackend,
) -> None:
    guest = GuestDouble(huge_backend.open(DomId(0), spec("vm1")))
    assert guest.grow() == (1, lib.MC_PATH_RING)  # nothing was ready, nobody populated it
    assert huge_backend.snapshot().domains[0].current_frames == AREA
    frame = guest.alloc(9)
    guest.bytes_of(frame)[:1] = b"x"
    assert huge_backend.snapshot().domains[0].resident_frames >= AREA
    guest.close()


def test_without_a_page_as_well_memory_comes_from_a_donor(huge_backend: HostBackend) -> None:
    donor = GuestDouble(huge_backend.open(DomId(0), spec("donor", maxmem=7, boot=7)))
    receiver = GuestDouble(huge_backend.open(DomId(1), spec("receiver")))
    assert receiver.grow() == (1, lib.MC_PATH_TRANSFER)
    settle(huge_backend, lambda s: s.domains[0].resident_frames <= 6 * AREA)
    donor.close()
    receiver.close()
