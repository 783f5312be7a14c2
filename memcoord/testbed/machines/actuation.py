"""From one number per machine, its target, to orders for its devices. Pure.

Owns: which device carries a target, and the only place where the sum ``base - balloon + plugged``
is split. Rules: a target is clamped to floor and most, and rounded down to areas of 2 MiB. Orders
are level-triggered: the same target gives the same order again after REPEAT_S while the device is
not there, and nothing waits for an end. A machine shrinks by SHRINK_BYTES_S at most, and grows at
once, because a guest under pressure cannot wait. A device that stops short is a state with a
reason, not an error: ``Standing``.

Strategies:
  fixed       nothing moves
  balloon     the machine boots with all it may ever have; the balloon holds what it may not use
  virtio-mem  the machine boots with its floor; the rest is plugged, evenly over its devices
  reporting   nothing moves by order; the guest gives free pages back by itself
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.machines.observation import Guest, Observation

Strategy = Literal["fixed", "balloon", "virtio-mem", "reporting"]

#: An order that has not been carried out is given again so often, and sizes change at most so fast.
REPEAT_S, SHRINK_BYTES_S = 2.0, 512 << 20
#: A device whose size has not changed for so long, and is not where it should be, is stuck.
STALL_S = 5.0


class Balloon(NamedTuple):
    """Leave the guest so much of its base."""

    kept_bytes: int


class Plug(NamedTuple):
    """Ask virtio-mem device ``number`` for a size."""

    number: int
    size_bytes: int


Order = Balloon | Plug


@dataclass(frozen=True)
class Standing:
    """Where a machine is on its way; ``why`` is empty unless it is "partial"."""

    state: Literal["reached", "moving", "partial", "unknown"]
    why: str = ""


class Actuator:
    """The devices of one machine. ``plugged_max``: the most of each virtio-mem device."""

    def __init__(
        self,
        strategy: Strategy,
        *,
        base_bytes: int,
        floor_bytes: int,
        plugged_max: tuple[int, ...] = (),
        block_bytes: int = AREA_BYTES,
    ) -> None:
        self._strategy, self._base_bytes = strategy, base_bytes
        self._plugged_max, self._block_bytes = plugged_max, block_bytes
        self.floor_bytes = base_bytes if strategy == "virtio-mem" else floor_bytes
        self.most_bytes = base_bytes + (sum(plugged_max) if strategy == "virtio-mem" else 0)
        self._goal_bytes = -1  # where the machine is led now; below 0: nowhere yet
        self._ordered: dict[Order, float] = {}  # what was ordered last, and when
        self._led_s = -math.inf
        self._size_bytes, self._moved_s = math.nan, -math.inf

    @property
    def moves(self) -> bool:
        """Whether this strategy changes the size of the machine."""
        return self._strategy in ("balloon", "virtio-mem")

    def reachable(self, target_bytes: int) -> int:
        """The size nearest to a target that the devices can be asked for."""
        size = min(max(target_bytes, self.floor_bytes), self.most_bytes)
        return size // AREA_BYTES * AREA_BYTES

    def orders(self, now_s: float, target_bytes: int, seen: Observation) -> list[Order]:
        """What to ask of the devices now. None while the guest does not run or is not known."""
        if not self.moves or seen.guest is not Guest.RUNNING:
            return []
        goal = self._led_to(now_s, self.reachable(target_bytes), seen)
        wanted = self._orders_for(goal)
        due = [
            order
            for order in wanted
            if order not in self._ordered
            or (not _is_done(order, seen) and now_s - self._ordered[order] >= REPEAT_S)
        ]
        self._ordered = {order: self._ordered.get(order, now_s) for order in wanted}
        self._ordered.update(dict.fromkeys(due, now_s))
        return due

    def forget(self) -> None:
        """Give every order anew: the connection is a new one, or the guest has booted again."""
        self._ordered = {}

    def standing(self, now_s: float, target_bytes: int, seen: Observation) -> Standing:
        """Where the machine is on the way to ``target_bytes``; to be asked at every look."""
        size, wanted = seen.current_bytes, self.reachable(target_bytes)
        if size != self._size_bytes:
            self._size_bytes, self._moved_s = size, now_s
        if seen.guest is not Guest.RUNNING:
            return Standing("unknown", str(seen.guest))
        if math.isnan(size):
            return Standing("unknown", "its size is not known")
        if not self.moves or size == wanted:
            return Standing("reached")
        if now_s - self._moved_s < STALL_S:
            return Standing("moving")
        if size > wanted:
            why = "its guest does not let go of more memory"
        else:
            why = "its guest does not take the memory"
        return Standing(
            "partial", f"{why}; at {size / AREA_BYTES:g} areas of {AREA_BYTES >> 20} MiB"
        )

    def _led_to(self, now_s: float, wanted: int, seen: Observation) -> int:
        """At once upwards; downwards no faster than SHRINK_BYTES_S, from where the machine was."""
        elapsed_s = min(max(now_s - self._led_s, 0.0), 1.0)
        self._led_s = now_s
        before = self._goal_bytes
        if before < 0:
            known = not math.isnan(seen.current_bytes)
            before = int(seen.current_bytes) if known else self.most_bytes
        step = max(int(SHRINK_BYTES_S * elapsed_s) // AREA_BYTES * AREA_BYTES, AREA_BYTES)
        self._goal_bytes = max(wanted, before - step) // AREA_BYTES * AREA_BYTES
        return self._goal_bytes

    def _orders_for(self, goal: int) -> list[Order]:
        if self._strategy == "balloon":
            return [Balloon(goal)]
        left, sizes = max(goal - self._base_bytes, 0), dict[int, int]()
        smallest_first = sorted(enumerate(self._plugged_max), key=lambda one: one[1])
        for done, (number, most) in enumerate(smallest_first):
            share = -(-left // (len(smallest_first) - done))
            size = min(-(-share // self._block_bytes) * self._block_bytes, most, left)
            sizes[number] = size - size % self._block_bytes
            left -= sizes[number]
        return [Plug(number, sizes[number]) for number in sorted(sizes)]


def _is_done(order: Order, seen: Observation) -> bool:
    if isinstance(order, Balloon):
        return seen.kept_bytes == order.kept_bytes
    sizes = seen.plugged_bytes
    return order.number < len(sizes) and sizes[order.number] == order.size_bytes
