"""fallow: whole working sets first, in RAM; idle memory goes to domains that can use it.

Sources: the balance set of Denning (CACM 1968; Working Sets Past and Present, TSE 1980), which
admits a working set to memory whole or lets it wait; idle memory put to use, after Waldspurger
(OSDI 2002). The combination is this project's own. RAM moves in areas, so targets are whole areas:

1. need = pages committed and 2 % more, in areas, between minimum and maximum
2. if the needs fit and leave one area: each domain gets its need; the rest goes to the domains that
   have least
3. else: all memory but one area, which tmem keeps, is dealt out in the order of
   need * (1 - part of the need that is held, in RAM or tmem) * (1 - 0.7 * stall) / weight, least
   first, higher priority before lower, up to the need. The need of a domain that hardly stalls is
   the memory it holds, less half of the idle part, until the other domains have enough
4. tmem gets the memory that RAM does not take now, less an area for as long as RAM has to grow.
   Each domain keeps the tmem pages it holds. Remaining tmem is divided in proportion to pages that
   are neither in RAM nor in tmem; on a shrink the largest targets are cut first

stall = pressure * (hits + swap-ins) / puts: a page put away and never asked for again is no reason
to get more memory. In rule 3 stall rises at once and falls slowly, so an admitted domain stays in.
Why: a page costs 1 in RAM, 20 in tmem, over 100 on disk, and many a miss-ratio curve has a cliff
where the working set fits: then domains that run one after the other end sooner than domains that
share the host and swap to disk. A domain that claims more than it needs has the larger need and is
admitted later. Memory already held counts in favour of its domain, so that memory does not wander:
every page moved must be written and read again. Signals: pages committed (where not measured: used,
and failed puts), pressure, idle fraction, hits, swap-ins, puts. Time constant: need at once, one
area per interval and domain where tmem must make room; 5 intervals until a domain counts as
content, 20 until a stall has faded. Bad at: where a curve has no cliff an equal share is kinder to
the worst domain; the last domain in the order waits for as long as the others work; pages committed
and never used again count while their owner stalls.
"""

from typing import Annotated

import msgspec
import numpy as np

from policies.average import Step, moving_average
from policies.base import Column, Plan, PolicyParams, View
from policies.ram_targets import (
    AREA_FRAMES,
    HEADROOM_PAGES,
    alphabet,
    needed_frames,
    whole_areas,
    within,
)
from policies.water import water_fill

#: Columns of the carry: stall on average and at its worst of late, of puts the part asked
#: for again, idle fraction.
AVERAGE, WORST, AGAIN, IDLE = range(4)

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Fallow:
    """Whole working sets in RAM, and tmem for the rest."""

    name = "fallow"
    settles = True

    class Params(PolicyParams):
        """``margin`` over the pages committed; ``left``: areas for tmem when memory is short.

        ``stall``: its weight in the order; below ``content`` it is none; ``lend``: part of what is
        idle that is lent; steps: ``step`` of the average, ``fade`` of the worst, ``trust`` of the
        part of puts asked for again, ``doze`` of idle as it rises.
        """

        margin: Part = 0.02
        left: Annotated[int, msgspec.Meta(ge=0)] = 1
        stall: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.7
        content: Part = 0.25
        lend: Part = 0.5
        step: Step = 0.2
        fade: Step = 0.05
        trust: Step = 0.3
        doze: Step = 0.1

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        seen = self._watch(view)
        low = np.maximum(np.ceil(view.ram_minimum / AREA_FRAMES), 1)
        high = np.maximum(view.ram_maximum // AREA_FRAMES, low)
        need = np.ceil(needed_frames(view) * (1 + self.params.margin) / AREA_FRAMES)
        need = np.clip(need, low, high)
        areas = view.ram_capacity // AREA_FRAMES
        if need.sum() <= areas - self.params.left:
            ram, rule = whole_areas(view, areas, need, high), np.zeros(len(view), dtype=np.intp)
        else:
            ram = self._one_after_the_other(view, areas - self.params.left, low, need, seen)
            rule = np.where(ram >= need, 1, np.where(ram > low, 2, 3))
        goal = np.clip(ram * AREA_FRAMES, view.ram_minimum, view.ram_maximum)
        goal = within(view, goal)
        return Plan(
            tmem=_tmem(view, goal, need * AREA_FRAMES), ram=goal, why=_RULES[rule], carry=seen
        )

    def _watch(self, view: View) -> Column:
        """The carry, one array per column."""
        before = view.carried(4, np.nan)
        asked = np.minimum((view.hits + view.came_back) / np.maximum(view.puts, 1), 1)
        # A new domain has made no requests yet; until it has, its stall is believed.
        trusted = np.where(np.isnan(before[:, AGAIN]), 1.0, before[:, AGAIN])
        judged = (view.puts > 0) & ~np.isnan(before[:, AGAIN])
        again = np.where(judged, moving_average(trusted, asked, self.params.trust), trusted)
        # One that does not report its pressure stays what it was, and a newcomer is not content.
        unknown = np.isnan(view.pressure)
        usual = np.nan_to_num(before[:, AVERAGE], nan=self.params.content)
        stall = np.where(unknown, usual, again * np.clip(view.pressure, 0, 1))
        average = moving_average(before[:, AVERAGE], stall, self.params.step)
        worst = np.maximum(stall, moving_average(before[:, WORST], stall, self.params.fade))
        idle = np.clip(np.nan_to_num(view.idle, nan=0.0), 0, 1)
        idle = np.minimum(idle, moving_average(before[:, IDLE], idle, self.params.doze))
        return np.column_stack((average, worst, again, idle))

    def _one_after_the_other(
        self, view: View, areas: int, low: Column, need: Column, seen: Column
    ) -> Column:
        """Rule 3: areas for each."""
        held = np.ceil(view.ram_current / AREA_FRAMES)
        content = seen[:, AVERAGE] < self.params.content
        lent = held * self.params.lend * seen[:, IDLE]
        modest = np.where(content, np.clip(np.ceil(held - lent), low, need), need)
        ram, names = low, alphabet(view)
        for want in (modest, need):
            lacks = want - np.minimum(held + view.used / AREA_FRAMES, want)
            key = lacks * (1 - self.params.stall * seen[:, WORST]) / view.weight
            order = np.lexsort((names, want, key, -view.priority))
            more = np.maximum(want - ram, 0)[order]
            spare = max(areas - ram.sum(), 0)
            ram = ram.copy()
            ram[order] += np.clip(spare - (np.cumsum(more) - more), 0, more)
        return ram


def _tmem(view: View, goal: Column, need: Column) -> Column:
    """Rule 4: pages for each."""
    promised = np.maximum(view.ram_target - view.ram_current, 0).sum()
    growth = np.maximum(goal - np.maximum(view.ram_target, view.ram_current), 0).sum()
    free = max(view.capacity - view.used.sum() - promised, 0)
    now = min(free // AREA_FRAMES * AREA_FRAMES, growth)
    kept = AREA_FRAMES if growth > now else 0
    budget = max(view.capacity - promised - now - kept, 0)
    over = budget - view.used.sum()
    if over < 0:
        return water_fill(budget, np.ones(len(view)), np.zeros(len(view)), view.used)
    nowhere = np.maximum(need - view.ram_current - view.used, 0) + HEADROOM_PAGES
    pages: Column = view.used + nowhere * (over / max(nowhere.sum(), 1))
    return pages


_RULES = np.array(
    [
        "memory for all: its need, and a share of the rest",
        "memory is short: in, with all it needs",
        "memory is short: in with a part, or lends idle memory",
        "memory is short: waits, with its minimum and tmem",
    ]
)
