"""One machine, looked at and led: QMP, observation and actuation put together.

Owns: ``Pilot``. A look never raises and is bounded: what QEMU does not say is unknown, and what is
wrong with QEMU or its guest is the ``guest`` of the observation. Orders that QEMU refuses are
counted and said. A connection that was lost is made anew at the next look; then every order is
given again. Called by the program that is a domain in the hypervisor's eyes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from memcoord.testbed.machines.actuation import Actuator, Balloon, Standing
from memcoord.testbed.machines.observation import (
    NAN,
    STATISTICS_EVERY_S,
    Guest,
    Observation,
    Observer,
    guest_of,
)
from memcoord.testbed.machines.qmp import Monitor, QmpFailed, QmpTrouble

#: Of a look at a machine whose connection was lost.
RECONNECT_S = 2.0
#: After these the connection is still good.
_ANSWERED = (QmpTrouble.REFUSED, QmpTrouble.NONSENSE)


class Body(Protocol):
    """What a pilot sees of the process: ``memcoord.testbed.machines.process.Machine``."""

    memory: dict[str, int]

    @property
    def returncode(self) -> int | None:
        """None while QEMU runs."""

    def resident_bytes(self, part: str) -> int:
        """Host memory behind a part of the guest's memory."""


class Pilot:
    """``has_balloon`` and ``plugs``, the number of virtio-mem devices, say what there is to ask."""

    def __init__(
        self,
        body: Body,
        monitor: Monitor,
        observer: Observer,
        actuator: Actuator,
        *,
        has_balloon: bool,
        plugs: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._body, self._monitor, self._observer = body, monitor, observer
        self._actuator, self._has_balloon, self._plugs = actuator, has_balloon, plugs
        self._clock, self._wall = clock, wall
        self._is_panicked = False
        self.seen = Observation(clock(), Guest.PAUSED)
        self.trouble: QmpFailed | None = None  # of the last look or order
        self.refusals = 0

    async def look(self) -> Observation:
        """What is known now; also kept as ``seen``."""
        self.trouble = None
        guest, kept, plugged = Guest.ENDED, NAN, (NAN,) * self._plugs
        if self._body.returncode is None:
            guest = await self._state()
            if guest is not Guest.SILENT and self._has_balloon:
                kept = await self._size(self._monitor.balloon_size)
                await self._statistics()
            if guest is not Guest.SILENT:
                sizes = [await self._plugged(number) for number in range(self._plugs)]
                plugged = tuple(sizes)
            if self.trouble is not None and self.trouble.trouble not in _ANSWERED:
                guest = Guest.SILENT if self._body.returncode is None else Guest.ENDED
        if not self._has_balloon and guest not in (Guest.SILENT, Guest.ENDED):
            kept = float(self._observer.base_bytes)
        self.seen = self._observer.observe(
            self._clock(),
            guest,
            kept_bytes=kept,
            plugged_bytes=plugged,
            resident_bytes=float(sum(map(self._body.resident_bytes, self._body.memory))),
        )
        return self.seen

    async def lead(self, goal_bytes: int) -> None:
        """Give the orders that bring the machine to ``goal_bytes``, as far as they are due."""
        for order in self._actuator.orders(self._clock(), goal_bytes, self.seen):
            try:
                if isinstance(order, Balloon):
                    await self._monitor.set_balloon(order.kept_bytes)
                else:
                    await self._monitor.set_plugged(order.number, order.size_bytes)
            except QmpFailed as failed:
                self.trouble = failed
                self.refusals += failed.trouble is QmpTrouble.REFUSED
                return

    def reachable(self, target_bytes: int) -> int:
        """The size nearest to a target that the machine can be asked for."""
        return self._actuator.reachable(target_bytes)

    def standing(self, target_bytes: int) -> Standing:
        """Where the machine is on the way to ``target_bytes``."""
        return self._actuator.standing(self._clock(), target_bytes, self.seen)

    async def _state(self) -> Guest:
        try:
            if not self._monitor.is_connected:
                await self._monitor.connect(RECONNECT_S)
                self._actuator.forget()
                if self._has_balloon:
                    await self._monitor.poll_statistics(STATISTICS_EVERY_S)
            guest = guest_of(await self._monitor.status())
        except QmpFailed as failed:
            self.trouble = failed
            return Guest.PAUSED if failed.trouble in _ANSWERED else Guest.SILENT
        self._heed_events()
        return Guest.CRASHED if self._is_panicked and guest is not Guest.MOVED else guest

    def _heed_events(self) -> None:
        while self._monitor.events:
            event = self._monitor.events.popleft()
            if event.name == "GUEST_PANICKED":
                self._is_panicked = True
            elif event.name == "RESET":
                self._is_panicked = False
                self._observer.note_reset()
                self._actuator.forget()

    async def _statistics(self) -> None:
        try:
            updated, values = await self._monitor.statistics()
        except QmpFailed as failed:
            self.trouble = failed
            return
        self._observer.note_statistics(self._clock(), self._wall(), updated, values)

    async def _size(self, ask: Callable[[], Awaitable[int]]) -> float:
        if self.trouble is not None and self.trouble.trouble not in _ANSWERED:
            return NAN
        try:
            return float(await ask())
        except QmpFailed as failed:
            self.trouble = failed
            return NAN

    async def _plugged(self, number: int) -> float:
        return await self._size(lambda: self._monitor.plugged_size(number))
