"""reconf-static: the same share for every domain that has ever failed a put.

Source: SmarTmem (Garrido, Nishtala, Carpenter, IPDPSW 2019); the form is a reconstruction. Law,
with T the capacity and A the domains whose puts have ever failed: mm_target = T / #A in A, the
floor elsewhere. Signals: failed puts since the domain attached. Time constant: one interval after
a domain's first failed put; nothing ever leaves A but with its domain. Bad at: a need of long ago
counts as one of now, so it ends as static-alloc once every domain has been busy; a domain must lose
its first interval of puts to be seen; one junk put buys a full share.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from policies.base import Pages, Plan, PolicyParams, View


class ReconfStatic:
    """T / #A for each domain that has shown need."""

    name: ClassVar[str] = "reconf-static"
    monotone: ClassVar[bool] = True
    settles: ClassVar[int] = 1

    class Params(PolicyParams):
        """``floor``: the target of a domain that has shown no need."""

        floor: Pages = 0

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        needy = view.failed_puts_total > 0
        count = int(needy.sum())
        floor = min(self.params.floor, view.capacity // max(len(view), 1))
        share = (view.capacity - floor * (len(view) - count)) // max(count, 1)
        return Plan(tmem=np.where(needy, share, floor), why=_RULES[needy.astype(np.intp)])


_RULES = np.array(["never failed a put: floor", "has failed puts: equal share"])
