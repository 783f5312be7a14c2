"""The course of a simulated run over time.

Owns: ``Track``, a recorder for ``memcoord.simulation.world.simulate``. It keeps memory used, held
and demanded per tick and domain, as arrays for the metrics and as samples for the chart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hypervisor.coordination.coordinator import TickReport
from hypervisor.public.backend import DomainSnapshot
from memcoord.testbed.report.metrics import TimeSeries
from memcoord.testbed.report.series import Sample

FIELDS = ("used", "target", "ram", "ram_target", "demand")


@dataclass
class Track:
    """A recorder of one run; a domain that is not open at a tick has no entry for it.

    ``names``: the domains of the scenario.
    """

    names: tuple[str, ...]
    capacity_pages: int = 0  # most that tmem could hold at any tick
    times_s: list[float] = field(default_factory=list)
    rows: list[dict[str, tuple[float, ...]]] = field(default_factory=list)
    _failed: dict[str, int] = field(default_factory=dict)

    def __call__(self, time_s: float, report: TickReport) -> None:
        """Note one tick."""
        capacity = report.host.tmem_capacity_pages
        self.capacity_pages = max(self.capacity_pages, capacity)
        self.times_s.append(time_s)
        self.rows.append({now.name: self._row(now, capacity) for now in report.host.domains})

    def _row(self, now: DomainSnapshot, capacity: int) -> tuple[float, ...]:
        """The values of FIELDS at the begin of the tick, in pages."""
        failed = max(now.puts_failed - self._failed.get(now.name, 0), 0)
        self._failed[now.name] = now.puts_failed
        target = capacity if now.tmem_target_pages < 0 else now.tmem_target_pages
        used = now.tmem_used_pages
        return used, min(target, capacity), now.current_frames, now.target_frames, used + failed

    def series(self) -> TimeSeries:
        """Every field as an array (ticks, domains); NaN where a domain was not open."""
        table = np.full((len(FIELDS), len(self.rows), len(self.names)), np.nan)
        for tick, row in enumerate(self.rows):
            for column, name in enumerate(self.names):
                if name in row:
                    table[:, tick, column] = row[name]
        return TimeSeries(
            self.names,
            float(self.capacity_pages),
            np.array(self.times_s, dtype=np.float64),
            **dict(zip(FIELDS, table, strict=True)),
        )

    def samples(self, policy: str) -> list[Sample]:
        """The samples that the chart of a report is drawn from."""
        return [
            Sample(policy, time_s, name, int(values[0]), int(values[1]))
            for time_s, row in zip(self.times_s, self.rows, strict=True)
            for name, values in row.items()
        ]
