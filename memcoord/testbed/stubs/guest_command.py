"""The command that a virtual machine's domain runs in its guest, by the agent there.

Owns: ``Command``: the command's output and units, and what the agent's reports add to what is known
of the guest: pages in swap now, time that tasks waited for memory. Units are lines of the command's
output. An agent that is gone ends the command's run, which is an end of its own kind; the guest's
statistics go on without it. Called by ``memcoord.testbed.stubs.stub``.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Self

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.machines.agent import Agent, Report
from memcoord.testbed.machines.process import Machine, last_line
from memcoord.testbed.scenarios.programs import TOTAL_MAX, WORK_VARIABLE
from memcoord.testbed.scenarios.virtual_machines import MachineWorkload
from memcoord.testbed.stubs.attending import Attendant

#: Of the command's output, in the file; and its end, for a line that says why it failed.
OUTPUT_BYTES_MAX, TAIL_BYTES_MAX = 1 << 20, 4096
#: A program that comes with memcoord reports units of work there: as lines of its output.
ENVIRONMENT = {WORK_VARIABLE: "1"}
NS_PER_US, STALL_US_MAX = 1000, 1 << 52
#: Counters of the guest, by their names in a report.
COUNTERS = ("major_faults", "swap_in_pages", "swap_out_pages", "oom_kills")


class Command:
    """The command of ``work`` in the guest of ``machine``; ``stdout`` keeps what it writes."""

    def __init__(
        self, machine: Machine, attendant: Attendant, stdout: Path, work: MachineWorkload
    ) -> None:
        self._machine, self._attendant, self._work = machine, attendant, work
        self._stdout, self._written, self._tail = stdout, 0, b""
        self._agent = Agent(self._note_report)
        self._first: Report | None = None

    async def __aenter__(self) -> Self:
        self._stdout.touch()
        await self._agent.open(self._machine.agent_path)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._agent.close()

    async def run(self) -> None:
        """Run it to its end; MemcoordError when it fails, or lasts longer than ``limit_s``."""
        self._first, name = self._agent.report, self._work.run[0]
        try:
            async with asyncio.timeout(self._work.limit_s):
                done = await self._agent.run(self._work.run, ENVIRONMENT, hear=self._note_output)
        except TimeoutError:
            raise MemcoordError(f"{name} was not done after {self._work.limit_s:g} s") from None
        except (OSError, ValueError) as error:
            raise MemcoordError(f"{name} cannot be run in the guest: {error}") from None
        if done.exit != 0:
            how = f"signal {done.signal}" if done.exit is None else f"exit code {done.exit}"
            said = last_line(self._tail) or "it said nothing"
            raise MemcoordError(f"{name} ended in the guest with {how}: {said}")

    def counted(self) -> dict[str, int]:
        """What the guest's counters rose by since the command began, where the agent told."""
        first, last = self._first, self._agent.report
        pairs = {name: (getattr(first, name, None), getattr(last, name, None)) for name in COUNTERS}
        return {
            name: max(after - before, 0)
            for name, (before, after) in pairs.items()
            if before is not None and after is not None
        }

    def _note_report(self, report: Report) -> None:
        total, free = report.swap_total_bytes, report.swap_free_bytes
        if total is not None and free is not None:
            self._attendant.swapped_bytes = float(max(total - free, 0))
        if report.some_us is not None:
            self._attendant.stall_ns = min(report.some_us, STALL_US_MAX) * NS_PER_US

    def _note_output(self, data: bytes) -> None:
        units = self._attendant.units + data.count(b"\n")
        self._attendant.units = min(units, self._work.total or TOTAL_MAX)
        self._tail = (self._tail + data)[-TAIL_BYTES_MAX:]
        kept = data[: OUTPUT_BYTES_MAX - self._written]
        self._written += len(kept)
        with contextlib.suppress(OSError), self._stdout.open("ab") as file:  # a full disk
            file.write(kept)
