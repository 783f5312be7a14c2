"""ram-max-min: equal RAM, and nobody above what its programs committed; tmem gets what is left.

Source: weighted max-min fairness by water filling (Bertsekas and Gallager, Data Networks, 6.5.2),
here of RAM, in whole areas. With C the memory there is, an area less for tmem, and n the pages
committed and 2 % more: ram = min(n, weight * L), at least the minimum, with the level L at which
the sum is C.
What RAM does not take is tmem's: each domain keeps the pages it holds, and the rest is divided in
proportion to pages that are neither in RAM nor in tmem. Signals: pages committed (not measured:
frames used, and failed puts). Time constant: one interval, no memory. Bad at: it takes every page
for equally useful, so an idle domain keeps its share and a program whose working set would just fit
in twice the share gets nothing of it; pages committed and never used again count.
"""

from typing import Annotated

import msgspec
import numpy as np

from policies.base import Plan, PolicyParams, View
from policies.ram_targets import AREA_FRAMES, left_for_tmem, needed_frames, whole_areas, within

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]


class RamMaxMin:
    """Water filling of RAM up to the pages committed."""

    name = "ram-max-min"
    settles = True
    truthful = True

    class Params(PolicyParams):
        """``margin`` over the pages committed; ``left``: areas that tmem keeps."""

        margin: Part = 0.02
        left: Annotated[int, msgspec.Meta(ge=0)] = 1

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        need = np.ceil(needed_frames(view) * (1 + self.params.margin) / AREA_FRAMES)
        low = np.ceil(view.ram_minimum / AREA_FRAMES)
        high = np.clip(need, low, np.maximum(view.ram_maximum // AREA_FRAMES, low))
        areas = max(view.ram_capacity // AREA_FRAMES - self.params.left, 0)
        ram = whole_areas(view, areas, low, high)
        goal = within(view, ram * AREA_FRAMES)
        rule = np.where(ram < high, 1, np.where(need < low, 2, 0))
        tmem = left_for_tmem(view, goal, need * AREA_FRAMES)
        return Plan(tmem=tmem, ram=goal, why=_RULES[rule])


_RULES = np.array(["all it committed", "cut to the level", "its minimum, above what it committed"])
