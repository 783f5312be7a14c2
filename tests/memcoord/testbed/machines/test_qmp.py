"""Calls over QMP to a QEMU that answers, and to one that does anything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fake_qemu
import pytest
from fake_qemu import MIB, FakeQemu, Fault

from memcoord.testbed.machines.qmp import EVENTS_MAX, Monitor, QmpFailed, QmpTrouble

#: Long enough for any answer that comes, short for one that does not.
CALL_S, NEVER_S = 30.0, 0.2


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@asynccontextmanager
async def monitored(
    tmp_path: Path, call_s: float = CALL_S, plugs: int = 1
) -> AsyncIterator[tuple[FakeQemu, Monitor]]:
    async with FakeQemu(tmp_path / "qmp", plugs=plugs) as qemu:
        monitor = Monitor(qemu.path, "vm", call_s=call_s)
        await monitor.connect()
        try:
            yield qemu, monitor
        finally:
            await monitor.close()


async def failure(call: Awaitable[object]) -> QmpFailed:
    with pytest.raises(QmpFailed) as caught:
        await call
    return caught.value


def test_every_call_that_a_backend_needs(tmp_path: Path) -> None:
    async def work() -> None:
        async with monitored(tmp_path) as (qemu, monitor):
            assert await monitor.status() == "running"
            await monitor.set_balloon(256 * MIB)
            assert await monitor.balloon_size() == 256 * MIB
            await monitor.set_plugged(0, 128 * MIB)
            assert await monitor.plugged_size(0) == 128 * MIB
            assert (await monitor.statistics())[0] == 0
            await monitor.poll_statistics(1)
            updated, values = await monitor.statistics()
            assert updated > 0
            assert values["stat-total-memory"] == 400 * MIB
            assert qemu.calls[0] == {"execute": "qmp_capabilities"}

    run(work())


def test_what_qemu_refuses_is_said_in_its_words_and_the_connection_stays(tmp_path: Path) -> None:
    async def work() -> None:
        async with monitored(tmp_path) as (qemu, monitor):
            failed = await failure(monitor.set_plugged(0, 3))
            assert failed.trouble is QmpTrouble.REFUSED
            assert "block-size" in str(failed)
            assert await monitor.status() == "running"
            assert qemu.connections == 1

    run(work())


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [
        (fake_qemu.hang_up, QmpTrouble.GONE),
        (fake_qemu.half, QmpTrouble.GONE),
        (fake_qemu.garbage, QmpTrouble.GONE),
        (fake_qemu.too_long, QmpTrouble.GONE),
        (fake_qemu.never, QmpTrouble.SILENT),
    ],
)
def test_a_broken_connection_is_told_apart_and_made_anew(
    tmp_path: Path, fault: Fault, trouble: QmpTrouble
) -> None:
    async def work() -> None:
        never = fault is fake_qemu.never
        async with monitored(tmp_path, NEVER_S if never else CALL_S) as (qemu, monitor):
            qemu.faults["query-balloon"] = fault
            failed = await failure(monitor.balloon_size())
            assert failed.trouble is trouble
            assert not monitor.is_connected
            assert (await failure(monitor.status())).trouble is QmpTrouble.GONE
            qemu.faults.clear()
            await monitor.connect()
            assert await monitor.balloon_size() == qemu.base
            assert qemu.connections == 2

    run(work())


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 1.5, "12", [], {}, {"actual": "x"}, {"actual": -5}, {"actual": 1 << 64}],
)
def test_an_answer_of_the_wrong_type_or_size_is_nonsense(tmp_path: Path, value: Any) -> None:
    async def work() -> None:
        async with monitored(tmp_path) as (qemu, monitor):
            qemu.faults["query-balloon"] = fake_qemu.answers(value)
            assert (await failure(monitor.balloon_size())).trouble is QmpTrouble.NONSENSE
            assert await monitor.status() == "running"

    run(work())


def test_statistics_of_wrong_types_are_left_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with monitored(tmp_path) as (qemu, monitor):
            stats = {"stat-total-memory": "all", "stat-swap-in": -1, "stat-major-faults": 3}
            qemu.faults["qom-get"] = fake_qemu.answers({"last-update": 5, "stats": stats})
            assert await monitor.statistics() == (5, {"stat-major-faults": 3})
            qemu.faults["qom-get"] = fake_qemu.answers({"last-update": 5, "stats": None})
            assert (await failure(monitor.statistics())).trouble is QmpTrouble.NONSENSE

    run(work())


def test_nobody_listens_and_a_stopped_qemu_are_told_apart(tmp_path: Path) -> None:
    async def work() -> None:
        monitor = Monitor(tmp_path / "none", "vm")
        assert (await failure(monitor.connect(0.1))).trouble is QmpTrouble.ABSENT
        async with FakeQemu(tmp_path / "qmp") as qemu:
            qemu.greeting = None
            monitor = Monitor(qemu.path, "vm")
            assert (await failure(monitor.connect(0.2))).trouble is QmpTrouble.SILENT

    run(work())


def test_a_socket_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        qemu = FakeQemu(tmp_path / "qmp")
        monitor = Monitor(qemu.path, "vm")
        connecting = asyncio.ensure_future(monitor.connect())
        await asyncio.sleep(0.1)
        assert not connecting.done()
        await qemu.listen()
        await connecting
        assert await monitor.status() == "running"
        await monitor.close()
        await qemu.vanish()

    run(work())


def test_a_flood_of_events_is_bounded_and_delays_no_call(tmp_path: Path) -> None:
    async def work() -> None:
        async with monitored(tmp_path) as (qemu, monitor):
            await qemu.say("BALLOON_CHANGE", {"actual": 1}, times=5000)
            await qemu.say("RESET", {"guest": True})
            assert await monitor.status() == "running"
            until: Callable[[], bool] = lambda: monitor.event_count >= 5001  # noqa: E731
            async with asyncio.timeout(CALL_S):
                while not until():
                    await asyncio.sleep(0.01)
            assert len(monitor.events) == EVENTS_MAX
            assert monitor.events[-1].name == "RESET"
            assert monitor.news.is_set()

    run(work())
