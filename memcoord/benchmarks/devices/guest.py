"""A guest whose memory is resized by real devices: QEMU, its monitor and its agent together.

Owns: what a measurement asks of a guest. Called by ``measures``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from memcoord.testbed.machines.agent import Agent
from memcoord.testbed.machines.process import Machine
from memcoord.testbed.machines.qmp import Monitor
from memcoord.testbed.machines.spec import MachineSpec

MIB = 1 << 20
#: A guest that does not change for so long has come as far as it will.
STALL_S, LOOK_S = 40.0, 0.01
#: Until a guest has done anything that is asked of it, on a busy machine that emulates.
LIMIT_S = 120.0
#: Points of a curve that are kept.
POINTS_MAX = 40


class Guest:
    """A guest that has booted."""

    def __init__(self, machine: Machine, monitor: Monitor, agent: Agent) -> None:
        self.machine, self.monitor, self.agent = machine, monitor, agent

    def resident_mib(self, part: str) -> float:
        """Host memory behind a part of the guest's."""
        return self.machine.resident_bytes(part) / MIB

    async def output(self, *command: str) -> str:
        """What a command in the guest prints."""
        done = await asyncio.wait_for(self.agent.run(command), LIMIT_S)
        return done.output.decode(errors="replace")

    async def touch(self, mib: int) -> None:
        """Have a program write to so much memory, and end: its pages are free again."""
        await self.output("usemem", "--step", str(mib), "--most", str(mib), "--sweeps", "1")

    @contextlib.asynccontextmanager
    async def holding(self, mib: int) -> AsyncIterator[None]:
        """While it lasts, a program has so much memory, and goes on using it."""
        words = ("--step", str(mib), "--most", str(mib), "--sweeps", "100000")
        begun = asyncio.Event()
        run = self.agent.run(["usemem", *words], {"MEMCOORD_WORK": "1"}, lambda _: begun.set())
        task = asyncio.ensure_future(run)
        try:
            await asyncio.wait_for(begun.wait(), LIMIT_S)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def node_mib(self, node: int) -> float:
        """What a node of the guest has, as the guest says."""
        path = f"/sys/devices/system/node/node{node}/meminfo"
        words = (await self.output("grep", "MemTotal", path)).split()
        return int(words[3]) / 1024 if len(words) > 3 else 0.0

    async def changed_nodes(self, before: list[float]) -> list[float]:
        """What both nodes have once the first one has changed: a guest takes a moment for that."""
        deadline_s = asyncio.get_running_loop().time() + STALL_S
        while True:
            now = [await self.node_mib(node) for node in (0, 1)]
            if now[0] != before[0] or asyncio.get_running_loop().time() > deadline_s:
                return now

    async def total_mib(self) -> float:
        """What the guest has in all, as it says."""
        words = (await self.output("grep", "MemTotal", "/proc/meminfo")).split()
        return int(words[1]) / 1024

    async def follow(
        self,
        look: Callable[[], Awaitable[float]],
        want: float,
        ask: Callable[[], Awaitable[None]],
        stall_s: float = STALL_S,
    ) -> dict[str, object]:
        """Ask for a size, and look until it is reached or nothing changes for so long: a row."""
        loop = asyncio.get_running_loop()
        start, points = await look(), []
        begin_s = changed_s = loop.time()
        await ask()
        last = start
        while last != want and loop.time() - changed_s < stall_s:
            await asyncio.sleep(LOOK_S)
            now = await look()
            if now != last:
                changed_s = loop.time()
                points.append((round(changed_s - begin_s, 4), now))
                last = now
        return row(start, want, points)


def row(start: float, want: float, points: list[tuple[float, float]]) -> dict[str, object]:
    """A resize as it went: when it began and ended, by which steps, and how far it came. Pure."""
    sizes = [start, *(size for _, size in points)]
    steps = [abs(after - before) for before, after in itertools.pairwise(sizes)]
    stride = max(1, len(points) // POINTS_MAX)
    return {
        "from_mib": start,
        "wanted_mib": want,
        "reached_mib": sizes[-1],
        "is_reached": sizes[-1] == want,
        "first_s": points[0][0] if points else None,
        "done_s": points[-1][0] if points else None,
        "least_step_mib": min(steps, default=None),
        "points": [*points[::stride], *points[-1:]] if points else [],
    }


@contextlib.asynccontextmanager
async def booted(spec: MachineSpec) -> AsyncIterator[Guest]:
    """A guest, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="mc-") as folder:
        async with Machine(spec, Path(folder), "guest") as machine:
            monitor, agent = Monitor(machine.qmp_path, "guest", call_s=LIMIT_S), Agent()
            try:
                await machine.booted()
                await monitor.connect()
                await agent.open(machine.agent_path, limit_s=LIMIT_S)
                yield Guest(machine, monitor, agent)
            finally:
                await agent.close()
                await monitor.close()
