"""A domain that lies: any policy, given signals that one domain has exaggerated.

Owns: the misreport. Work and memory of the domain stay the same. The policy sees other signals, of
every kind that a guest can forge: its own statistics, and puts, which a guest can issue at will
(junk). A ``factor`` above 1 claims more need than there is, below 1 less.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from policies import loader
from policies.base import Column, Plan, PolicyParams, View

#: The failed puts that a factor of 2 adds to each interval, as a share of capacity.
JUNK_SHARE = 0.01
#: The factors tried when looking for a gain from lying.
FACTORS = (0.5, 2.0, 4.0)
MORE = ("puts", "failed_puts", "failed_puts_total", "swap_ins", "committed", "pressure")
PARAMS_SEPARATOR = ";"


class Misreport:
    """``policy``, with the signals of ``domain`` times ``factor``."""

    name: ClassVar[str] = "misreport"

    class Params(PolicyParams):
        """``policy`` as for --policy, its parameters separated by ``;`` instead of ``,``."""

        policy: str
        domain: str
        factor: float

    def __init__(self, params: Params) -> None:
        self.params = params
        self._inner = loader.load(params.policy.replace(PARAMS_SEPARATOR, ","))
        self.needs = getattr(self._inner, "needs", ())

    def plan(self, view: View) -> Plan:
        """The plan of the policy for the forged view."""
        if self.params.domain not in view.names:
            return self._inner.plan(view)
        at, factor = view.names.index(self.params.domain), self.params.factor
        told: dict[str, Any] = {name: _scaled(getattr(view, name), at, factor) for name in MORE}
        junk = max(0.0, factor - 1.0) * JUNK_SHARE * view.capacity
        for name in ("puts", "failed_puts"):
            told[name][at] += junk
        told["failed_puts_total"][at] += junk * (view.age[at] + 1)
        told["pressure"][at] = np.minimum(told["pressure"][at], 1.0)
        told["idle"] = _scaled(view.idle, at, 1.0 / factor)
        told["idle"][at] = np.minimum(told["idle"][at], 1.0)
        told["ram_used"] = np.minimum(_scaled(view.ram_used, at, factor), view.ram_current)
        return self._inner.plan(dataclasses.replace(view, **told))


def policy_text(policy: str, domain: str, factor: float) -> str:
    """The text for --policy under which ``policy`` is lied to."""
    inner = policy.replace(",", PARAMS_SEPARATOR)
    return f"{__file__}:Misreport:policy={inner},domain={domain},factor={factor!r}"


def _scaled(column: Column, at: int, factor: float) -> Column:
    copy = column.copy()
    copy[at] *= factor
    return copy
