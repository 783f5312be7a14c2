"""One machine looked at and led, whatever becomes of its QEMU and its guest."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fake_qemu
import pytest
from fake_qemu import MIB, FakeQemu

from memcoord.testbed.machines.actuation import Actuator, Strategy
from memcoord.testbed.machines.observation import Guest, Observer
from memcoord.testbed.machines.pilot import Pilot
from memcoord.testbed.machines.qmp import Monitor, QmpTrouble

NEVER_S = 0.2
LOOKS_MAX = 200


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@asynccontextmanager
async def piloted(
    tmp_path: Path, strategy: Strategy = "balloon", *, call_s: float = 30.0
) -> AsyncIterator[tuple[FakeQemu, Pilot]]:
    plugs = 2 if strategy == "virtio-mem" else 0
    async with FakeQemu(tmp_path / "qmp", plugs=plugs) as qemu:
        monitor = Monitor(qemu.path, "vm", call_s=call_s)
        most = qemu.base + plugs * 128 * MIB
        actuator = Actuator(
            strategy,
            base_bytes=qemu.base,
            floor_bytes=64 * MIB,
            plugged_max=(128 * MIB,) * plugs,
        )
        pilot = Pilot(
            qemu, monitor, Observer(qemu.base, most), actuator, has_balloon=True, plugs=plugs
        )
        try:
            yield qemu, pilot
        finally:
            await monitor.close()


async def reach(pilot: Pilot, goal: int) -> None:
    for _ in range(LOOKS_MAX):
        await pilot.look()
        if pilot.standing(goal).state == "reached":
            return
        await pilot.lead(goal)
        await asyncio.sleep(0.01)
    raise AssertionError(pilot.seen)


@pytest.mark.parametrize("strategy", ["balloon", "virtio-mem"])
def test_a_machine_comes_to_its_target_by_steps(tmp_path: Path, strategy: Strategy) -> None:
    async def work() -> None:
        async with piloted(tmp_path, strategy) as (qemu, pilot):
            qemu.step_bytes = 16 * MIB
            goal = 256 * MIB if strategy == "balloon" else qemu.base + 100 * MIB
            await reach(pilot, goal)
            assert pilot.seen.current_bytes == goal
            assert pilot.seen.is_fresh
            orders = [one for one in qemu.calls if one["execute"] in ("balloon", "qom-set")]
            assert len(orders) < LOOKS_MAX / 2  # idempotent: not one for each look
            if strategy == "virtio-mem":
                assert qemu.plugged == [50 * MIB, 50 * MIB]

    run(work())


def test_a_stopped_qemu_is_silent_and_found_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with piloted(tmp_path, call_s=NEVER_S) as (qemu, pilot):
            assert (await pilot.look()).guest is Guest.RUNNING
            qemu.faults["query-status"] = fake_qemu.never
            silent = await pilot.look()
            assert silent.guest is Guest.SILENT
            assert math.isnan(silent.current_bytes)
            assert silent.resident_bytes == qemu.resident  # the kernel's word, not the guest's
            assert pilot.trouble is not None
            assert pilot.trouble.trouble is QmpTrouble.SILENT
            qemu.faults.clear()
            assert (await pilot.look()).guest is Guest.RUNNING
            assert qemu.connections == 2

    run(work())


@pytest.mark.parametrize("fault", [fake_qemu.hang_up, fake_qemu.half, fake_qemu.garbage])
def test_a_lost_connection_in_the_middle_of_a_look_is_made_anew(
    tmp_path: Path, fault: fake_qemu.Fault
) -> None:
    async def work() -> None:
        async with piloted(tmp_path) as (qemu, pilot):
            await reach(pilot, 256 * MIB)
            qemu.faults["query-balloon"] = fault
            assert (await pilot.look()).guest is Guest.SILENT
            qemu.faults.clear()
            qemu.kept = qemu.kept_target = qemu.base  # somebody else had his hands in it
            await reach(pilot, 256 * MIB)

    run(work())


def test_nonsense_about_one_thing_leaves_the_rest_known(tmp_path: Path) -> None:
    async def work() -> None:
        async with piloted(tmp_path) as (qemu, pilot):
            await pilot.look()
            qemu.faults["query-balloon"] = fake_qemu.answers({"actual": "much"})
            seen = await pilot.look()
            assert seen.guest is Guest.RUNNING
            assert math.isnan(seen.current_bytes)
            assert seen.is_fresh
            assert qemu.connections == 1

    run(work())


def test_paused_moved_crashed_and_rebooted_are_told_apart(tmp_path: Path) -> None:
    async def work() -> None:
        async with piloted(tmp_path) as (qemu, pilot):
            await pilot.look()
            for status, guest in (("paused", Guest.PAUSED), ("postmigrate", Guest.MOVED)):
                qemu.status = status
                assert (await pilot.look()).guest is guest
                before = len(qemu.calls)
                await pilot.lead(128 * MIB)
                assert len(qemu.calls) == before
            qemu.status = "running"
            await qemu.say("GUEST_PANICKED", {"action": "run"})
            await pilot.look()
            assert (await pilot.look()).guest is Guest.CRASHED
            await qemu.say("RESET", {"guest": True})
            await pilot.look()
            again = await pilot.look()
            assert (again.guest, again.reboots) == (Guest.RUNNING, 1)

    run(work())


def test_statistics_that_stop_are_stale_while_all_else_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with piloted(tmp_path) as (qemu, pilot):
            qemu.updated = 1000
            seen = await pilot.look()
            assert seen.guest is Guest.RUNNING
            assert not seen.is_fresh
            assert seen.total_bytes == 400 * MIB
            await reach(pilot, 256 * MIB)

    run(work())


def test_orders_that_are_refused_are_counted_and_given_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with piloted(tmp_path) as (qemu, pilot):
            await pilot.look()
            qemu.faults["balloon"] = fake_qemu.refuses("not now")
            await pilot.lead(500 * MIB)
            assert pilot.refusals == 1
            assert pilot.trouble is not None
            assert "not now" in str(pilot.trouble)
            qemu.faults.clear()
            await reach(pilot, 256 * MIB)

    run(work())


def test_an_ended_qemu_is_asked_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with piloted(tmp_path) as (qemu, pilot):
            await pilot.look()
            before = len(qemu.calls)
            qemu.returncode = -9
            assert (await pilot.look()).guest is Guest.ENDED
            await pilot.lead(128 * MIB)
            assert len(qemu.calls) == before

    run(work())
