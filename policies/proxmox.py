"""proxmox: keep 80 % of the host in use, by shares above each minimum, 100 MiB a cycle.

Source: Proxmox VE auto-ballooning (pve-manager, ``PVE/AutoBalloon.pm`` and ``pvestatd``). Law:

1. goal = 80 % of the host - used of the host; between -10 and 10 MiB nothing is done
2. growing: first the domains with at most 25 % of their minimum free; shrinking: first the others;
   if that moves nothing, all of them
3. desired = minimum + shares / sum(shares) * (sum(held - minimum) + goal), within minimum and
   maximum; each domain moves towards it by ``step`` (100 MiB) at most; the part that domains at a
   limit could not take is dealt out again

Shares are the weights; a domain without a range has none. Absolute numbers are multiplied by
``scale``, see ``policies.ram_targets``.
Signals: free memory of the host, memory a guest holds and uses. Time constant: a cycle of
``period_ticks`` ticks (10 s there; by default one tick is one cycle), 100 MiB of each guest.
Bad at: slow for big guests; a fifth of the host lies idle; once a guest has to move, shares decide
and not needs; guests that swap look like any others without free memory.
"""

import numpy as np
from numpy.typing import NDArray

from policies.base import Column, Pages, Percent, Plan, PolicyParams, Scale, Ticks, View
from policies.ram_targets import (
    FRAMES_PER_MIB,
    free_frames,
    host_frames,
    scale_of,
    unrounded,
    within,
)

ROUNDS_MAX = 16
FREE_PART = 0.25


class Proxmox:
    """Proxmox' auto-ballooning."""

    name = "proxmox"

    class Params(PolicyParams):
        """``target``: percent of the host to use; ``deadband`` and ``step`` in pages."""

        target: Percent = 80.0
        deadband: Pages = 10 * FRAMES_PER_MIB
        step: Pages = 100 * FRAMES_PER_MIB
        scale: Scale = 0.0
        period_ticks: Ticks = 1

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        scale = scale_of(view, self.params.scale)
        kept = unrounded(view, view.carried(1, -1.0)[:, 0])
        held = view.ram_current + kept
        host = host_frames(view)
        goal = self.params.target / 100 * host - (host - free_frames(view))
        rule = "as it is: the goal is met"
        new = view.ram_target + kept
        if view.tick % self.params.period_ticks:
            rule = "between two cycles"
        elif abs(goal) > self.params.deadband * scale:
            new = _balloon(view, held, goal, self.params.step * scale)
            rule = f"by shares: the host {'may use' if goal > 0 else 'must free'} {abs(goal):.0f}"
        ram = within(view, new)
        why = np.full(len(view), rule)
        return Plan(tmem=np.zeros(len(view)), ram=ram, why=why, carry=ram[:, np.newaxis])


def _balloon(view: View, held: Column, goal: float, step: float) -> Column:
    """Targets of one cycle: first the preferred domains, then all if that changed nothing."""
    free = view.ram_current - view.in_use
    roomy = (free > FREE_PART * view.ram_minimum) & (held >= view.ram_minimum)
    new = share(view, held, goal, step, roomy if goal < 0 else ~roomy)
    if np.array_equal(new, held):
        new = share(view, held, goal, step, np.ones(len(view), np.bool_))
    return new


def share(view: View, held: Column, goal: float, step: float, who: NDArray[np.bool_]) -> Column:
    """``held`` of ``who`` changed by ``goal`` frames in all, if limits and ``step`` allow."""
    low, high = view.ram_minimum, np.maximum(view.ram_minimum, view.ram_maximum)
    new, rest, open_ = held, goal, who & (high > low)
    for _ in range(ROUNDS_MAX):
        shares = view.weight[open_].sum()
        if shares == 0:
            break
        pool = (new - low)[open_].sum() + rest
        desired = np.clip(low + pool * view.weight / shares, low, high)
        grows, shrinks = open_ & (desired > held) & (goal > 0), open_ & (desired < held)
        open_ = grows | shrinks
        stepped = np.where(grows, np.minimum(held + step, desired), new)
        stepped = np.where(shrinks, np.maximum(held - step, desired), stepped)
        changed = (stepped - new).sum()
        settled = np.abs(stepped - new).max(initial=0.0) < 1
        new, rest = stepped, rest - changed
        if settled or abs(rest) < 1:
            break
    return new
