"""A machine attended: what is booked, what the policy is told, what is said, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import fake_qemu
import pytest
from fake_qemu import MIB, FakeQemu

from frontend.domain import Domain
from hypervisor.public.errors import NoMemory, PeerGone
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.testbed.machines.actuation import Actuator
from memcoord.testbed.machines.observation import Observer
from memcoord.testbed.machines.pilot import Pilot
from memcoord.testbed.machines.qmp import Monitor
from memcoord.testbed.stubs.attending import EVENTS, Attendant, Events
from memcoord.testbed.stubs.booking import GROW_AREAS_MAX, Booking

AREA_MIB = 2
LOOKS_MAX = 300


class FakeDomain:
    """A domain of a host that has ``free`` areas for it."""

    alive = True

    def __init__(self, target_mib: int, free_mib: int) -> None:
        self.target_frames = target_mib * MIB // FRAME_BYTES
        self.free, self.held = free_mib // AREA_MIB, set[int]()
        self.reported: dict[str, int] = {}
        self._next = 0

    def set_target(self, mib: int) -> None:
        self.target_frames = mib * MIB // FRAME_BYTES

    def alloc_areas(self, count: int) -> int:
        if not self.free or len(self.held) * AREA_FRAMES >= self.target_frames:
            raise NoMemory("none")
        self.free, self._next = self.free - count, self._next + AREA_FRAMES
        self.held.add(self._next)
        return self._next

    def free_areas(self, frame: int, count: int) -> None:
        self.held.remove(frame)
        self.free += count

    def report(self, **figures: int) -> None:
        self.reported = figures


@asynccontextmanager
async def attended(
    tmp_path: Path, domain: FakeDomain, boot_mib: int = 256
) -> AsyncIterator[tuple[FakeQemu, Attendant]]:
    async with FakeQemu(tmp_path / "qmp") as qemu:
        monitor = Monitor(qemu.path, "vm", call_s=0.3)
        actuator = Actuator("balloon", base_bytes=qemu.base, floor_bytes=64 * MIB)
        observer = Observer(qemu.base, qemu.base)
        pilot = Pilot(qemu, monitor, observer, actuator, has_balloon=True, plugs=0)
        booking = Booking(cast(Domain, domain))
        booking.grow(boot_mib * MIB)
        events = Events(tmp_path / EVENTS, "vm")
        attendant = Attendant(cast(Domain, domain), booking, pilot, events, swap_bytes=512 * MIB)
        attendant.is_booted = True
        try:
            yield qemu, attendant
        finally:
            attendant.close()
            await monitor.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def until(attendant: Attendant, done: Any) -> None:
    for _ in range(LOOKS_MAX):
        await attendant.look()
        if done():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("never")


def said(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / EVENTS
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def test_a_shrinking_machine_keeps_its_frames_until_its_memory_is_really_free(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        domain = FakeDomain(256, free_mib=512)
        async with attended(tmp_path, domain) as (qemu, attendant):
            qemu.resident = 250 * MIB
            await until(attendant, attendant.is_there.is_set)
            domain.set_target(128)
            await until(attendant, lambda: qemu.kept == 128 * MIB)
            for _ in range(3):
                await attendant.look()
            assert len(domain.held) * AREA_MIB == 250  # the guest's memory is still behind it
            qemu.resident = 100 * MIB
            await attendant.look()
            assert len(domain.held) * AREA_MIB == 128

    run(work())


def test_a_machine_grows_only_as_far_as_the_host_gave(tmp_path: Path) -> None:
    async def work() -> None:
        domain = FakeDomain(256, free_mib=300)
        async with attended(tmp_path, domain) as (qemu, attendant):
            qemu.resident = 200 * MIB
            await until(attendant, attendant.is_there.is_set)
            domain.set_target(512)
            await until(attendant, lambda: qemu.kept == 300 * MIB)
            for _ in range(5):
                await attendant.look()
            assert qemu.kept_target == 300 * MIB
            domain.free += 50
            await until(attendant, lambda: qemu.kept == 400 * MIB)

    run(work())


def test_the_guests_words_are_passed_on_and_stale_ones_are_not(tmp_path: Path) -> None:
    async def work() -> None:
        domain = FakeDomain(256, free_mib=256)
        async with attended(tmp_path, domain) as (qemu, attendant):
            qemu.statistics |= {"stat-swap-out": 30 * MIB, "stat-swap-in": 10 * MIB}
            await until(attendant, attendant.is_there.is_set)
            await attendant.look()
            used = 256 - 150
            pages = MIB // FRAME_BYTES
            assert domain.reported["used_frames"] == used * pages
            assert domain.reported["committed_frames"] == (used + 20) * pages
            assert domain.reported["swap_outs"] == 30 * pages
            assert domain.reported["faults"] == 7
            attendant.swapped_bytes = 40.0 * MIB  # the agent knows better
            await attendant.look()
            assert domain.reported["committed_frames"] == (used + 40) * pages
            qemu.status = "paused"
            await attendant.look()
            words = ("used_frames", "committed_frames", "faults", "swap_ins", "swap_outs")
            assert [domain.reported[word] for word in words] == [-1] * 5
            assert domain.reported["stall_ns"] == -1

    run(work())


def test_what_changes_is_said_once(tmp_path: Path) -> None:
    async def work() -> None:
        domain = FakeDomain(256, free_mib=256)
        async with attended(tmp_path, domain) as (qemu, attendant):
            await until(attendant, attendant.is_there.is_set)
            assert said(tmp_path) == []
            qemu.status = "paused"
            for _ in range(3):
                await attendant.look()
            qemu.status = "running"
            qemu.resident = 400 * MIB
            for _ in range(3):
                await attendant.look()
            qemu.faults["query-status"] = fake_qemu.never
            await attendant.look()
        told = [(one["event"], one["now"]) for one in said(tmp_path)]
        assert told[:3] == [("guest", "paused"), ("guest", "running"), ("not-booked", "yes")]
        assert ("guest", "QEMU does not answer") in told
        assert len(told) == len(set(told))

    run(work())


def test_a_domain_that_was_closed_lets_its_machine_have_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        domain = FakeDomain(256, free_mib=256)
        async with attended(tmp_path, domain) as (_, attendant):
            await attendant.look()
            domain.alive = False
            with pytest.raises(PeerGone):
                await attendant.attend()

    run(work())


def test_a_guest_that_never_told_is_unknown_and_not_0(tmp_path: Path) -> None:
    async def work() -> None:
        domain = FakeDomain(256, free_mib=256)
        async with attended(tmp_path, domain) as (qemu, attendant):
            qemu.statistics["stat-total-memory"] = 0
            await attendant.look()
            assert domain.reported["used_frames"] == -1
            assert domain.reported["swap_outs"] == -1

    run(work())


def test_booking_takes_whole_areas_a_bounded_number_at_once() -> None:
    domain = FakeDomain(8192, free_mib=8192)
    booking = Booking(cast(Domain, domain))
    assert booking.grow(4096 * MIB) == GROW_AREAS_MAX * AREA_MIB * MIB
    booking.shrink(MIB)
    assert len(domain.held) == GROW_AREAS_MAX
    booking.shrink(3 * MIB)
    assert len(domain.held) == GROW_AREAS_MAX - 1
    assert booking.grow(1) == 0
