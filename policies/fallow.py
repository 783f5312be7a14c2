"""fallow: most of an equal share of RAM for everybody; the rest makes working sets whole.

Sources: max-min fairness (Bertsekas and Gallager, Data Networks, 6.5.2) for the share; for the rest
the balance set of Denning (CACM 1968; Working Sets Past and Present, TSE 1980), which admits a
working set to memory whole or lets it wait; idle memory put to use, after Waldspurger (OSDI 2002).
The combination is this project's own. RAM moves in areas, so targets are whole areas:

1. need = pages committed and 2 % more, in areas, between minimum and maximum
2. if the needs fit: each domain gets its need and an equal share of the rest, room to grow into;
   until it is used, tmem may have up to ``spare`` areas of it, for pages put away on the way
3. else, with the areas that pages in tmem leave, since nothing is pulled back from there: each
   domain has the part ``share`` of what max-min would give it; the rest is dealt out in the order
   of (need - what is held, in RAM or tmem) * (1 - 0.7 * stall) / weight, least first, higher
   priority before lower, up to the need. The need of a domain that hardly stalls is the memory it
   holds, less half of the idle part, until the other domains have enough
4. tmem gets the memory that RAM does not need; each domain keeps the tmem pages it holds

stall = pressure * (hits + swap-ins) / puts: a page put away and never asked for again is no reason
to get more memory. In rule 3 stall rises at once and falls slowly, so an admitted domain stays in.
Why: many a miss-ratio curve has a cliff where the working set fits, and of two domains that share
memory for one, both may gain as little as if they had none. Where no curve has a cliff an equal
share is kinder, and nobody may be starved: hence rule 3 begins with one. A domain that claims more
than it needs lacks more and comes later. Memory already held counts in favour of its domain, so
that memory does not wander: every page moved must be written and read again. Signals: pages
committed (where not measured: used, and failed puts), pressure, idle fraction, hits, swap-ins,
puts. Time constant: need at once; 5 intervals until a domain counts as content, 20 until a stall
has faded. Bad at: pages committed and never used again count while their owner stalls; who lacks
most waits with its share for as long as the others work; a domain that stands still on purpose is
taken for one that stalls.
"""

from typing import Annotated

import msgspec
import numpy as np

from policies.average import Step, moving_average
from policies.base import Column, Plan, PolicyParams, View
from policies.ram_targets import (
    AREA_FRAMES,
    alphabet,
    left_for_tmem,
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
    """Most of an equal share of RAM, and the rest where it completes a working set."""

    name = "fallow"
    settles = True
    truthful = True

    class Params(PolicyParams):
        """``margin`` over the pages committed; ``share``: part of an equal share that is kept.

        ``stall``: its weight in the order; below ``content`` it is none; ``lend``: part of what is
        idle that is lent; steps: ``step`` of the average, ``fade`` of the worst, ``trust`` of the
        part of puts asked for again, ``doze`` of idle as it rises; ``spare``: areas of tmem.
        """

        margin: Part = 0.02
        share: Part = 0.7
        stall: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.7
        content: Part = 0.25
        lend: Part = 0.5
        step: Step = 0.2
        fade: Step = 0.05
        trust: Step = 0.3
        doze: Step = 0.1
        spare: Annotated[int, msgspec.Meta(ge=0)] = 2

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
        if need.sum() <= areas:
            ram = need + whole_areas(view, areas - need.sum(), 0 * need, high - need)
            rule = np.zeros(len(view), dtype=np.intp)
        else:
            areas = max(areas - np.ceil(view.used.sum() / AREA_FRAMES), 0)
            equal = water_fill(areas, view.weight, low, need)
            own = np.maximum(low, np.floor(self.params.share * equal))
            ram = self._completed(view, areas, own, need, seen)
            rule = np.where(ram >= need, 1, np.where(ram > own, 2, 3))
        goal = np.clip(ram * AREA_FRAMES, view.ram_minimum, view.ram_maximum)
        goal = within(view, goal)
        tmem = left_for_tmem(view, goal, need * AREA_FRAMES, self.params.spare * AREA_FRAMES)
        return Plan(tmem=tmem, ram=goal, why=_RULES[rule], carry=seen)

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

    def _completed(self, view: View, areas: int, own: Column, need: Column, seen: Column) -> Column:
        """Rule 3: areas for each, at least ``own``."""
        held = np.ceil(view.ram_current / AREA_FRAMES)
        content = seen[:, AVERAGE] < self.params.content
        lent = held * self.params.lend * seen[:, IDLE]
        modest = np.where(content, np.clip(np.ceil(held - lent), own, need), need)
        ram, names = own, alphabet(view)
        for want in (modest, need):
            lacks = want - np.minimum(held + view.used / AREA_FRAMES, want)
            key = lacks * (1 - self.params.stall * seen[:, WORST]) / view.weight
            order = np.lexsort((names, want, key, -view.priority))
            more = np.maximum(want - ram, 0)[order]
            spare = max(areas - ram.sum(), 0)
            ram = ram.copy()
            ram[order] += np.clip(spare - (np.cumsum(more) - more), 0, more)
        return ram


_RULES = np.array(
    [
        "memory for all: its need, and a share of the rest",
        "memory is short: all it needs",
        "memory is short: its share, and a part of the rest",
        "memory is short: its share, and tmem",
    ]
)
