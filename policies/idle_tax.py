"""idle-tax: memory in proportion to shares, where an idle page costs more than one in use.

Source: Waldspurger, Memory Resource Management in VMware ESX Server, OSDI 2002. Law: memory is
always taken from the domain with the lowest S / (P * (f + k * (1 - f))), S its shares (weight), P
the frames it holds, f the fraction of them in use, k = 1 / (1 - tax). The state in which no domain
would lose memory, computed here at once: P in proportion to S / (f + k * (1 - f)) between
minimum and maximum. Signals: idle fraction (not measured: all in use), weight. f is the larger of
a fast and a slow moving average, so it rises quickly and falls slowly. Time constant: 1 /
``fast`` intervals up, 1 / ``slow`` down; the original samples for 30 s and balances every 15 s.
Bad at: a domain that touches pages for nothing is not idle; f says how much is in use, not how
much would be of use, so a thrashing domain gets no more than a contented one.

Memory goes to RAM and none to tmem.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from policies.average import moving_average
from policies.base import Plan, PolicyParams, View
from policies.water import water_fill

TaxPercent = Annotated[float, msgspec.Meta(ge=0, lt=100)]
Step = Annotated[float, msgspec.Meta(gt=0, le=1)]


class IdleTax:
    """Shares with a tax on idle memory."""

    name: ClassVar[str] = "idle-tax"
    monotone: ClassVar[bool] = True
    settles: ClassVar[int] = 200

    class Params(PolicyParams):
        """``tax``: percent of an idle page that is taxed; steps of the two moving averages."""

        tax: TaxPercent = 75.0
        fast: Step = 0.5
        slow: Step = 0.05

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        sample = 1 - np.clip(np.nan_to_num(view.idle, nan=0.0), 0, 1)
        before = view.carried(2, np.nan)
        fast = moving_average(before[:, 0], sample, self.params.fast)
        slow = moving_average(before[:, 1], sample, self.params.slow)
        active = np.maximum(fast, slow)
        price = active + (1 - active) / (1 - self.params.tax / 100)
        ram = water_fill(view.ram_capacity, view.weight / price, view.ram_minimum, view.ram_maximum)
        return Plan(
            tmem=np.zeros(len(view)),
            ram=ram,
            why=_RULES[np.minimum(active * 10, 9).astype(np.intp)],
            carry=np.column_stack((fast, slow)),
        )


_RULES = np.array([f"in use {tenth}0 % or more: taxed for the rest" for tenth in range(10)])
