"""Goal: virtio-mem's device answers as the standard says, its driver converges, cheats are seen.

Method: a guest made of the bare ABI asks what a driver would not, checked against a model of the
bitmap; a real guest process with the real driver is resized, filled, starved and rebooted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from backend_steps import AREA, WAIT_S, close_domain
from guest_double import GuestDouble
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend._service import lib as host_lib
from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import BankSpec, DomainSnapshot, DomainSpec
from hypervisor.public.units import DomId
from memcoord.testbed.guests.obedient import GuestProcess

PLUG, UNPLUG, UNPLUG_ALL, STATE, CONFIG = range(lib.MC_OP_VIRTIO_MEM, lib.MC_OP_VIRTIO_MEM + 5)
ACK, NACK, BUSY, ERROR = range(4)
PLUGGED, UNPLUGGED, MIXED = range(3)
VM = DomId(0)
BLOCK = 2 * AREA
FAST = {"watch_ms": 5}


def spec(maxmem: int, boot: int, target: int | None = None, **options: int) -> DomainSpec:
    """A domain, sizes in areas."""
    wanted = boot if target is None else target
    return DomainSpec(
        "vm", maxmem * AREA, boot * AREA, wanted * AREA, 0, mechanism="virtio-mem", options=options
    )


def seen(backend: HostBackend, domid: DomId = VM) -> DomainSnapshot:
    """A domain now, of a host whose accounts are right."""
    backend.validate()
    now = backend.snapshot()
    accounts = now.free_frames + now.installed_frames + now.ready_frames + now.tmem_frames
    assert accounts == now.total_frames
    return next(domain for domain in now.domains if domain.domid == domid)


def wait(backend: HostBackend, condition: Callable[[DomainSnapshot], bool]) -> DomainSnapshot:
    """Wait (bounded) until it holds of the domain."""
    until = time.monotonic() + WAIT_S
    while not condition(seen(backend)):
        assert time.monotonic() < until, seen(backend)
        time.sleep(0.002)
    return seen(backend)


@contextmanager
def host(areas: int = 64, **options: Any) -> Iterator[HostBackend]:
    """A host with two areas of slack."""
    made = HostBackend(
        total_frames=areas * AREA, slack_frames=2 * AREA, spin_ns=0, tmem_max_frames=0, **options
    )
    try:
        yield made
        made.validate()
    finally:
        made.stop()


@contextmanager
def double(backend: HostBackend, wanted: DomainSpec) -> Iterator[GuestDouble]:
    """A guest without a driver."""
    guest = GuestDouble(backend.open(VM, wanted))
    yield guest
    guest.close()


@contextmanager
def process(backend: HostBackend, wanted: DomainSpec) -> Iterator[GuestProcess]:
    """A guest with its driver."""
    guest = GuestProcess(backend.open(VM, wanted), "vm", VM)
    try:
        yield guest
    finally:
        guest.close()


def reach(backend: HostBackend, areas: int) -> DomainSnapshot:
    """Set a target in areas; it must be reached."""
    backend.set_target(VM, areas * AREA)
    settled = backend.settle(VM, WAIT_S)
    assert settled.state == "reached", settled
    return seen(backend)


def claim(guest: GuestDouble, areas: int) -> int:
    """Take whole areas out of use; the first of them."""
    return int(lib.mc_frames_alloc_areas(guest.frames, guest.slot, areas)) // AREA


# The device


def test_blocks_are_plugged_in_runs_up_to_what_is_requested() -> None:
    with host() as backend, double(backend, spec(32, 4)) as guest:
        assert guest.send(CONFIG, 0)[1] == [0, 16, 2, 2, 16]
        assert guest.send(PLUG, 2, 1)[0] == NACK
        backend.set_target(VM, 12 * AREA)
        assert guest.send(PLUG, 5, 5)[0] == NACK
        assert guest.send(PLUG, 5, 4)[0] == ACK
        assert guest.send(CONFIG, 0)[1] == [0, 16, 6, 6, 16]
        assert seen(backend).plugged_frames == 12 * AREA
        assert backend.settle(VM, WAIT_S).state == "reached"
        states = [guest.send(STATE, block, 1)[1][0] for block in range(16)]
        assert states == [PLUGGED] * 2 + [UNPLUGGED] * 3 + [PLUGGED] * 4 + [UNPLUGGED] * 7
        assert guest.send(STATE, 4, 2)[1][0] == MIXED
        assert guest.send(STATE, 9, 7)[1][0] == UNPLUGGED
        assert seen(backend).bad_requests == 0
        # What is plugged is memory at once, and has no pages before it is touched.
        assert seen(backend).resident_frames == 0
        frames = [guest.alloc(9) for _ in range(12)]
        assert sorted(frame // AREA for frame in frames) == [0, 1, 2, 3, *range(10, 18)]
        assert guest.alloc() < 0


def test_only_blocks_the_guest_took_out_of_use_are_unplugged() -> None:
    with host() as backend, double(backend, spec(32, 16)) as guest:
        assert guest.send(UNPLUG, 0, 1)[0] == ERROR  # free, but not claimed
        first = claim(guest, 4)
        assert first % 2 == 0
        assert guest.send(UNPLUG, first // 2, 3)[0] == ERROR  # one of them is not
        assert seen(backend).plugged_frames == 16 * AREA
        assert guest.send(UNPLUG, first // 2, 2)[0] == ACK
        assert guest.send(UNPLUG, first // 2, 1)[0] == ERROR  # it is not plugged any more
        assert guest.send(STATE, first // 2, 2)[1][0] == UNPLUGGED
        assert seen(backend).plugged_frames == 12 * AREA
        assert seen(backend).bad_requests == 3


def test_a_run_is_plugged_again_although_its_punch_is_under_way() -> None:
    with host() as backend, double(backend, spec(32, 16)) as guest:
        first = claim(guest, 8)
        guest.bytes_of(first * AREA)[:] = b"x" * 4096
        assert guest.send(UNPLUG, first // 2, 4)[0] == ACK
        assert guest.send(PLUG, first // 2, 4)[0] == ACK
        assert seen(backend).plugged_frames == 16 * AREA
        assert guest.bytes_of(first * AREA)[:] == bytes(4096)


@pytest.mark.parametrize(
    "request_",
    [
        (PLUG, 16, 1), (PLUG, 15, 2), (PLUG, 3, 0), (PLUG, 2**64 - 1, 2), (PLUG, 3, 2**32 + 1),
        (UNPLUG, 2**63, 2**63), (STATE, 0, 17), (STATE, 0, 2**64 - 1), (CONFIG, 1),
        (CONFIG, 2**32), (PLUG, 1, 1), (UNPLUG, 2, 1),
    ],
)  # fmt: skip
def test_what_is_out_of_range_or_in_the_wrong_state_is_an_error(request_: tuple[int, ...]) -> None:
    with host() as backend, double(backend, spec(32, 4, 32)) as guest:
        assert guest.send(*request_)[0] == ERROR
        assert seen(backend).bad_requests == 1
        assert seen(backend).plugged_frames == 4 * AREA


def test_unplug_all_takes_what_is_not_used_and_sizes_the_usable_region() -> None:
    with host(400) as backend, double(backend, spec(320, 8)) as guest:
        extent = 64  # blocks: twice Linux' 128 MiB
        assert guest.send(CONFIG, 0)[1][1] == 4 + extent
        backend.set_target(VM, 100 * AREA)
        assert guest.send(CONFIG, 0)[1][1] == 50 + extent
        backend.set_target(VM, 0)
        assert guest.send(CONFIG, 0)[1][1] == 50 + extent  # never smaller under a guest
        frame = guest.alloc()
        status, args = guest.send(UNPLUG_ALL)
        assert status == BUSY
        assert args[2] == -lib.MC_ESTATE
        assert guest.free(frame) == 0
        assert lib.mc_slot_drain(guest.frames, guest.slot) == 0
        assert guest.send(UNPLUG_ALL)[0] == ACK
        assert guest.send(CONFIG, 0)[1] == [0, 0, 0, 0, 160]
        assert guest.send(PLUG, 0, 1)[0] == ERROR
        assert seen(backend).plugged_frames == 0
        assert backend.settle(VM, WAIT_S).state == "reached"


def test_a_pinned_block_stays_and_says_why() -> None:
    with host() as backend, double(backend, spec(32, 16)) as guest:
        first = claim(guest, 4)
        backend.pin_dma(VM, (first + 1) * AREA + 7, 1)
        status, args = guest.send(UNPLUG, first // 2, 2)
        assert status == BUSY
        assert args[2] == -lib.MC_EPERM
        assert guest.send(UNPLUG_ALL)[1][2] == -lib.MC_EPERM
        assert seen(backend).refused_dma == 2
        assert guest.send(STATE, first // 2, 1)[1][0] == PLUGGED
        backend.unpin_dma(VM, (first + 1) * AREA + 7, 1)
        assert guest.send(UNPLUG, first // 2, 1)[0] == ACK


def test_a_host_without_memory_is_busy_and_takes_what_others_can_spare() -> None:
    with host(20) as backend, double(backend, spec(32, 4, 32)) as guest:
        donor = DomainSpec("vm1", 12 * AREA, 12 * AREA, 12 * AREA)
        other = GuestDouble(backend.open(DomId(1), donor))
        held = [other.alloc(9) for _ in range(12)]
        status, args = guest.send(PLUG, 2, 2)
        assert status == BUSY
        assert args[2] == -lib.MC_ENOMEM
        assert seen(backend).refused == 1
        for frame in held:
            assert other.free(frame, 9) == 0
        assert guest.send(PLUG, 2, 3)[0] == ACK
        assert seen(backend).plugged_frames == 10 * AREA
        assert seen(backend, DomId(1)).current_frames == 8 * AREA
        other.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    areas=st.integers(1, 3),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["plug", "unplug", "state", "target", "all"]),
            st.integers(0, 9),
            st.integers(0, 4),
        ),
        max_size=25,
    ),
)
def test_any_order_of_requests_is_answered_as_by_a_bitmap(
    areas: int, steps: list[tuple[str, int, int]]
) -> None:
    blocks, requested = 8, 2
    plugged = {0, 1}
    wanted = spec(blocks * areas, 2 * areas, block_areas=areas)
    with host() as backend, double(backend, wanted) as guest:

        def claim_blocks(run: set[int]) -> None:
            for block in run:
                for area in range(block * areas, (block + 1) * areas):
                    guest.frames.areas[area] = guest.word(area) & ~lib.MC_AREA_FREE_MASK | 0x400
                    guest.frames.trees[area // 16].free_frames -= AREA

        for step, first, count in steps:
            run = set(range(first, first + count))
            good = bool(run) and max(run) < blocks and requested > 0
            if step == "target":
                requested = min(first, blocks)
                backend.set_target(VM, requested * areas * AREA)
            elif step == "plug":
                status = guest.send(PLUG, first, count)[0]
                if requested == 0 and not plugged:
                    continue
                if not run or max(run) >= blocks:
                    assert status == ERROR
                elif len(plugged) + count > requested:
                    assert status in (NACK, ERROR)
                else:
                    assert status == (ERROR if run & plugged else ACK)
                plugged |= run if status == ACK else set()
            elif step == "unplug" and good and run <= plugged:
                claim_blocks(run)
                assert guest.send(UNPLUG, first, count)[0] == ACK
                plugged -= run
            elif step == "unplug":
                assert guest.send(UNPLUG, first, count)[0] == ERROR
            elif step == "state" and good:
                state = PLUGGED if run <= plugged else MIXED if run & plugged else UNPLUGGED
                assert guest.send(STATE, first, count)[1][0] == state
            elif step == "all":
                assert guest.send(UNPLUG_ALL)[0] == ACK
                plugged = set()
            assert seen(backend).plugged_frames == len(plugged) * areas * AREA


# Who uses what is unplugged


def test_a_touch_of_unplugged_memory_is_seen_counted_and_undone() -> None:
    with host() as backend, double(backend, spec(32, 4, **FAST)) as guest:
        guest.bytes_of(1)[:] = b"m" * 4096
        time.sleep(0.05)
        assert seen(backend).bad_requests == 0
        guest.bytes_of(9 * AREA + 3)[:] = b"x" * 4096
        guest.bytes_of(20 * AREA)[:] = b"y" * 4096
        wait(backend, lambda vm: vm.bad_requests > 0 and vm.resident_frames == 1)
        assert seen(backend).violations > 0
        assert guest.control.config[2] >= 1
        assert guest.bytes_of(1)[:] == b"m" * 4096  # what is plugged is left alone
        assert seen(backend).plugged_frames == 4 * AREA


def test_memory_beyond_what_was_granted_is_seen_without_a_touch() -> None:
    with host() as backend, double(backend, spec(32, 4, **FAST)) as guest:
        os.posix_fallocate(guest.handles.ram_fd, 16 * AREA * 4096, 5 * AREA * 4096)
        wait(backend, lambda vm: vm.bad_requests > 0 and vm.resident_frames == 0)


def test_a_guest_that_goes_on_is_reported() -> None:
    with host(error_budget=3) as backend, double(backend, spec(32, 4, **FAST)) as guest:
        until = time.monotonic() + WAIT_S
        while not backend.broken():
            assert time.monotonic() < until
            guest.bytes_of(12 * AREA)[:8] = b"anything"
            time.sleep(0.002)
        assert backend.broken() == [(VM, "error budget spent")]


def test_a_guest_that_is_resized_all_the_time_is_never_suspected() -> None:
    wanted = spec(32, 4, watch_ms=1, block_areas=1)
    with host() as backend, process(backend, wanted) as guest:
        for size in (32, 5, 17, 3, 31, 8, 32, 2, 20) * 3:
            backend.set_target(VM, size * AREA)
            guest.take("movable", 300)
            guest.give("movable", 250)
            assert guest.verify() == 0
        assert backend.settle(VM, WAIT_S).state == "reached"
        assert seen(backend).bad_requests == 0


# The driver


def test_used_frames_are_moved_out_of_the_way() -> None:
    with host() as backend, process(backend, spec(40, 4)) as guest:
        reach(backend, 40)
        taken = guest.take("movable", 20 * AREA)
        assert taken == 20 * AREA
        guest.give("movable", 18 * AREA, 1)
        assert guest.take("movable", 16 * AREA) == 16 * AREA
        guest.give("movable", 12 * AREA, 3)  # every third: holes everywhere
        held = len(guest.frames("movable"))
        assert 8 * AREA < held < 14 * AREA
        shrunk = reach(backend, 16)
        assert shrunk.guest_migrated_frames > 0
        assert guest.verify() == 0
        assert len(guest.frames("movable")) == held
        wait(backend, lambda vm: vm.resident_frames <= 16 * AREA)


def test_a_block_with_one_frame_that_cannot_move_stays_until_it_is_freed() -> None:
    with host() as backend, process(backend, spec(32, 4)) as guest:
        reach(backend, 32)
        guest.take("frames", 32 * AREA)
        for _ in range(6):
            guest.give("frames", 1 << 20, 2)
        kept = len(guest.frames("frames"))
        blocks = len({frame // BLOCK for frame in guest.frames("frames")})
        backend.set_target(VM, 2 * AREA)
        settled = backend.settle(VM, WAIT_S)
        assert (settled.state, settled.why) == ("partial", "in use")
        assert settled.plugged_frames >= blocks * BLOCK
        assert guest.verify() == 0
        assert kept == len(guest.frames("frames"))
        guest.give("frames", 1 << 20)
        wait(backend, lambda vm: vm.plugged_frames == 2 * AREA)  # by the retry alone
        assert backend.settle(VM, WAIT_S).state == "reached"


def test_what_the_host_lacks_is_plugged_when_it_comes() -> None:
    with host(34) as backend, process(backend, spec(32, 4)):
        backend.open(DomId(1), DomainSpec("vm1", 12 * AREA, 12 * AREA, 12 * AREA))
        backend._host.domains[1].phase = host_lib.MC_BROKEN  # so that it is no donor
        backend.set_target(VM, 32 * AREA)
        settled = backend.settle(VM, WAIT_S)
        assert (settled.state, settled.why) == ("partial", "no memory")
        assert settled.plugged_frames == 20 * AREA
        close_domain(backend, DomId(1))
        wait(backend, lambda vm: vm.plugged_frames == 32 * AREA)


def test_a_reboot_unplugs_everything_and_offers_it_again() -> None:
    with host(300) as backend, process(backend, spec(256, 4)) as guest:
        reach(backend, 200)
        guest.take("frames", 8 * AREA)
        backend.set_target(VM, 16 * AREA)
        backend.reboot(VM)
        assert seen(backend).plugged_frames == 4 * AREA
        guest.reopen()
        assert backend.settle(VM, WAIT_S).state == "reached"
        assert seen(backend).plugged_frames == 16 * AREA
        assert guest.take("frames", 32 * AREA) == 16 * AREA
        assert guest.dirty() == 0


def test_a_pinned_block_survives_a_reboot_and_is_counted() -> None:
    with host() as backend, process(backend, spec(32, 4, 32)) as guest:
        assert backend.settle(VM, WAIT_S).state == "reached"
        backend.pin_dma(VM, 21 * AREA, 4)
        backend.reboot(VM)
        backend.unpin_dma(VM, 21 * AREA, 4)
        assert seen(backend).plugged_frames == 4 * AREA
        guest.reopen()
        reach(backend, 32)


# One device per bank


def test_each_bank_has_a_device_and_memory_comes_from_its_own() -> None:
    banks = [BankSpec(20 * AREA), BankSpec(20 * AREA), BankSpec(8 * AREA, remote=True)]
    with host(48, banks=banks) as backend, process(backend, spec(32, 4)):
        reach(backend, 24)
        domain = backend._host.domains[0]
        used = [
            {domain.banks[a] for a in half if domain.states[a] == host_lib.MC_A_INSTALLED}
            for half in (range(16), range(16, 32))
        ]
        assert used == [{0}, {1}]
        assert [backend._host.banks[bank].free_frames // AREA for bank in range(3)] == [8, 8, 8]


def test_a_bank_that_has_none_is_the_reason() -> None:
    banks = [BankSpec(40 * AREA), BankSpec(8 * AREA)]
    with host(48, banks=banks) as backend, process(backend, spec(40, 4)):
        backend.set_target(VM, 40 * AREA)
        settled = backend.settle(VM, WAIT_S)
        assert (settled.state, settled.why) == ("partial", "bank")
        assert settled.plugged_frames == 28 * AREA


def test_one_node_takes_from_any_bank() -> None:
    banks = [BankSpec(24 * AREA), BankSpec(24 * AREA)]
    with host(48, banks=banks) as backend, process(backend, spec(40, 4, nodes=1)):
        assert reach(backend, 40).plugged_frames == 40 * AREA


@pytest.mark.parametrize("areas", [1, 9, 33])
def test_what_fills_no_block_is_nobodys(areas: int) -> None:
    with host() as backend, process(backend, spec(areas, 1, block_areas=8)):
        backend.set_target(VM, areas * AREA)
        assert backend.settle(VM, WAIT_S).state == "reached"
        assert seen(backend).plugged_frames == max(areas // 8 * 8, 1) * AREA
