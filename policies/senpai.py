"""senpai: shrink each domain until it just begins to wait for memory, and back off when it does.

Source: Meta's ``senpai.py`` (facebookincubator); Weiner et al., TMO (ASPLOS 2022). Law, with the
integral of the time a domain stood still for want of memory since its limit last changed, in us:

1. integral > target (10,000):  limit * (1 + min((integral / target / 20)^2, 1))
2. else, after 6 quiet ticks:   limit * (1 - min((target / max(integral, 1) / 10)^2, 1) * 1 %)

within 100 MiB and 100 GiB, multiplied by ``scale``, see ``policies.ram_targets``. With ``tmo`` rule
2 is the paper's: limit * (1 - 0.05 % * max(0, 1 - pressure / 0.1 %)). A tick stands for the
source's second, however long it is: pressure counts as a fraction of a second.
Signals: pressure. Where it is not measured, nothing is done. Time constant: down by 1 % in 6 ticks,
up at once, at most to the double.
Bad at: it learns that a page was needed by taking it away; a domain that begins to work after an
idle time starts from little and doubles at best; it knows no neighbours: when memory is short, the
domain that waits longest does not get more than the one that grew first.
"""

from typing import Annotated

import msgspec
import numpy as np

from policies.base import Column, Pages, Plan, PolicyParams, Scale, Ticks, View
from policies.ram_targets import FRAMES_PER_MIB, scale_of, unrounded, within

US_PER_TICK = 1_000_000
BACKOFF_COEFFICIENT, BACKOFF_MAX = 20, 1.0
PROBE_COEFFICIENT, PROBE_MAX = 10, 0.01
TMO_PROBE, TMO_PRESSURE = 0.0005, 0.001

Microseconds = Annotated[int, msgspec.Meta(ge=1)]


class Senpai:
    """Meta's controller of memory limits by pressure."""

    name = "senpai"
    monotone = True

    class Params(PolicyParams):
        """``target_us``: the waiting a domain should just have in ``interval_ticks``."""

        target_us: Microseconds = 10_000
        interval_ticks: Ticks = 6
        least: Pages = 100 * FRAMES_PER_MIB
        most: Pages = 100 * 1024 * FRAMES_PER_MIB
        scale: Scale = 0.0
        tmo: bool = False

    def __init__(self, params: Params) -> None:
        self.params = params

    def plan(self, view: View) -> Plan:
        """The law of the module's docstring."""
        interval = self.params.interval_ticks
        asked, integral, grace = view.carried(3, -1.0).T
        known = ~np.isnan(view.pressure)
        # A new domain's limit is its present size, where there is a pressure that can raise it.
        limit = view.ram_target + unrounded(view, asked)
        limit = np.where((asked < 0) & known, view.ram_current, limit)
        waited = US_PER_TICK * np.clip(np.where(known, view.pressure, 0.0), 0, 1)
        integral = np.maximum(integral, 0) + waited
        grace = np.where(asked < 0, interval, grace)
        backs_off = known & (integral > self.params.target_us)
        probes = known & ~backs_off & (grace <= 0)
        factor = np.where(backs_off, self._back_off(integral), self._probe(integral))
        scale = scale_of(view, self.params.scale)
        new = np.clip(limit * (1 + factor), self.params.least * scale, self.params.most * scale)
        acts = backs_off | probes
        ram = within(view, np.where(acts, new, limit))
        grace = np.where(acts, interval - 1, np.maximum(grace - known, 0))
        carry = np.column_stack((ram, np.where(acts, 0.0, integral), grace))
        rule = np.where(backs_off, 0, np.where(probes, 1, np.where(known, 2, 3)))
        return Plan(tmem=np.zeros(len(view)), ram=ram, why=_RULES[rule], carry=carry)

    def _back_off(self, integral: Column) -> Column:
        error = integral / self.params.target_us
        return np.minimum((error / BACKOFF_COEFFICIENT) ** 2, 1) * BACKOFF_MAX

    def _probe(self, integral: Column) -> Column:
        if self.params.tmo:
            pressure = integral / (US_PER_TICK * self.params.interval_ticks)
            return -TMO_PROBE * np.maximum(1 - pressure / TMO_PRESSURE, 0)
        error = self.params.target_us / np.maximum(integral, 1)
        return -np.minimum((error / PROBE_COEFFICIENT) ** 2, 1) * PROBE_MAX


_RULES = np.array(
    ["waits too long: back off", "hardly waits: probe", "wait and see", "pressure not measured"]
)
