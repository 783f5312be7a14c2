"""squeezed: every domain equally far between its minimum and its maximum.

Source: XenServer's ``squeezed`` (xapi-project/xen-api, ``squeeze.ml`` and its design document).
Law, over the domains whose balloon works:

    surplus = max(0, free + sum(actual - minimum) - wanted)     wanted: ``reserve``, 9 MiB there
    gamma   = min(surplus / sum(maximum - minimum), 1)
    target  = minimum + gamma * (maximum - minimum)

A domain that does not move towards its target for ``inactive_ticks`` is inactive: its target stays
and its memory, held or promised, is not counted on, until it moves. A domain inactive for more than
``uncooperative_ticks`` is called uncooperative. If even the minima leave less than ``wanted`` free,
the answer is "impossible" and the minima. The coordinator sees to it that frees come before grows.

Signals: memory each domain holds, memory the host has free beyond its slack; no word of a guest.
Time constant: one cycle of ``period_ticks`` ticks (10 s there; by default one tick is one cycle),
as fast as balloons move; 5 and 20 seconds of waiting are as many ticks here.
Bad at: it does not see needs. A stuck guest is rewarded with all it holds, a page of
progress every 5 ticks passes as moving, and 19 ticks stuck to one moving is never called
uncooperative.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Column, Pages, Plan, PolicyParams, View
from policies.ram_targets import FRAMES_PER_MIB, Scale, Ticks, scale_of, spare_frames, within


class Squeezed:
    """XenServer's proportional policy."""

    name: ClassVar[str] = "squeezed"
    settles: ClassVar[bool] = True

    class Params(PolicyParams):
        """``reserve`` is kept free; a target missed by up to ``inaccuracy`` frames is met."""

        reserve: Pages = 9 * FRAMES_PER_MIB
        scale: Scale = 0.0
        inaccuracy: Pages = 1
        inactive_ticks: Ticks = 5
        uncooperative_ticks: Ticks = 20
        period_ticks: Ticks = 1

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        none = np.zeros(len(view))
        carry, inactive, uncooperative = self._watch(view)
        if view.tick % self.params.period_ticks:
            return Plan(tmem=none, ram=within(view, view.ram_target), carry=carry)
        promised = np.maximum(view.ram_target - view.ram_current, 0)[inactive].sum()
        free = spare_frames(view) - promised
        wanted = self.params.reserve * scale_of(view, self.params.scale)
        active = ~inactive
        minimum = view.ram_minimum[active]
        maximum = np.maximum(minimum, view.ram_maximum[active])
        target = view.ram_target.copy()
        target[active], most = squeeze(minimum, maximum, view.ram_current[active], free, wanted)
        rule = "in proportion to maximum - minimum"
        if most < wanted:
            rule = f"impossible: {max(most, 0):.0f} of {wanted:.0f} frames can be freed: to minimum"
        why = np.array([rule, "inactive: left as it is", "uncooperative: left as it is"])
        kind = np.where(uncooperative, 2, np.where(inactive, 1, 0))
        return Plan(tmem=none, ram=within(view, target), why=why[kind], carry=carry)

    def _watch(self, view: View) -> tuple[Column, NDArray[np.bool_], NDArray[np.bool_]]:
        """Carry: actual at this tick, ticks without progress, ticks inactive; two states."""
        last, still, idle = view.carried(3, -1.0).T
        missing = view.ram_target - view.ram_current
        asked = np.abs(missing) > self.params.inaccuracy
        moved = np.where(last < 0, 0.0, view.ram_current - last)
        still = np.where(asked & ~(moved * missing > 0), np.maximum(still, 0) + 1, 0)
        inactive = still > self.params.inactive_ticks
        idle = np.where(inactive, np.maximum(idle, 0) + 1, 0)
        carry = np.column_stack((view.ram_current, still, idle))
        return carry, inactive, idle > self.params.uncooperative_ticks


def squeeze(
    minimum: Column, maximum: Column, actual: Column, free: float, wanted: float
) -> tuple[Column, float]:
    """Targets in frames, and the most that can be free when all are at their minimum."""
    most = float(free + np.maximum(actual - minimum, 0).sum())
    room = maximum - minimum
    gamma = min(max(most - wanted, 0.0) / max(room.sum(), 1.0), 1.0)
    return minimum + gamma * room, most
