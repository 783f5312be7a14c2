"""Goal: the image boots, its agent reports, and commands run. Method: one real guest in QEMU."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted_guest import LIMIT_S, BootedGuest

from memcoord.testbed.machines.agent import Agent, AgentGone, Report
from memcoord.testbed.machines.image.build import Image
from memcoord.testbed.machines.spec import MachineSpec, Plugged, SwapFile

pytestmark = [pytest.mark.qemu, pytest.mark.process, pytest.mark.timeout(300)]
MIB = 1 << 20


@pytest.fixture(scope="module")
def guest(guest_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedGuest]:
    swap = tmp_path_factory.mktemp("swap") / "disk"
    swap.touch()
    os.truncate(swap, 128 * MIB)
    spec = MachineSpec(
        kernel=guest_image.kernel,
        initrd=guest_image.initrd,
        memory_bytes=192 * MIB,
        nodes=2,
        plugged=tuple(Plugged(max_bytes=128 * MIB, node=node) for node in (0, 1)),
        swap=SwapFile(str(swap)),
    )
    with BootedGuest(spec) as booted:
        yield booted


def test_every_driver_is_there(guest: BootedGuest) -> None:
    found = guest.output("sh", "-c", "for d in /sys/bus/virtio/drivers/*; do ls $d; done; lsmod")
    assert found.count("virtio") >= 5  # serial, balloon, disk and two of memory
    assert b"MEMCOORD-NO" not in guest.machine.console.tail
    assert "pvpanic_pci" in found


def test_it_swaps_to_the_disk_that_is_named(guest: BootedGuest) -> None:
    assert "/dev/vda" in guest.output("cat", "/proc/swaps")


def test_both_nodes_have_memory(guest: BootedGuest) -> None:
    found = guest.output("sh", "-c", "cat /sys/devices/system/node/node*/meminfo | grep MemTotal")
    kib = [int(line.split()[3]) for line in found.splitlines()]
    assert len(kib) == 2
    assert min(kib) > 0


def test_reports_say_what_the_guest_does(guest: BootedGuest) -> None:
    async def next_report(agent: Agent) -> Report:
        before = agent.report
        while agent.report is before or agent.report is None:
            await asyncio.sleep(0.01)
        return agent.report

    before = guest.do(next_report(guest.agent))
    assert before.total_bytes is not None
    assert 0 < before.total_bytes < guest.spec.memory_bytes
    assert before.some_us is not None
    assert before.working_set_bytes is None  # the kernel has no idle bits: unknown, not 0
    guest.output("usemem", "--step", "88", "--most", "176", "--sweeps", "1")
    after = guest.do(next_report(guest.agent))
    assert (after.swap_out_pages or 0) > (before.swap_out_pages or 0)
    assert (after.some_us or 0) > before.some_us
    assert after.uptime_ms > before.uptime_ms


def test_a_command_has_its_words_its_environment_and_its_end(guest: BootedGuest) -> None:
    heard: list[bytes] = []
    words = ["sh", "-c", 'echo "$A" "$0"; kill -9 $$', "a  b\u00e9"]
    done = guest.do(guest.agent.run(words, {"A": "1 2"}, heard.append))
    assert (done.exit, done.signal) == (None, signal.SIGKILL)
    assert done.output.decode() == "1 2 a  b\u00e9\n"
    assert b"".join(heard) == done.output


def test_a_command_that_is_given_up_is_killed(guest: BootedGuest) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(guest.agent.run(["sleep", "6000"]))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while (await guest.agent.run(["pidof", "sleep"])).exit == 0:
            await asyncio.sleep(0.05)

    guest.do(give_up())


def test_a_command_that_writes_without_end_is_cut(guest: BootedGuest) -> None:
    done = guest.do(guest.agent.run(["sh", "-c", "yes | head -c 1000000"]))
    assert done.exit == 0
    assert len(done.output) + done.cut == 1_000_000
    assert done.cut > 0


def test_a_port_that_was_left_is_taken_again(guest: BootedGuest) -> None:
    async def leave_and_come() -> str:
        await guest.agent.close()
        other = Agent()
        await other.open(guest.machine.agent_path, limit_s=LIMIT_S)
        guest.agent = other
        return (await other.run(["echo", "again"])).output.decode()

    assert guest.do(leave_and_come()) == "again\n"


def test_memory_is_behind_what_the_guest_has_used(guest: BootedGuest) -> None:
    assert 0 < guest.machine.resident_bytes("ram0") <= 96 * MIB
    assert guest.machine.resident_bytes("plug1-ram") <= 2 * MIB  # nobody has plugged it


def test_a_guest_that_is_killed_leaves_nothing(guest: BootedGuest) -> None:
    """The last test: the guest is gone after it."""

    async def kill() -> int | None:
        guest.machine.signal(signal.SIGKILL)
        await asyncio.wait_for(guest.machine.ended.wait(), LIMIT_S)
        while not guest.agent.dropped:
            await asyncio.sleep(0.01)
        with pytest.raises(AgentGone):
            await guest.agent.run(["true"])
        return guest.machine.returncode

    pid = guest.machine.pid
    assert guest.do(kill()) == -signal.SIGKILL
    assert not Path(f"/proc/{pid}").exists()
