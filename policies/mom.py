"""MOM: the host's free memory decides whether all guests shrink or all grow, by 5 % at most.

Source: oVirt Memory Overcommitment Manager, ``doc/balloon.rules``. Law, with h the free part of
the host and used a guest's use, both means of the last SAMPLES ticks, and cur its present size:

1. h < 20 %:  p = 20 % * h / 20 %, or h - 5 % (which may be negative: the guest swaps) if h <= 5 %
              new = max(95 % of cur, minimum, used + p * cur), if not above cur
2. else, cur below maximum:  new = min(maximum, max(105 % of cur, minimum, used + 20 % of cur))
3. in both, only if it differs from cur by more than 0.25 % of cur; otherwise the target stays

h is the free memory beyond the host's slack, as a part of the memory to share.
Signals: free memory of the host, memory a guest uses and holds. Time constant: a cycle of
``period_ticks`` ticks (10 s there; by default one tick is one cycle), a window of ten samples
(about 50 s there); halving takes 14 cycles.
Bad at: it grows idle guests as readily as busy ones, knows nothing of guests that swap, and around
20 % free it swings between its two rules.
"""

import numpy as np

from policies.base import Column, Percent, Plan, PolicyParams, Ticks, View
from policies.ram_targets import spare_frames, unrounded, within

SAMPLES = 10


class Mom:
    """oVirt's ballooning rules."""

    name = "mom"

    class Params(PolicyParams):
        """Percentages: of the host the first two, of a guest's memory the others."""

        pressure: Percent = 20.0
        critical: Percent = 5.0
        guest_free: Percent = 20.0
        most_change: Percent = 5.0
        least_change: Percent = 0.25
        period_ticks: Ticks = 1

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        carried = view.carried(1 + 2 * SAMPLES, -1.0)
        kept = unrounded(view, carried[:, 0])
        free = np.full(len(view), max(spare_frames(view), 0) / max(view.ram_capacity, 1))
        uses = np.column_stack((carried[:, 2 : 1 + SAMPLES], view.in_use))
        frees = np.column_stack((carried[:, 2 + SAMPLES :], free))
        # The host's history is the same for all, but a newcomer has not lived through all of it.
        host = np.maximum.reduce(frees, axis=0, initial=-1.0)[np.newaxis]
        current = view.ram_current + kept
        stay = view.ram_target + kept
        new, rule = self.rules(view, current, _mean(uses), float(_mean(host)[0]))
        if view.tick % self.params.period_ticks:
            rule = np.full(len(view), _WAITS)
        ram = within(view, np.where(rule >= _STAYS, stay, new))
        carry = np.column_stack((ram, uses, frees))
        return Plan(tmem=np.zeros(len(view)), ram=ram, why=_RULES[rule], carry=carry)

    def rules(
        self, view: View, current: Column, used: Column, host_free: float
    ) -> tuple[Column, Column]:
        """New size of each guest in frames and the index of its rule."""
        pressure, critical = self.params.pressure / 100, self.params.critical / 100
        step, guest_free = self.params.most_change / 100, self.params.guest_free / 100
        floor = np.maximum(view.ram_minimum, used + guest_free * current)
        if host_free >= pressure:
            new = np.minimum(np.maximum((1 + step) * current, floor), view.ram_maximum)
            acts = current < view.ram_maximum
        else:
            free = (
                host_free - critical if host_free <= critical else guest_free * host_free / pressure
            )
            floor = np.maximum(view.ram_minimum, used + free * current)
            new = np.maximum((1 - step) * current, floor)
            acts = new <= current
        acts &= np.abs(new - current) > self.params.least_change / 100 * current
        return new, np.where(acts, int(host_free < pressure), _STAYS)


_STAYS, _WAITS = 2, 3
_RULES = np.array(
    [
        "host has free memory: grow",
        "host short of memory: shrink",
        "no change worth it",
        "between two cycles",
    ]
)


def _mean(samples: Column) -> Column:
    """The mean of each row over its samples, of which there is at least one."""
    taken = samples >= 0
    mean: Column = np.where(taken, samples, 0).sum(axis=1) / np.maximum(taken.sum(axis=1), 1)
    return mean
