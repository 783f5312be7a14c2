"""greedy: no targets at all, as in tmem that no policy manages.

Source: transcendent memory in Xen 4.12 and before; the baseline of SmarTmem (Garrido, Nishtala,
Carpenter, IPDPSW 2019). Law: mm_target is unlimited, first come, first served. Signals: none. Time
constant: none. Bad at: a domain that starts late may find the pool full and get nothing, for good.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from policies.base import Plan, View


class Greedy:
    """First come, first served."""

    name: ClassVar[str] = "greedy"
    monotone: ClassVar[bool] = True
    settles: ClassVar[bool] = True

    def plan(self, view: View) -> Plan:
        """No limit for anybody."""
        return Plan(tmem=np.full(len(view), Plan.UNLIMITED))
