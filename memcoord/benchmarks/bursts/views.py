"""Tables and figure of ``memcoord bench bursts``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from memcoord.benchmarks.bursts.bench import CANDIDATES, CREDITS, LIMITS_NS
from memcoord.benchmarks.bursts.demand import SERIES
from memcoord.benchmarks.tables import Table
from memcoord.testbed.report.figures import Axis, Figure, Line

HEAD = ["", "< 10 us", "< 1 ms", "< 100 ms", "missed", "p99 ms", "touched p99 ms", "idle GiB s"]


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Per series: the share of the requests served in time, and its cost."""
    for series in SERIES:
        lines = []
        for candidate in CANDIDATES:
            row = result["rows"].get(f"{candidate.name} {series}")
            if row is not None:
                shares = [f"{row[key]:.1%}" for key in (*LIMITS_NS, "missed")]
                times = [f"{row[f'{key}_p99_ns'] / 1e6:,.3g}" for key in ("granted", "touched")]
                lines.append([candidate.name, *shares, *times, f"{row['held_idle_gib_s']:.4f}"])
        yield Table(series, HEAD, lines)


def figure(result: Mapping[str, Any]) -> Figure:
    """Memory held idle against the share of requests served within 1 ms, means of the series."""
    found = {}
    for candidate in CANDIDATES:
        rows = [result["rows"].get(f"{candidate.name} {series}") for series in SERIES]
        known = [row for row in rows if row is not None]
        if known:
            idle = mean(row["held_idle_gib_s"] for row in known)
            found[candidate.name] = (idle, 100 * mean(row["under_1ms"] for row in known))
    ours = [name for name in (f"direct credit {depth}" for depth in CREDITS) if name in found]
    lines = [Line("direct, credit " + " ".join(map(str, CREDITS)), [found[n] for n in ours], 0)]
    others = [name for name in found if name not in ours]
    lines += [Line(name, [found[name]], 1 + number) for number, name in enumerate(others)]
    idle_axis = Axis("memory held idle, GiB x s")
    return Figure(lines, idle_axis, Axis("requests served within 1 ms, %"))
