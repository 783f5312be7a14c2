"""Goal: `balloon` does what virtio-balloon does, and no array a guest sends does harm.

Method: a domain attached in this process with the real driver; the bare ABI for what a driver would
not send. Bounds: words of 64 bits, 30 steps in any order. The kit has what every mechanism must do.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from backend_steps import AREA, WAIT_S, close_domain, ledger, settle
from guest_double import GuestDouble
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.conformance import is_dma_safe
from backend.host import HostBackend
from frontend._guest import ffi, lib
from frontend.domain import Domain, Handles
from hypervisor.public.backend import DomainHandles, DomainSpec
from hypervisor.public.errors import NoMemory, Status
from hypervisor.public.messages import VERSION, Attached
from hypervisor.public.units import FRAME_BYTES, DomId

INFLATE, DEFLATE, REPORT = 32, 33, 34
ARRAY_OFFSET = 2048
VM = DomId(0)


def spec(maxmem: int = 8, boot: int = 8, target: int | None = None, **options: int) -> DomainSpec:
    wanted = boot if target is None else target
    return DomainSpec(
        "vm", maxmem * AREA, boot * AREA, wanted * AREA, mechanism="balloon", options=options
    )


@contextmanager
def attached(handles: DomainHandles, domid: DomId = VM) -> Iterator[Domain]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds = Handles(*(os.dup(fd) for fd in (handles.ram_fd, handles.meta_fd, handles.bell_fd)))
    sizes = handles.ram_bytes, handles.meta_bytes, handles.spin_ns
    with ours, Domain(Attached(VERSION, domid, "vm", *sizes), fds, theirs) as domain:
        yield domain


def wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.002)


def touch(domain: Domain, frames: Any) -> None:
    for frame in frames:
        domain.memory[frame * FRAME_BYTES] = 1 + frame % 255


def resize(backend: HostBackend, frames: int) -> tuple[str, str, int]:
    backend.set_target(VM, frames)
    settled = backend.settle(VM, WAIT_S)
    return settled.state, settled.why, settled.plugged_frames


@pytest.mark.parametrize("merge", [0, 1])
def test_a_target_is_reached_to_the_frame(backend: HostBackend, merge: int) -> None:
    with attached(backend.open(VM, spec(merge=merge))) as domain:
        kept = domain.alloc_many(1000)
        others = domain.alloc_many(8 * AREA - 1100)
        touch(domain, kept)
        touch(domain, others)
        domain.free_many(others)
        domain.drain()
        assert resize(backend, 1501) == ("reached", "", 1501)
        assert backend.snapshot().domains[0].resident_frames <= 1501
        assert all(domain.memory[f * FRAME_BYTES] == 1 + f % 255 for f in kept)
        assert backend.snapshot().free_frames == 16 * AREA - 1501
        assert resize(backend, 8 * AREA) == ("reached", "", 8 * AREA)
        got = domain.alloc_many(8 * AREA - 1000)
        fresh = set(got) - set(others)
        assert all(domain.memory[f * FRAME_BYTES] == 0 for f in fresh)


def test_deflating_brings_no_page_before_the_touch(backend: HostBackend) -> None:
    with attached(backend.open(VM, spec())) as domain:
        assert resize(backend, AREA)[0] == "reached"
        assert resize(backend, 8 * AREA)[0] == "reached"
        before = backend.snapshot().domains[0]
        assert (before.current_frames, before.resident_frames) == (8 * AREA, 0)
        touch(domain, domain.alloc_many(700))
        assert backend.snapshot().domains[0].resident_frames == 700


def test_a_balloon_that_finds_no_frames_goes_on_when_some_are_freed(backend: HostBackend) -> None:
    with attached(backend.open(VM, spec())) as domain:
        held = domain.alloc_many(6 * AREA)
        state, why, plugged = resize(backend, 2 * AREA)
        assert (state, why) == ("partial", "in use")
        assert 6 * AREA <= plugged <= 6 * AREA + 64
        domain.free_many(held)
        domain.drain()
        wait(lambda: backend.settle(VM, WAIT_S).state == "reached")


def test_a_domain_begins_with_its_balloon_inflated_by_what_it_does_not_boot_with() -> None:
    backend = HostBackend(total_frames=6 * AREA, slack_frames=0, tmem_max_frames=0, spin_ns=0)
    other = DomainSpec("other", 4 * AREA, 4 * AREA, 4 * AREA)
    guest = GuestDouble(backend.open(DomId(1), other))
    for _ in range(4):
        guest.alloc(9)
    with attached(backend.open(VM, spec(maxmem=8, boot=1, target=2))) as domain:
        assert backend.settle(VM, WAIT_S).state == "reached"
        assert backend.snapshot().free_frames == 0
        with pytest.raises(NoMemory):
            domain.alloc_many(2 * AREA + 1)
        assert resize(backend, 3 * AREA) == ("partial", "no memory", 2 * AREA)
        close_domain(backend, DomId(1))
        guest.close()
        wait(lambda: backend.settle(VM, WAIT_S).state == "reached")
        assert resize(backend, 6 * AREA)[0] == "reached"
        touch(domain, domain.alloc_many(6 * AREA))
        assert backend.snapshot().domains[0].resident_frames == 6 * AREA
    backend.validate()
    backend.stop()


def test_it_takes_from_a_donor_up_to_its_target() -> None:
    backend = HostBackend(total_frames=8 * AREA, slack_frames=AREA, tmem_max_frames=0, spin_ns=0)
    donor = GuestDouble(backend.open(DomId(1), DomainSpec("d", 4 * AREA, 4 * AREA, 4 * AREA)))
    with attached(backend.open(VM, spec(maxmem=8, boot=1))):
        assert resize(backend, 5 * AREA)[0] == "reached"
    assert backend.snapshot().domains[1].current_frames < 4 * AREA
    backend.validate()
    donor.close()
    backend.stop()


def test_without_deflate_on_oom_the_target_is_the_limit(backend: HostBackend) -> None:
    with attached(backend.open(VM, spec(boot=2, target=2))) as domain:
        with pytest.raises(NoMemory):
            domain.alloc_many(2 * AREA + 1)
        assert backend.settle(VM, WAIT_S).plugged_frames == 2 * AREA


def test_an_allocation_that_finds_nothing_deflates(backend: HostBackend) -> None:
    with attached(backend.open(VM, spec(boot=2, deflate_on_oom=1))) as domain:
        assert backend.settle(VM, WAIT_S).state == "reached"
        held = domain.alloc_many(2 * AREA + 1)
        settled = backend.settle(VM, WAIT_S)
        assert (settled.state, settled.why) == ("partial", "in use")
        assert settled.plugged_frames == 2 * AREA + 256
        domain.free_many(held)
        domain.drain()
        time.sleep(0.3)  # longer than a balloon without free frames would wait
        assert backend.settle(VM, WAIT_S).plugged_frames == 2 * AREA + 256
        assert resize(backend, 2 * AREA)[0] == "reached"  # it grows again when it is asked anew


def test_it_deflates_on_oom_only_into_free_memory() -> None:
    backend = HostBackend(total_frames=6 * AREA, slack_frames=AREA, tmem_max_frames=0, spin_ns=0)
    donor = GuestDouble(backend.open(DomId(1), DomainSpec("d", 2 * AREA, 2 * AREA, 2 * AREA)))
    with attached(backend.open(VM, spec(boot=2, deflate_on_oom=1))) as domain:
        with pytest.raises(NoMemory):
            domain.alloc_many(3 * AREA + 1)
        assert backend.snapshot().domains[0].current_frames == 3 * AREA
        assert backend.snapshot().domains[1].current_frames == 2 * AREA
        assert backend.snapshot().free_frames == AREA
    donor.close()
    backend.stop()


def test_a_guest_that_touches_its_balloon_has_it_punched_again(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM, spec(maxmem=4, boot=2, target=2)))
    mine = guest.alloc()
    guest.bytes_of(mine)[0:4] = b"mine"
    for frame in range(2 * AREA + 5, 4 * AREA, 3):
        guest.bytes_of(frame)[0:1] = b"x"
    for frame in range(2 * AREA):
        guest.bytes_of(frame)[1:2] = b"y"
    now = settle(backend, lambda s: s.domains[0].resident_frames <= 2 * AREA)
    assert now.domains[0].resident_frames == 2 * AREA
    assert guest.control.config[2] >= 1
    assert guest.bytes_of(mine)[0:4] == b"myne"
    guest.close()


def test_a_large_balloon_is_swept_to_its_end(backend: HostBackend) -> None:
    areas = 2048
    guest = GuestDouble(backend.open(VM, spec(maxmem=areas, boot=1, target=1)))
    for frame in range(AREA):
        guest.bytes_of(frame)[0:1] = b"y"
    for area in range(1, areas):
        guest.bytes_of(area * AREA + area % AREA)[0:1] = b"x"
    now = settle(backend, lambda s: s.domains[0].resident_frames <= AREA)
    assert now.domains[0].resident_frames == AREA
    assert guest.control.config[2] >= 1
    guest.close()


def test_its_statistics_are_virtio_s(backend: HostBackend) -> None:
    handles = backend.open(VM, spec(boot=4, stats_ms=5))
    with attached(handles) as domain:
        domain.report(used_frames=1, faults=3, swap_ins=5, swap_outs=7)
        domain.alloc_many(AREA)
        words = GuestDouble(handles)
        driver = words.control.driver
        wait(lambda: driver[2] == 7 * FRAME_BYTES and driver[0] == 4 * AREA)
        wait(lambda: driver[5] <= 3 * AREA * FRAME_BYTES)
        assert (driver[1], driver[3]) == (5 * FRAME_BYTES, 3)
        assert driver[5] > 2 * AREA * FRAME_BYTES
        assert driver[6] == 4 * AREA * FRAME_BYTES
        assert driver[7] >= driver[5]
        words.close()


def test_free_memory_is_reported_and_stays_the_guest_s(backend: HostBackend) -> None:
    handles = backend.open(VM, spec(report_ms=20))
    with attached(handles) as domain:
        words = GuestDouble(handles)
        config = words.control.config
        for _ in range(3):
            frames = domain.alloc_many(6 * AREA)
            touch(domain, frames)
            held = backend.snapshot().domains[0]
            assert (held.resident_frames, held.current_frames) == (6 * AREA, 8 * AREA)
            domain.free_many(frames)
            domain.drain()
            wait(lambda: backend.snapshot().domains[0].resident_frames == 0)
            assert backend.snapshot().domains[0].current_frames == 8 * AREA
        before = config[1]
        assert before >= 3 * 6 * AREA
        time.sleep(0.1)
        assert config[1] == before, "what was not used since is reported once"
        words.close()


def test_memory_pinned_for_dma_is_neither_inflated_nor_reported(backend: HostBackend) -> None:
    """The original is not safe: what it gives back has no page until the guest touches it."""
    assert not is_dma_safe("balloon")
    handles = backend.open(VM, spec(report_ms=20))
    with attached(handles) as domain:
        frame = domain.alloc()
        backend.pin_dma(VM, frame, 1)
        device = domain.view(frame)
        domain.free(frame)
        domain.drain()
        device[:] = b"\xd5" * FRAME_BYTES
        wait(lambda: backend.snapshot().domains[0].refused_dma > 0)  # reported
        state, why, plugged = resize(backend, 0)
        assert (state, why, plugged) == ("partial", "pinned", 1)
        assert device[:] == b"\xd5" * FRAME_BYTES
        backend.unpin_dma(VM, frame, 1)
        wait(lambda: backend.settle(VM, WAIT_S).state == "reached")
        assert backend.snapshot().domains[0].resident_frames == 0


def test_a_reboot_begins_with_a_new_balloon_and_the_pins_of_old(backend: HostBackend) -> None:
    handles = backend.open(VM, spec(boot=2, target=6))
    with attached(handles) as domain:
        assert backend.settle(VM, WAIT_S).state == "reached"
        held = domain.alloc_many(6 * AREA)
        beyond = max(held)
        backend.pin_dma(VM, beyond, 1)
        domain.free_many(held)
        domain.drain()
        assert resize(backend, AREA + 7)[0] == "reached"
    backend.reboot(VM)
    backend.validate()
    assert backend.snapshot().domains[0].current_frames == 3 * AREA
    with attached(handles) as domain:
        assert resize(backend, 4 * AREA)[0] == "reached"
        assert len(domain.alloc_many(4 * AREA)) == 4 * AREA
        backend.validate()


def send(guest: GuestDouble, op: int, frames: list[int], count: int = -1) -> tuple[int, list[int]]:
    array = ffi.cast("uint32_t *", guest.meta + ARRAY_OFFSET)
    for index, frame in enumerate(frames[:256]):
        array[index] = frame
    return guest.send(op, len(frames) if count < 0 else count)


@pytest.mark.parametrize(
    ("op", "frames", "count", "status"),
    [
        (INFLATE, [], 0, Status.EINDEX),
        (INFLATE, [], 257, Status.EINDEX),
        (DEFLATE, [], 2**64 - 1, Status.EINDEX),
        (REPORT, [], 33, Status.EINDEX),
        (35, [], 1, Status.EOP),
        (1, [], 1, Status.EOP),
        (INFLATE, [8 * AREA], 1, 0),
        (INFLATE, [2**32 - 1] * 9, 9, 0),
        (INFLATE, [5, 5], 2, 2),
        (DEFLATE, [8 * AREA, 2**32 - 1], 2, Status.ENOMEM),
        (DEFLATE, [7], 1, 1),
        (REPORT, [3], 1, 0),
        (REPORT, [AREA, 2**32 - AREA], 2, 1),
    ],
)
def test_a_bad_array_is_counted_and_does_nothing(
    backend: HostBackend, op: int, frames: list[int], count: int, status: int
) -> None:
    guest = GuestDouble(backend.open(VM, spec(deflate_on_oom=1)))
    assert send(guest, op, frames, count)[0] == status
    assert backend.snapshot().domains[0].bad_requests >= 1
    backend.validate()
    assert backend.snapshot().domains[0].current_frames >= 8 * AREA - 1
    guest.close()


def test_no_array_is_punched_while_others_are_served(backend: HostBackend) -> None:
    """A guest can make each punch wait for its file: the thread that answers must not be in one."""
    guest = GuestDouble(backend.open(VM, spec()))
    front, record = guest._fronts[0], ffi.new("struct mc_record *")
    ffi.cast("uint32_t *", guest.meta + ARRAY_OFFSET)[0] = guest.alloc()
    for op in (INFLATE, lib.MC_OP_NOP):
        request = ffi.new("struct mc_record *", {"op": op, "id": op, "arg": [1]})
        assert lib.mc_front_push(front, request) == 0
    lib.mc_front_publish(front)
    lib.mc_eventfd_ring(guest.handles.bell_fd)
    order: list[int] = []
    until = time.monotonic() + WAIT_S
    while len(order) < 2:
        assert time.monotonic() < until
        if lib.mc_front_pop(front, record) > 0:
            order.append(record.id)
    assert order == [lib.MC_OP_NOP, INFLATE]
    guest.close()


def test_the_answer_names_what_was_not_done(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(VM, spec(deflate_on_oom=1)))
    backend.pin_dma(VM, 70, 1)
    done, words = send(guest, INFLATE, list(range(256)))
    assert (done, words[1:]) == (255, [0, 1 << 6, 0, 0])
    assert backend.snapshot().domains[0].refused_dma == 1
    assert backend.snapshot().domains[0].bad_requests == 0
    done, words = send(guest, DEFLATE, list(range(256)))
    assert (done, words[1:]) == (256, [0] * 4)
    guest.close()


def test_a_guest_that_dies_with_an_array_on_its_way_gives_all_back(backend: HostBackend) -> None:
    for _ in range(20):
        guest = GuestDouble(backend.open(VM, spec()))
        for frame in range(4 * AREA):
            guest.bytes_of(frame)[0:1] = b"x"
        array = ffi.cast("uint32_t *", guest.meta + ARRAY_OFFSET)
        for index in range(256):
            array[index] = 2 * index
        record = ffi.new("struct mc_record *", {"op": INFLATE, "arg": [256, 0, 0, 0, 0]})
        assert lib.mc_front_push(guest._fronts[0], record) == 0
        lib.mc_front_publish(guest._fronts[0])
        lib.mc_eventfd_ring(guest.handles.bell_fd)
        close_domain(backend, VM)
        backend.validate()
        assert backend.snapshot().free_frames == 16 * AREA
        guest.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([INFLATE, DEFLATE, REPORT, 0, 1]),
            st.lists(st.integers(0, 5 * AREA), max_size=40),
        ),
        max_size=30,
    )
)
def test_any_order_of_arrays_conserves_the_host(steps: list[tuple[int, list[int]]]) -> None:
    backend = HostBackend(
        total_frames=6 * AREA, slack_frames=AREA, tmem_max_frames=0, spin_ns=0, error_budget=10**6
    )
    guest = GuestDouble(backend.open(VM, spec(maxmem=5, boot=3, deflate_on_oom=1)))
    inflated = set(range(3 * AREA, 5 * AREA))
    for op, frames in steps:
        if op > 1:
            send(guest, op, [f * AREA for f in frames[:32]] if op == REPORT else frames)
        elif frames:
            backend.set_target(VM, frames[0] if op else 0)
        if op == INFLATE:
            inflated |= {f for f in frames if f < 5 * AREA}
        elif op == DEFLATE:
            inflated -= set(frames)
        backend.validate()
        snapshot = backend.snapshot()
        assert ledger(snapshot) == snapshot.total_frames
        assert snapshot.domains[0].current_frames == 5 * AREA - len(inflated)
    guest.close()
    backend.stop()


def test_allocating_while_it_is_resized_loses_nothing(backend: HostBackend) -> None:
    with attached(backend.open(VM, spec(report_ms=5, deflate_on_oom=1))) as domain:
        for turn in range(40):
            backend.set_target(VM, (2 + turn * 5 % 7) * AREA - turn)
            frames = domain.alloc_many(1500)
            assert len(set(frames)) == 1500
            touch(domain, frames)
            assert all(domain.memory[f * FRAME_BYTES] == 1 + f % 255 for f in frames)
            domain.free_many(frames)
            backend.validate()
        domain.drain()
        assert resize(backend, 3 * AREA) == ("reached", "", 3 * AREA)
        assert backend.snapshot().domains[0].resident_frames <= 3 * AREA


def test_the_host_gets_its_memory_back_from_a_flood_of_arrays(backend: HostBackend) -> None:
    """Arrays while an earlier one is kept are refused; a neighbour is served meanwhile."""
    flood = GuestDouble(backend.open(VM, spec(maxmem=4, boot=4)))
    other = GuestDouble(
        backend.open(DomId(1), DomainSpec("o", 4 * AREA, 0, 4 * AREA, credit_areas=0))
    )
    array = ffi.cast("uint32_t *", flood.meta + ARRAY_OFFSET)
    for index in range(256):
        array[index] = 2 * index
    record = ffi.new("struct mc_record *", {"op": INFLATE, "arg": [256, 0, 0, 0, 0]})
    for _ in range(30):
        assert lib.mc_front_push(flood._fronts[0], record) == 0
    lib.mc_front_publish(flood._fronts[0])
    lib.mc_eventfd_ring(flood.handles.bell_fd)
    assert other.grow(4)[0] == 4
    settle(backend, lambda s: s.domains[0].current_frames == 4 * AREA - 256)
    assert backend.broken() == []
    backend.validate()
    for guest in (flood, other):
        guest.close()


def test_a_balloon_of_areas_holds_whole_ones_and_gives_them_back(backend: HostBackend) -> None:
    with attached(backend.open(VM, spec(boot=6, target=6, huge=1))) as domain:
        assert backend.settle(VM, WAIT_S).state == "reached"
        held = domain.alloc_many(AREA // 2)
        touch(domain, held)
        assert resize(backend, 2 * AREA + 1) == ("reached", "", 3 * AREA)  # the next whole area
        assert backend.snapshot().domains[0].resident_frames <= 3 * AREA
        assert all(domain.memory[f * FRAME_BYTES] == 1 + f % 255 for f in held)
        assert resize(backend, 8 * AREA) == ("reached", "", 8 * AREA)
        others = domain.alloc_many(8 * AREA - AREA // 2)
        assert all(domain.memory[f * FRAME_BYTES] == 0 for f in others)
    backend.validate()


def test_a_balloon_of_areas_leaves_what_is_pinned(backend: HostBackend) -> None:
    with attached(backend.open(VM, spec(boot=4, target=4, maxmem=4, huge=1))) as domain:
        (frame,) = domain.alloc_many(1)
        backend.pin_dma(VM, frame, 1)
        domain.free_many([frame])
        domain.drain()
        state, _, plugged = resize(backend, 0)
        assert (state, plugged) == ("partial", AREA)
        backend.validate()


@pytest.mark.parametrize("array", [[1], [AREA + 1], [8 * AREA], [1 << 31]])
def test_an_entry_that_names_no_area_is_not_done(backend: HostBackend, array: list[int]) -> None:
    guest = GuestDouble(backend.open(VM, spec(huge=1)))
    words = ffi.cast("uint32_t *", guest.meta + ARRAY_OFFSET)
    for index, frame in enumerate(array):
        words[index] = frame
    status, args = guest.send(INFLATE, len(array))
    assert (status, args[1]) == (0, 1)
    assert backend.snapshot().domains[0].current_frames == 8 * AREA
    guest.close()
