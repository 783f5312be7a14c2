"""Guests that keep to their balloon target, or do not, and a host to hold them.

After the guests of squeezed's own simulator. A test gives each domain a ``Guest`` and lets a policy
run the ``GuestHost`` in closed loop; targets are put into force as the coordinator does: in whole
areas, shrinks before grows, a grow only into memory that is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from policies import Policy, View, check_plan

AREA_FRAMES = 512
RATE_FRAMES = 1000
MAXIMUM_FRAMES = 20 * AREA_FRAMES
MINIMUM_FRAMES = 2 * AREA_FRAMES

#: Frames a guest holds after a tick, of: what it holds, its target, the tick.
Move = Callable[[int, int, int], int]


def ideal(current: int, target: int, tick: int) -> int:
    return current + max(-RATE_FRAMES, min(RATE_FRAMES, target - current))


def hidden_lower_limit(current: int, target: int, tick: int) -> int:
    return max(ideal(current, target, tick), min(current, 7 * AREA_FRAMES))


def hidden_upper_limit(current: int, target: int, tick: int) -> int:
    return min(ideal(current, target, tick), max(current, 11 * AREA_FRAMES))


def stuck(current: int, target: int, tick: int) -> int:
    return current


def periodically_stuck(current: int, target: int, tick: int) -> int:
    """Moves one tick in 20: not often enough to be active, too often to be uncooperative."""
    return ideal(current, target, tick) if tick % 20 == 19 else current


MOVES: dict[str, Move] = {
    "ideal": ideal,
    "hidden lower limit": hidden_lower_limit,
    "hidden upper limit": hidden_upper_limit,
    "stuck": stuck,
    "periodically stuck": periodically_stuck,
    "liar": ideal,
}


@dataclass
class Guest:
    """One guest: how it moves, what it works on, and whether it says so."""

    move: Move = ideal
    working_frames: int = 6 * AREA_FRAMES
    lies: bool = False
    current: int = 10 * AREA_FRAMES
    target: int = 10 * AREA_FRAMES

    @property
    def used(self) -> int:
        return self.current if self.lies else min(self.working_frames, self.current)

    @property
    def committed(self) -> float:
        return 2.0**53 if self.lies else self.working_frames

    @property
    def pressure(self) -> float:
        return 1.0 if self.lies else max(1 - self.current / self.working_frames, 0) / 10

    @property
    def cold(self) -> list[float]:
        """A quarter of what it works on is never touched; a liar touches all of it."""
        return [0.0 if self.lies else self.working_frames / 4] * 12


def guests_of(kind: str, domains: int = 4) -> list[Guest]:
    """``domains`` guests, the first of ``kind``, the others ideal."""
    first = Guest(move=MOVES[kind], lies=kind == "liar")
    return [first, *(Guest() for _ in range(domains - 1))]


@dataclass
class GuestHost:
    """Guests under a policy that sets RAM targets. ``series``: targets in force at each tick."""

    guests: list[Guest]
    frames: int
    slack: int = 2 * AREA_FRAMES
    tick: int = 0
    carry: np.ndarray | None = None
    series: list[list[int]] = field(default_factory=list)

    @property
    def free(self) -> int:
        return self.frames - sum(guest.current for guest in self.guests)

    def view(self) -> View:
        count = len(self.guests)
        carry = np.empty((count, 0)) if self.carry is None else self.carry.copy()
        return View.of(
            capacity=self.frames - self.slack,
            ram_capacity=self.frames - self.slack,
            tick=self.tick,
            host_frames=self.frames,
            host_free_frames=self.free,
            ram_current=[guest.current for guest in self.guests],
            ram_target=[guest.target for guest in self.guests],
            ram_used=[guest.used for guest in self.guests],
            committed=[guest.committed for guest in self.guests],
            pressure=[guest.pressure for guest in self.guests],
            cold=[guest.cold for guest in self.guests],
            promotions=np.zeros((count, 12)),
            ram_minimum=np.full(count, MINIMUM_FRAMES),
            ram_maximum=np.full(count, MAXIMUM_FRAMES),
            age=np.full(count, self.tick),
            carry=carry,
        )

    def step(self, policy: Policy) -> None:
        """One tick: plan, check, put into force, and let the guests move."""
        view = self.view()
        plan = policy.plan(view)
        checked = check_plan(plan, view)
        self.carry = checked.carry
        if checked.ram is not None:
            self._apply([int(ram) // AREA_FRAMES * AREA_FRAMES for ram in checked.ram])
        for guest in self.guests:
            guest.current = guest.move(guest.current, guest.target, self.tick)
        self.series.append([guest.target for guest in self.guests])
        self.tick += 1
        self.validate()

    def _apply(self, wanted: list[int]) -> None:
        for guest, target in zip(self.guests, wanted, strict=True):
            guest.target = min(guest.target, target)
        promised = sum(max(guest.target - guest.current, 0) for guest in self.guests)
        spare = max(self.free - self.slack - promised, 0)
        growth = [target - guest.target for guest, target in zip(self.guests, wanted, strict=True)]
        part = min(1.0, spare / max(sum(growth), 1))
        for guest, frames in zip(self.guests, growth, strict=True):
            guest.target += int(frames * part) // AREA_FRAMES * AREA_FRAMES

    def validate(self) -> None:
        """Targets fit the host, and no guest holds more than there is."""
        assert self.free >= 0
        assert sum(guest.target for guest in self.guests) <= self.frames - self.slack
