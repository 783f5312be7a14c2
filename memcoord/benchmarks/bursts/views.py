"""Tables and figure of ``memcoord bench bursts``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import mean
from typing import Any

from memcoord.benchmarks.bursts.bench import ALL, CANDIDATES, CREDITS, LIMITS_NS, burst_row
from memcoord.benchmarks.bursts.demand import SERIES
from memcoord.benchmarks.bursts.recorded import PROGRAMS
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report.figures import Axis, Figure, Line

HEAD = ["", "< 10 us", "< 1 ms", "< 100 ms", "missed", "p99 ms", "touched p99 ms", "idle GiB s"]
BURST_HEAD = [
    "", "in time", "95 % of rounds", "touched in time", "stall p50 ms", "p90", "p99", "max",
    "idle GiB s",
]  # fmt: skip


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Bursts of real programs in time, by mechanism and by program; then the requests per series:
    the share that is served in time, and its cost."""
    yield _of_all(result)
    yield _by_program(result, "bursts in time", lambda row: _percent(row["in_time"]["value"]))
    yield _by_program(result, "median stall per burst, ms", lambda row: _ms(row["p50"]))
    yield _idle(result)
    for series in SERIES:
        lines = []
        for candidate in CANDIDATES:
            row = result["rows"].get(f"{candidate.name} {series}")
            if row is not None:
                shares = [f"{row[key]:.1%}" for key in (*LIMITS_NS, "missed")]
                times = [f"{row[f'{key}_p99_ns'] / 1e6:,.3g}" for key in ("granted", "touched")]
                lines.append([candidate.name, *shares, *times, f"{row['held_idle_gib_s']:.4f}"])
        if lines:
            yield Table(series, HEAD, lines)


def _of_all(result: Mapping[str, Any]) -> Table:
    lines = []
    for candidate in CANDIDATES:
        row = result["rows"].get(burst_row(candidate.name))
        if row is not None:
            share = row["in_time"]
            rows = [result["rows"].get(burst_row(candidate.name, name)) for name in PROGRAMS]
            touched = [one["touched_in_time"]["value"] for one in rows if one is not None]
            ends = f"{_percent(share['low'])} to {_percent(share['high'])}"
            stalls = [_ms(row[key]) for key in ("p50", "p90", "p99", "max")]
            idle = _idle_of(result, candidate.name)
            lines.append([candidate.name, _percent(share["value"]), ends, _percent(mean(touched)),
                          *stalls, MISSING if idle is None else f"{idle:.4f}"])  # fmt: skip
    return Table(f"bursts of {ALL}", BURST_HEAD, lines)


def _by_program(
    result: Mapping[str, Any], title: str, shown: Callable[[Mapping[str, Any]], str]
) -> Table:
    lines = []
    for candidate in CANDIDATES:
        rows = [result["rows"].get(burst_row(candidate.name, name)) for name in PROGRAMS]
        if any(rows):
            lines.append(
                [candidate.name, *(MISSING if row is None else shown(row) for row in rows)]
            )
    return Table(title, ["", *PROGRAMS], lines)


def _idle(result: Mapping[str, Any]) -> Table:
    lines = []
    for candidate in CANDIDATES:
        rows = [result["rows"].get(f"{candidate.name} {name}") for name in PROGRAMS]
        if any(rows):
            shown = [MISSING if row is None else f"{row['held_idle_gib_s']:.3f}" for row in rows]
            lines.append([candidate.name, *shown])
    return Table("memory held idle, GiB s", ["", *PROGRAMS], lines)


def _idle_of(result: Mapping[str, Any], candidate: str) -> float | None:
    rows = [result["rows"].get(f"{candidate} {name}") for name in PROGRAMS]
    known = [row["held_idle_gib_s"] for row in rows if row is not None]
    return mean(known) if known else None


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _ms(value_ns: float | None) -> str:
    return MISSING if value_ns is None else f"{value_ns / 1e6:,.3g}"


def figure(result: Mapping[str, Any]) -> Figure:
    """Memory held idle against the share of the programs' bursts served in time."""
    found = {}
    for candidate in CANDIDATES:
        row, idle = result["rows"].get(burst_row(candidate.name)), _idle_of(result, candidate.name)
        if row is not None and idle is not None:
            found[candidate.name] = (idle, 100 * row["in_time"]["value"])
    ours = [name for name in (f"direct credit {depth}" for depth in CREDITS) if name in found]
    lines = [Line("direct, credit " + " ".join(map(str, CREDITS)), [found[n] for n in ours], 0)]
    others = [name for name in found if name not in ours]
    lines += [Line(name, [found[name]], 1 + number) for number, name in enumerate(others)]
    idle_axis = Axis("memory held idle, GiB x s", is_log=True)
    return Figure(lines, idle_axis, Axis("bursts of programs served in time, %"))
