"""far-memory: move out pages that have been idle so long that hardly any is asked for again.

Source: Lagar-Cavilla et al., Software-Defined Far Memory in Warehouse-Scale Computers (ASPLOS
2019). Law, per domain and tick, with the working set WSS the pages touched within the least age:

1. best = the smallest idle age, not below the least, for which the promotions of this tick (pages
   touched after having been idle for that long) are at most 0.2 % of WSS
2. threshold = the K-th percentile of the past HISTORY bests, or the last one if that is higher
3. no page is moved out in the first ``warmup_ticks`` of a domain, nor while no age fulfils rule 1

The mapping: the far tier is tmem. The tmem target is the number of pages idle for the threshold or
longer, the RAM target the rest and ``headroom`` percent (the source leaves a job's limit alone; a
RAM target must leave room to grow). Where the tmem targets exceed the memory the host has beside
RAM, they are cut in proportion. ``cold`` and ``promotions`` count the pages of a domain in RAM and
in tmem. During warm-up RAM stays and tmem keeps its pages. Only the simulator measures ages.

A tick stands for the source's minute, however long it is; the least age of 120 s is two ticks.
Signals: cold, promotions; pages committed, or in RAM and tmem where that is not measured.
Time constant: one tick up, the history (an hour there) down.
Bad at: it saves memory but gives no more to a domain that needs more; a busy tick keeps the
threshold high until it is one in fifty; ages are known at the edges of ``AGE_EDGES_S`` only.
"""

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.base import AGE_EDGES_S, Column, Percent, Plan, PolicyParams, Ticks, View
from policies.ram_targets import host_frames, within

HISTORY = 60
NONE = len(AGE_EDGES_S)  # no age keeps to the objective


class FarMemory:
    """Google's proactive moving of cold memory."""

    name = "far-memory"
    settles = True
    needs = ("ages",)

    class Params(PolicyParams):
        """``slo``: promotions per tick in percent of WSS; ``percentile``: K."""

        slo: Percent = 0.2
        percentile: Percent = 98.0
        least_age_ticks: Ticks = 2
        warmup_ticks: Annotated[int, msgspec.Meta(ge=0)] = 5
        headroom: Annotated[float, msgspec.Meta(ge=0, le=100)] = 5.0

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        if view.cold is None or view.promotions is None:
            return Plan(why=np.full(len(view), _RULES[0]), carry=view.carried(HISTORY, -1.0))
        inside = view.in_use + view.used
        total = np.where(np.isnan(view.committed), inside, view.committed)
        total = np.clip(total, 0, np.maximum(inside, view.ram_maximum))
        known = ~np.isnan((view.cold + view.promotions).sum(axis=1))
        cold = np.clip(np.where(known[:, np.newaxis], view.cold, 0), 0, total[:, np.newaxis])
        threshold, history = self._threshold(view, known, view.promotions, total, cold)
        active = known & (view.age >= self.params.warmup_ticks)
        far = np.take_along_axis(np.column_stack((cold, np.zeros(len(view)))), threshold, 1)[:, 0]
        near = (total - far) * (1 + self.params.headroom / 100)
        ram = within(view, np.where(active, near, view.ram_target))
        tmem = np.where(active, far, view.used)
        room = max(min(view.capacity, host_frames(view) - ram.sum()), 0)
        tmem = tmem * min(1.0, room / max(tmem.sum(), 1.0))
        rule = np.where(~known, 0, np.where(active, 2 + threshold[:, 0], 1))
        return Plan(tmem, ram, _RULES[rule], history)

    def _threshold(
        self, view: View, known: NDArray[np.bool_], promotions: Column, total: Column, cold: Column
    ) -> tuple[NDArray[np.intp], Column]:
        """Index of the age of each domain (NONE: no age), as a column, and the history with now."""
        least_s = self.params.least_age_ticks * view.interval_s
        first = min(int(np.searchsorted(AGE_EDGES_S, least_s)), NONE - 1)
        allowed = self.params.slo / 100 * (total - cold[:, first])
        keeps = promotions <= allowed[:, np.newaxis]
        keeps[:, :first] = False
        best = np.where(keeps.any(axis=1), keeps.argmax(axis=1), NONE)
        history = view.carried(HISTORY, -1.0)
        pushed = np.column_stack((history[:, 1:], best))
        history = np.where(known[:, np.newaxis], pushed, history)
        taken = np.count_nonzero(history >= 0, axis=1)
        rank = HISTORY - taken + np.ceil(self.params.percentile / 100 * taken).astype(np.intp) - 1
        rank = np.clip(rank, 0, HISTORY - 1)
        usual = np.take_along_axis(np.sort(history, axis=1), rank[:, np.newaxis], 1)[:, 0]
        return np.maximum(usual, best).astype(np.intp)[:, np.newaxis], history


_RULES = np.array(
    ["idle ages not measured", "warm-up"]
    + [f"idle for {edge:g} s or longer: far" for edge in AGE_EDGES_S]
    + ["no age keeps promotions low: all near"]
)
