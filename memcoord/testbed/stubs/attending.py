"""A virtual machine attended: its memory booked, its devices led, its guest's words passed on.

Owns: ``Attendant``. Each look: what is known of the machine (``pilot``); what is booked for it
(``accounting``); orders for its devices; the guest's statistics, as the domain's own words to the
policy. Statistics that are stale are reported as not known (-1), never as they were. What changes
is said once, as a line of JSON in ``events.jsonl`` of the domain's folder: the guest's state, stale
statistics, a device that stops short and why, memory used that is not booked, a reboot. Called by
``memcoord.testbed.stubs.stub``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from frontend.domain import Domain
from hypervisor.public.errors import PeerGone
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.machines.accounting import balance
from memcoord.testbed.machines.observation import Guest, Observation
from memcoord.testbed.machines.pilot import Pilot
from memcoord.testbed.stubs.booking import Booking

EVENTS = "events.jsonl"
#: From the end of one look to the next.
LOOK_S = 0.25
#: Lines of the event file; what comes later is not said.
EVENTS_MAX = 1000
UNKNOWN = -1
NS_PER_S = 1_000_000_000

T = TypeVar("T")


class Events:
    """What became of a machine, a line each; a full disk costs the line."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name, self._count = path, name, 0

    def say(self, event: str, **fields: Any) -> None:
        """One line."""
        self._count += 1
        if self._count > EVENTS_MAX:
            return
        line = {"time_ns": time.time_ns(), "event": event, "domain": self._name, **fields}
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        except OSError:
            return


class Attendant:
    """The machine of ``domain``; ``swap_bytes`` bounds what its guest can have swapped out."""

    def __init__(
        self,
        domain: Domain,
        booking: Booking,
        pilot: Pilot,
        events: Events,
        *,
        swap_bytes: int = 0,
    ) -> None:
        self._domain, self._booking, self._pilot = domain, booking, pilot
        self._events, self._swap_bytes = events, swap_bytes
        self._calls = ThreadPoolExecutor(1, "booking")
        self._said: dict[str, str] = {}
        self.units = 0  # of work, done so far
        self.swapped_bytes = math.nan  # in swap now, where the guest's agent tells
        self.stall_ns = UNKNOWN
        self._looking = asyncio.Lock()  # two looks at once would connect twice
        self.is_there = asyncio.Event()  # the machine has reached a target once
        self.is_booted = False  # before, no device can be where it should be

    async def attend(self) -> None:
        """Look again and again; ends with PeerGone when there is no hypervisor any more."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> Observation:
        """One look and what follows from it; PeerGone once the domain is one no more."""
        if not self._domain.alive:  # its frames are the host's: the machine must not have them
            raise PeerGone("the hypervisor is gone, or has closed this domain")
        async with self._looking:
            return await self._look()

    async def _look(self) -> Observation:
        seen = await self._pilot.look()
        target = self._pilot.reachable(self._booking.target_bytes)
        books = balance(self._booking.size_bytes, target, seen)
        if books.request_bytes:
            await self._call(self._booking.grow, books.request_bytes)
        if books.release_bytes:
            await self._call(self._booking.shrink, books.release_bytes)
        goal = min(self._booking.size_bytes, target)
        await self._pilot.lead(goal)
        self._report(seen)
        self._tell(seen, goal, books.excess_bytes)
        return seen

    def close(self) -> None:
        """Wait for no call that is under way: the domain's end ends it."""
        self._calls.shutdown(wait=False, cancel_futures=True)

    async def _call(self, call: Callable[[int], T], size_bytes: int) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, call, size_bytes)

    def _report(self, seen: Observation) -> None:
        fresh = seen.is_fresh
        used = seen.used_bytes if fresh else math.nan
        self._domain.report(
            used_frames=_frames(used),
            committed_frames=_frames(used + self._swapped(seen)),
            faults=_count(seen.major_faults) if fresh else UNKNOWN,
            swap_ins=_frames(seen.swapped_in_bytes) if fresh else UNKNOWN,
            swap_outs=_frames(seen.swapped_out_bytes) if fresh else UNKNOWN,
            file_frames=max(_frames(seen.cache_bytes), 0) if fresh else 0,
            stall_ns=self.stall_ns if fresh else UNKNOWN,
            references=self.units,
        )

    def _swapped(self, seen: Observation) -> float:
        """In swap now: the agent's word, else what went out and has not come back."""
        if not self._swap_bytes:
            return 0.0
        known = self.swapped_bytes
        if math.isnan(known):
            known = seen.swapped_out_bytes - seen.swapped_in_bytes
        return min(max(known, 0.0), float(self._swap_bytes))

    def _tell(self, seen: Observation, goal: int, excess: int) -> None:
        standing = self._pilot.standing(goal)
        if standing.state == "reached":
            self.is_there.set()
        if not self.is_booted:  # QEMU takes a moment to listen, and a guest has no drivers yet
            return
        self._change("guest", str(seen.guest), at_first=str(Guest.RUNNING))
        is_stale = seen.guest is Guest.RUNNING and not seen.is_fresh and math.isfinite(seen.age_s)
        self._change("statistics", "stale" if is_stale else "fresh", at_first="fresh")
        why = standing.why if standing.state == "partial" else ""
        self._change("short", why.partition(";")[0], at_first="")
        self._change("not-booked", "yes" if excess else "no", at_first="no", bytes=excess)
        self._change("reboots", str(seen.reboots), at_first="0")
        said = "" if self._pilot.trouble is None else str(self._pilot.trouble)
        self._change("qmp", said, at_first="")

    def _change(self, what: str, now: str, at_first: str, **fields: Any) -> None:
        if self._said.get(what, at_first) != now:
            self._events.say(what, now=now, **fields)
        self._said[what] = now


def _frames(size: float) -> int:
    return UNKNOWN if math.isnan(size) else int(size) // FRAME_BYTES


def _count(number: float) -> int:
    return UNKNOWN if math.isnan(number) else int(number)
