"""qmemman: a domain prefers 1.3 times the memory it uses; the rest is shared by preference.

Source: Qubes OS (qubes-core-admin, ``qubes/qmemman/algo.py`` and ``systemstate.py``). Law:

    preferred = 1.3 * used, at least 200 MiB, at most the maximum
    available = (free - 50 MiB) - sum(preferred - held)

1. available > 0: target = 99.9 % of preferred * (1 + available / sum(preferred)); memory that
   a maximum cuts off is dealt out equally to the others
2. else, a domain that holds 10 MiB or more above preferred shrinks to preferred; the free memory
   beyond those shrinks is added to the others by preference
3. nothing moves unless that is 150 MiB in all, or 15 MiB for one that holds less than it prefers,
   or the 50 MiB are short by 15

A domain that has not moved towards a lower target for ``stuck_ticks`` is left out, until it does or
holds less than it prefers. Absolute numbers are multiplied by ``scale``, see
``policies.ram_targets``; ``held`` is the larger of a domain's memory and its target.
Signals: pages committed, or used and failed puts where that is not measured. Time constant: none;
the source acts when a guest writes its use, here every tick.
Bad at: it believes what guests say, so a liar is preferred; there is no fairness but need; below
the thresholds of rule 3 it leaves a domain short.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Column, Pages, Plan, PolicyParams, View
from policies.ram_targets import (
    FRAMES_PER_MIB,
    Scale,
    Ticks,
    needed_frames,
    scale_of,
    spare_frames,
    within,
)

CACHE_FACTOR = 1.3
#: So that rounding never asks for more than there is.
ROUNDING_FACTOR = 0.999
ROUNDS_MAX = 16


class Qmemman:
    """Qubes' balancing."""

    name: ClassVar[str] = "qmemman"
    settles: ClassVar[bool] = True

    class Params(PolicyParams):
        """Pages; the rules of the module's docstring say which is which."""

        least_preferred: Pages = 200 * FRAMES_PER_MIB
        left_free: Pages = 50 * FRAMES_PER_MIB
        least_gift: Pages = 10 * FRAMES_PER_MIB
        least_transfer: Pages = 150 * FRAMES_PER_MIB
        least_gain: Pages = 15 * FRAMES_PER_MIB
        scale: Scale = 0.0
        stuck_ticks: Ticks = 5

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        scale = scale_of(view, self.params.scale)
        held = np.maximum(view.ram_current, view.ram_target)
        high = np.maximum(view.ram_minimum, view.ram_maximum)
        least = np.maximum(self.params.least_preferred * scale, view.ram_minimum)
        preferred = np.clip(CACHE_FACTOR * needed_frames(view), np.minimum(least, high), high)
        carry, stuck = self._watch(view, preferred)
        promised = np.maximum(view.ram_target - view.ram_current, 0).sum()
        free = spare_frames(view) - promised - self.params.left_free * scale
        target, at = view.ram_target.copy(), ~stuck
        if free - (preferred - held)[at].sum() > 0:
            target[at] = enough(preferred[at], held[at], high[at], free)
            rule = "memory for all: preferred and a share of the rest"
        else:
            target[at] = scarce(
                preferred[at], held[at], high[at], free, self.params.least_gift * scale
            )
            rule = "memory is short: down to preferred, the rest by preference"
        if not self._worth_it(target - view.ram_target, held < preferred, free, scale):
            target, rule = view.ram_target, "too small a change"
        why = np.where(stuck, "stuck: left out", rule)
        return Plan(tmem=np.zeros(len(view)), ram=within(view, target), why=why, carry=carry)

    def _worth_it(
        self, change: Column, short: NDArray[np.bool_], free: float, scale: float
    ) -> bool:
        """Rule 3."""
        if -free > self.params.least_gain * scale:
            return True
        if (change[short] > self.params.least_gain * scale).any():
            return True
        return bool(np.abs(change).sum() + abs(free) > self.params.least_transfer * scale)

    def _watch(self, view: View, preferred: Column) -> tuple[Column, NDArray[np.bool_]]:
        """Carry: frames held at this tick, ticks without giving any though asked; the stuck."""
        last, still = view.carried(2, -1.0).T
        gives = (last >= 0) & (view.ram_current < last)
        asked = (view.ram_current > view.ram_target) & (view.ram_current >= preferred)
        still = np.where(asked & ~gives, np.maximum(still, 0) + 1, 0)
        return np.column_stack((view.ram_current, still)), still > self.params.stuck_ticks


def enough(preferred: Column, held: Column, maximum: Column, free: float) -> Column:
    """Rule 1: targets in frames; ``free`` beyond what stays free."""
    available = free - (preferred - held).sum()
    asked = ROUNDING_FACTOR * preferred * (1 + available / max(preferred.sum(), 1.0))
    target: Column = np.minimum(asked, maximum)
    left = (asked - target).sum()
    for _ in range(ROUNDS_MAX):
        open_ = target < maximum
        if left < 1 or not open_.any():
            break
        bonus = ROUNDING_FACTOR * left / np.count_nonzero(open_)
        asked = np.where(open_, target + bonus, target)
        target = np.minimum(asked, maximum)
        left = (asked - target).sum()
    return target


def scarce(
    preferred: Column, held: Column, maximum: Column, free: float, least_gift: float
) -> Column:
    """Rule 2: targets in frames; ``free`` beyond what stays free."""
    donor = (preferred < held) | (held >= maximum)
    gift = np.where(donor & (held - preferred >= least_gift), held - preferred, 0.0)
    rest = free - gift.sum()
    wanted = preferred[~donor].sum()
    if rest < 0 or wanted == 0:
        return held - gift
    grown = np.minimum(ROUNDING_FACTOR * (held + preferred / wanted * rest), maximum)
    return np.where(donor, held - gift, grown)
