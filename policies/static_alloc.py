"""static-alloc: the same share for every domain there is.

Source: SmarTmem (Garrido, Nishtala, Carpenter, IPDPSW 2019). Law: mm_target = T / N, where T is the
capacity and N the number of registered domains. Signals: N and T only. Time constant: one interval
after a domain comes or goes. Bad at: it does not conserve work; the share of an idle domain stays
unused while a busy one swaps.
"""

import numpy as np

from policies.base import Plan, View


class StaticAlloc:
    """T / N each."""

    name = "static-alloc"
    monotone = True
    settles = True
    truthful = True

    def plan(self, view: View) -> Plan:
        """An equal share for everybody."""
        share = view.capacity // max(len(view), 1)
        return Plan(tmem=np.full(len(view), share), why=["equal share"] * len(view))
