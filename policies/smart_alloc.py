"""smart-alloc(P): additive increase for failed puts, multiplicative decrease for slack.

Source: SmarTmem (Garrido, Nishtala, Carpenter, IPDPSW 2019); the form is a reconstruction. Law,
with T the capacity, for each domain and interval:

1. failed puts > 0:                    target + P % of T
2. else target - used > threshold:     target * (1 - P %)
3. else:                               target as it is
4. if the sum S of these exceeds T:    all of them * T / S; otherwise the rest stays unassigned

Signals: failed puts of the interval, used, target. Time constant: 100 / P intervals from nothing to
the whole pool; an idle target halves in ln 2 / -ln(1 - P / 100) intervals (P=6: 11, P=2: 34).
Bad at: it has no floor, so the target of an idle domain decays to used + threshold and it restarts
slowly; by step 4 active domains pay for every grower; a domain that puts junk grows without bound.
"""

import numpy as np

from policies.base import Pages, Percent, Plan, PolicyParams, View
from policies.vectors import Vector


class SmartAlloc:
    """SmarTmem's demand-following policy."""

    name = "smart-alloc"
    monotone = True
    settles = 1500  # ticks; an idle target at P=0.25 takes the longest
    vectors = (
        Vector(
            View.of(capacity=1000, target=[333] * 3, used=[333, 100, 320], failed_puts=[50, 0, 0]),
            tmem=[378.24, 301.26, 320.49],
            params={"P": 6, "threshold": 50},
            within=0.01,
        ),
        Vector(
            View.of(
                capacity=1000, target=[200, 200, 100], used=[200, 190, 90], failed_puts=[10, 0, 0]
            ),
            tmem=[220, 200, 100],
            params={"P": 2, "threshold": 50},
            within=0.01,
        ),
    )

    class Params(PolicyParams):
        """``P``: percent of the pool to grow by, and of the own target to shrink by."""

        P: Percent = 2.0
        threshold: Pages = 64

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        step = self.params.P / 100
        failing = view.failed_puts > 0
        idle = ~failing & (view.target - view.used > self.params.threshold)
        grown, shrunk = view.target + step * view.capacity, view.target * (1 - step)
        target = np.where(failing, grown, np.where(idle, shrunk, view.target))
        total, rules = target.sum(), _RULES
        if total > view.capacity:
            target, rules = target * (view.capacity / total), _SCALED_RULES
        return Plan(tmem=target, why=rules[np.where(failing, 0, np.where(idle, 1, 2))])


_RULES = np.array(["puts failed: grow", "slack above threshold: shrink", "keep"])
_SCALED_RULES = np.array([f"{rule}, then all scaled to fit" for rule in _RULES])
