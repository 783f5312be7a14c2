"""The course of a simulated run over time.

Owns: recorders for ``memcoord.simulation.world.simulate``. ``Track`` keeps memory used, held and
demanded per tick and domain, as arrays for the metrics and as samples for the chart. ``Ticks``
keeps what ``series.csv`` of a real run has, and the decisions.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hypervisor.coordination.coordinator import TickReport
from hypervisor.coordination.decisions import Decision
from hypervisor.public.backend import DomainSnapshot
from memcoord.testbed.archive.columns import Columns
from memcoord.testbed.report.metrics import TimeSeries
from memcoord.testbed.report.series import DOMAIN_COLUMNS, HOST_COLUMNS, Sample

#: Is called after every tick: virtual seconds since the start, the coordinator's report.
Recorder = Callable[[float, TickReport], None]
#: Of ``Ticks``: some 200 MB of numbers, and the decisions of an hour.
ROWS_MAX, DECISIONS_MAX = 1_000_000, 200_000
DECISION_FIELDS = ("tick", "domain", "kind", "old", "new", "rule", "clamp")
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
        times_s = np.array(self.times_s, dtype=np.float64)
        columns = dict(zip(FIELDS, table, strict=True))
        return TimeSeries(self.names, float(self.capacity_pages), times_s, **columns)

    def samples(self, policy: str) -> list[Sample]:
        """The samples that the chart of a report is drawn from."""
        return [
            Sample(policy, time_s, name, int(values[0]), int(values[1]))
            for time_s, row in zip(self.times_s, self.rows, strict=True)
            for name, values in row.items()
        ]


@dataclass
class Ticks:
    """A recorder of one run: a row per tick and domain, the columns of ``series.csv``; decisions.

    Of a run so long that rows would exceed ROWS_MAX every second tick is kept, then every fourth
    and so on. Counters count on, so rates stay right. After DECISIONS_MAX decisions one row says
    ``more`` and no further ones follow.
    """

    policy: str
    decided: list[dict[str, Any]] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _numbers: array[float] = field(default_factory=lambda: array("d"))
    _stride: int = 1

    def __call__(self, time_s: float, report: TickReport) -> None:
        """Note one tick."""
        if report.decisions:
            self._note_decisions(time_s, report.decisions)
        if report.tick % self._stride:
            return
        host = [getattr(report.host, column) for column in HOST_COLUMNS]
        for now in report.host.domains:
            own = [getattr(now, column) for column in DOMAIN_COLUMNS]
            self._names.append(now.name)
            self._numbers.extend([report.tick, time_s, *own, *host])
        if len(self._names) > ROWS_MAX:
            self._thin()

    def _note_decisions(self, time_s: float, decisions: Sequence[Decision]) -> None:
        left = DECISIONS_MAX - len(self.decided)
        told = {"policy": self.policy, "round": 0, "time_s": time_s}
        for one in decisions[: max(left, 0)]:
            self.decided.append(told | {name: getattr(one, name) for name in DECISION_FIELDS})
        if 0 <= left < len(decisions):
            self.decided.append(told | {"more": True})

    def _thin(self) -> None:
        self._stride *= 2
        table = np.array(self._numbers).reshape(len(self._names), -1)
        kept = np.flatnonzero(table[:, 0] % self._stride == 0)
        self._names = [self._names[row] for row in kept]
        self._numbers = array("d", table[kept].tobytes())

    def columns(self) -> Columns:
        """The rows as columns, in the units of ``series.csv``."""
        heads = ("tick", "time_s", *DOMAIN_COLUMNS, *(f"host_{name}" for name in HOST_COLUMNS))
        table = np.array(self._numbers, dtype=np.float64).reshape(-1, len(heads))
        count = len(self._names)
        return {
            "policy": np.full(count, self.policy),
            "round": np.zeros(count),
            "domain": np.array(self._names, dtype=np.str_),
            **dict(zip(heads, table.T, strict=True)),
        }


def both(*recorders: Recorder) -> Recorder:
    """A recorder that tells each of ``recorders``."""

    def record(time_s: float, report: TickReport) -> None:
        for one in recorders:
            one(time_s, report)

    return record
