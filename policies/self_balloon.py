"""self-balloon: every guest drives its own balloon towards what its programs have committed.

Source: Linux ``drivers/xen/xen-selfballoon.c`` (D. Magenheimer; removed in 5.3). Law, per domain:

    goal   = committed + reserve + pages in frontswap
    target = held - (held - goal) / 8 if it holds more, held + (goal - held) / 1 if less
    floor  = maximum below 16 MiB of it, then 1/2, 1/8 and 1/32 of it added from 16, 64 and 512 MiB

and frontswap shrinks itself: after 3 ticks in which it did not grow, by 1/20 of it per tick,
because a swap device never forgets a page. In Xen the guest takes these pages back into its RAM,
for which the goal has room. Here that is said by the tmem target: unlimited, as in Xen, while
frontswap grows, has failed puts or waits its 3 ticks, then 19/20 of the pages it holds.

``reserve`` (the kernel's watermarks, of each guest) and the floor's sizes are multiplied by
``scale``, see ``policies.ram_targets``.
Signals: pages committed, or used and failed puts where that is not measured; tmem pages held. Time
constant: a tick is the source's 5 s; down by an eighth a tick, up at once.
Bad at: no guest sees the others: when the sum is too much, the guest that grew first keeps the
memory. Committed memory may never be touched, and page cache counts nothing.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from policies.base import Column, Pages, Plan, PolicyParams, View
from policies.ram_targets import (
    FRAMES_PER_MIB,
    Scale,
    Ticks,
    needed_frames,
    scale_of,
    unrounded,
    within,
)


class SelfBalloon:
    """Xen's self-ballooning with self-shrinking frontswap."""

    name: ClassVar[str] = "self-balloon"
    monotone: ClassVar[bool] = True
    settles: ClassVar[bool] = True

    class Params(PolicyParams):
        """Hysteresis: the part of the way gone per tick is one over it."""

        down_hysteresis: Ticks = 8
        up_hysteresis: Ticks = 1
        reserve: Pages = 16 * FRAMES_PER_MIB
        frontswap_hysteresis: Ticks = 20
        frontswap_inertia: Ticks = 3
        scale: Scale = 0.0

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        asked, last, waits = view.carried(3, -1.0).T
        scale = scale_of(view, self.params.scale)
        reserve = self.params.reserve * scale
        held = view.ram_current + unrounded(view, asked)
        goal = needed_frames(view) + reserve + view.used
        down, up = self.params.down_hysteresis, self.params.up_hysteresis
        new = held + (goal - held) / np.where(goal < held, down, up)
        high = np.maximum(view.ram_minimum, view.ram_maximum)
        ram = within(view, np.maximum(new, _floor(high, reserve, scale)))
        tmem, waits = self._frontswap(view, last, waits)
        why = _RULES[np.where(goal < held, 0, np.where(goal > held, 1, 2))]
        return Plan(tmem, ram, why, np.column_stack((ram, view.used, waits)))

    def _frontswap(self, view: View, last: Column, waits: Column) -> tuple[Column, Column]:
        """Tmem targets and the ticks to wait; ``last``: pages held at the tick before, or -1."""
        inertia, hysteresis = self.params.frontswap_inertia, self.params.frontswap_hysteresis
        grows = (view.used == 0) | (view.used > last) | (view.failed_puts > 0)
        waits = np.where(grows, inertia, np.maximum(waits - 1, 0))
        step = np.where(view.used <= hysteresis, view.used, view.used // hysteresis)
        fits = min(1.0, view.capacity / max(view.used.sum(), 1.0))
        return np.where(waits > 0, Plan.UNLIMITED, (view.used - step) * fits), waits


_RULES = np.array(["above goal: down", "below goal: up", "at goal"])


def _floor(maximum: Column, reserve: float, scale: float) -> Column:
    """Least frames of a guest that may have ``maximum``: piecewise linear, 3 % in the end."""
    mib = FRAMES_PER_MIB * scale
    useful = maximum - reserve
    bounds = [useful < 16 * mib, useful < 64 * mib, useful < 512 * mib]
    floors = [
        maximum,
        reserve + 16 * mib + (useful - 16 * mib) / 2,
        reserve + 40 * mib + (useful - 40 * mib) / 8,
    ]
    return np.select(bounds, floors, reserve + 99 * mib + (useful - 99 * mib) / 32)
