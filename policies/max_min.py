"""max-min: no domain gets more while another of the same weight lacks more.

Source: weighted max-min fairness by water filling (Bertsekas and Gallager, Data Networks, 6.5.2).
Law, with C the capacity and d the demand: x = min(d, weight * L), at least the floor, with the
level L at which the sum is C. When all demands fit, x = d, and the rest stays unassigned
(``rest=keep``) or is lent by the same law without demands (``rest=share``). Signals: demand, that
is pages held plus puts failed in the interval; weight, minimum, maximum. Time constant: one
interval, no memory. Bad at: it believes the demand, so a domain that puts junk always gets a full
share; it knows nothing of the worth of a page; with ``rest=keep`` a domain can only grow by failing
puts first.
"""

from typing import Literal

import numpy as np

from policies.base import Pages, Plan, PolicyParams, View
from policies.water import water_fill


class MaxMin:
    """Water filling up to the demands."""

    name = "max-min"
    monotone = True
    settles = 1
    truthful = True

    class Params(PolicyParams):
        """``floor``: the least of every domain; ``rest``: keep or share pages without demand."""

        floor: Pages = 0
        rest: Literal["keep", "share"] = "keep"

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        floor = np.maximum(view.minimum, np.minimum(self.params.floor, view.maximum))
        demand = np.minimum(view.demand, view.maximum)
        target = water_fill(view.capacity, view.weight, floor, demand)
        rule = np.where(target < demand, 1, np.where(target > demand, 2, 0))
        if self.params.rest == "share":
            target = water_fill(view.capacity, view.weight, target, view.maximum)
        return Plan(tmem=target, why=_RULES[rule])


_RULES = np.array(["all it demands", "cut to the level", "floor above its demand"])
