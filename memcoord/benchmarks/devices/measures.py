"""What is measured on the real devices, each on a guest that has just booted.

Owns: the order of the steps, and what a step shows. Sizes are small because a guest that is
emulated is slow to touch memory; the shape of a curve does not depend on them. Called by ``bench``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from memcoord.benchmarks.devices.guest import LIMIT_S, LOOK_S, MIB, STALL_S, Guest, booted
from memcoord.testbed.machines.command_line import base_part, plugged_part
from memcoord.testbed.machines.qmp import QmpFailed
from memcoord.testbed.machines.spec import (
    Accelerator,
    Balloon,
    Hotplug,
    MachineSpec,
    OnReboot,
    Plugged,
)

Rows = dict[str, dict[str, Any]]
Facts = dict[str, float]
Told = Callable[[str], None]

#: What every guest boots with on each of two nodes, and by how much it is resized. The kernel of a
#: guest adds memory in blocks of 128 MiB; a large block of virtio-mem and a DIMM are one of them.
NODE_MIB, MOVE_MIB, LARGE_MIB = 192, 128, 128
#: A program holds more than is left when all is taken back: no device can have all of it.
HELD_MIB = 300
HELD_S = 10.0
FINEST_MIB = 2
#: A guest that cheats believes to have memory where its device, unplugged, begins: QEMU puts the
#: first one at 4 GiB.
CHEAT_AT_MIB, CHEAT_MIB = 4096, 64
#: Free pages are given back by themselves after seconds; so long they are waited for.
#: The rest of what was freed is in pieces that are too small to be reported.
REPORTING_S, REPORTED = 30.0, 0.8


class Measures:
    """The measurements of one run, into ``rows`` and ``facts``."""

    def __init__(self, kernel: str, initrd: str, accelerator: Accelerator, told: Told) -> None:
        self._files: dict[str, Any] = {
            "kernel": kernel,
            "initrd": initrd,
            "accelerator": accelerator,
        }
        self._told = told
        self.rows: Rows = {}
        self.facts: Facts = {}

    def spec(self, **keys: Any) -> MachineSpec:
        """A guest of two nodes, with other keys as they are given."""
        made = {"memory_bytes": 2 * NODE_MIB * MIB, "nodes": 2, **self._files, **keys}
        return MachineSpec(**made)

    async def all(self) -> None:
        """Everything, in four guests one after another."""
        self._told("balloon, virtio-mem, a DIMM")
        plugged = (
            Plugged(max_bytes=MOVE_MIB * MIB),
            Plugged(max_bytes=LARGE_MIB * MIB, block_bytes=LARGE_MIB * MIB, node=1),
        )
        hotplug = Hotplug(slots=1, max_bytes=LARGE_MIB * MIB)
        async with booted(self.spec(plugged=plugged, hotplug=hotplug)) as guest:
            await self._virtio_mem(guest)
            await self.nodes(guest)
            await self._large_blocks(guest)
            await self._dimm(guest)
        self._told("the balloon alone")
        async with booted(self.spec()) as guest:
            await self._balloon(guest)
        self._told("free page reporting, a reboot")
        spec = self.spec(
            plugged=(Plugged(max_bytes=MOVE_MIB * MIB),),
            balloon=Balloon(free_page_reporting=True),
            on_reboot=OnReboot.RESET,
        )
        async with booted(spec) as guest:
            await self._reporting(guest)
            await self._reboot(guest)
        self._told("a guest that uses memory it was not given")
        await self.cheat()

    async def _virtio_mem(self, guest: Guest) -> None:
        """Blocks of 2 MiB: the finest step, then all, untouched, touched and held."""
        name, part = "virtio-mem 2 MiB", plugged_part(0)
        finest = await self.plug(guest, 0, FINEST_MIB)
        self.facts["finest_mib"] = finest["reached_mib"] if finest["is_reached"] else 0.0
        self.rows[f"{name} grow"] = await self.plug(guest, 0, MOVE_MIB)
        self.rows[f"{name} shrink untouched"] = await self.plug(guest, 0, 0, part)
        await self.plug(guest, 0, MOVE_MIB)
        await guest.touch(HELD_MIB)
        self.rows[f"{name} shrink touched"] = await self.plug(guest, 0, 0, part)
        await self.plug(guest, 0, MOVE_MIB)
        async with guest.holding(HELD_MIB):
            self.rows[f"{name} shrink held"] = await self.plug(guest, 0, 0, part, HELD_S)
        # A driver that could not unplug tries again after 50 s, or when it is asked anew.
        await self.plug(guest, 0, MOVE_MIB)
        await self.plug(guest, 0, 0)

    async def nodes(self, guest: Guest) -> None:
        """One node grows and shrinks while the other stays as it is."""
        before = [await guest.node_mib(node) for node in (0, 1)]
        await self.plug(guest, 0, MOVE_MIB)
        grown = await guest.changed_nodes(before)
        await self.plug(guest, 0, 0)
        after = await guest.changed_nodes(grown)
        self.facts["node_grew_mib"] = grown[0] - before[0]
        self.facts["other_node_changed_mib"] = abs(grown[1] - before[1]) + abs(after[1] - before[1])
        self.facts["node_left_mib"] = after[0] - before[0]

    async def _large_blocks(self, guest: Guest) -> None:
        name, part = f"virtio-mem {LARGE_MIB} MiB", plugged_part(1)
        self.rows[f"{name} grow"] = await self.plug(guest, 1, LARGE_MIB)
        await guest.touch(HELD_MIB)
        self.rows[f"{name} shrink touched"] = await self.plug(guest, 1, 0, part)

    async def _dimm(self, guest: Guest) -> None:
        """A DIMM is added, and taken out while it is in use: as a whole or not at all."""
        monitor, before = guest.monitor, await guest.total_mib()

        async def add() -> None:
            size = LARGE_MIB * MIB
            arguments = {"qom-type": "memory-backend-ram", "id": "dimm-ram", "size": size}
            await monitor.call("object-add", **arguments)
            await monitor.call("device_add", driver="pc-dimm", id="dimm0", memdev="dimm-ram")

        async def grown() -> float:
            return float(LARGE_MIB * round((await guest.total_mib() - before) / LARGE_MIB))

        async def remove() -> None:
            await monitor.call("device_del", id="dimm0")

        self.rows["DIMM grow"] = await guest.follow(grown, LARGE_MIB, add)
        async with guest.holding(HELD_MIB):
            self.rows["DIMM shrink held"] = await guest.follow(grown, 0, remove, HELD_S)
        with contextlib.suppress(QmpFailed):  # it is out, or still on its way
            self.rows["DIMM shrink touched"] = await guest.follow(grown, 0, remove)

    async def _balloon(self, guest: Guest) -> None:
        """What is in the balloon comes from the base."""
        full, less = 2 * NODE_MIB, 2 * NODE_MIB - MOVE_MIB
        self.rows["balloon shrink untouched"] = await self._inflate(guest, less)
        self.rows["balloon grow"] = await self._inflate(guest, full)
        await guest.touch(HELD_MIB)
        self.rows["balloon shrink touched"] = await self._inflate(guest, less)
        await self._inflate(guest, full)
        async with guest.holding(HELD_MIB):
            self.rows["balloon shrink held"] = await self._inflate(guest, less, HELD_S)

    async def _reporting(self, guest: Guest) -> None:
        """Pages that a program has freed come back to the host, and nobody has asked."""
        parts = [base_part(node) for node in (0, 1)]
        task = asyncio.ensure_future(guest.touch(HELD_MIB))
        most = 0.0
        while not task.done():
            most = max(most, sum(map(guest.resident_mib, parts)))
            await asyncio.sleep(LOOK_S)
        await task
        loop = asyncio.get_running_loop()
        begin_s, least = loop.time(), most
        while loop.time() - begin_s < REPORTING_S and most - least < REPORTED * HELD_MIB:
            least = min(least, sum(map(guest.resident_mib, parts)))
            await asyncio.sleep(LOOK_S)
        self.rows["free page reporting"] = {
            "wanted_mib": HELD_MIB,
            "returned_mib": round(most - least, 1),
            "is_reached": most - least >= REPORTED * HELD_MIB,
            "done_s": round(loop.time() - begin_s, 3),
        }

    async def _reboot(self, guest: Guest) -> None:
        """A guest that boots anew has what was asked for, not what it had."""
        await self.plug(guest, 0, MOVE_MIB)
        await guest.monitor.set_plugged(0, MOVE_MIB // 2 * MIB)
        ready = guest.machine.console.tail.count(b"MEMCOORD-READY")
        await guest.monitor.call("system_reset")
        async with asyncio.timeout(LIMIT_S):
            while guest.machine.console.tail.count(b"MEMCOORD-READY") <= ready:
                await asyncio.sleep(LOOK_S)
        self.facts["agent_noticed_reboot"] = float(await self._is_dropped(guest))
        size = await self._settled(guest)
        self.facts["after_reboot_mib"], self.facts["asked_of_reboot_mib"] = size, MOVE_MIB / 2

    async def _is_dropped(self, guest: Guest) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                while not guest.agent.dropped:
                    await asyncio.sleep(LOOK_S)
        return bool(guest.agent.dropped)

    async def _settled(self, guest: Guest) -> float:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                while await self._plugged_mib(guest, 0) != MOVE_MIB / 2:
                    await asyncio.sleep(LOOK_S)
        return await self._plugged_mib(guest, 0)

    async def cheat(self) -> None:
        """A guest that takes the memory of an unplugged device for its own is seen from outside."""
        spec = MachineSpec(
            **self._files,
            memory_bytes=2 * NODE_MIB * MIB,
            plugged=(Plugged(max_bytes=MOVE_MIB * MIB),),
            kernel_words=(f"memmap={CHEAT_MIB}M@{CHEAT_AT_MIB}M",),
        )
        async with booted(spec) as guest:
            self.facts["cheat_plugged_mib"] = await self._plugged_mib(guest, 0)
            await guest.touch(HELD_MIB)
            self.facts["cheat_resident_mib"] = guest.resident_mib(plugged_part(0))
            self.facts["cheat_qemu_runs"] = float(not guest.machine.ended.is_set())

    async def plug(
        self,
        guest: Guest,
        number: int,
        want_mib: int,
        part: str | None = None,
        stall_s: float = STALL_S,
    ) -> dict[str, Any]:
        """Resize virtio-mem device ``number``: a row, with what the host has back of ``part``."""

        async def ask() -> None:
            await guest.monitor.set_plugged(number, want_mib * MIB)

        async def look() -> float:
            return await self._plugged_mib(guest, number)

        before = guest.resident_mib(part) if part else 0.0
        found = await guest.follow(look, want_mib, ask, stall_s)
        if part:
            found["returned_mib"] = round(before - guest.resident_mib(part), 1)
        return found

    async def _plugged_mib(self, guest: Guest, number: int) -> float:
        return await guest.monitor.plugged_size(number) / MIB

    async def _inflate(
        self, guest: Guest, want_mib: int, stall_s: float = STALL_S
    ) -> dict[str, Any]:
        async def ask() -> None:
            await guest.monitor.set_balloon(want_mib * MIB)

        async def look() -> float:
            return await guest.monitor.balloon_size() / MIB

        parts = [base_part(node) for node in (0, 1)]
        before = sum(map(guest.resident_mib, parts))
        found = await guest.follow(look, want_mib, ask, stall_s)
        found["returned_mib"] = round(before - sum(map(guest.resident_mib, parts)), 1)
        return found
