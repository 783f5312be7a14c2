"""The tables and the figure of ``memcoord bench malloc``, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memcoord.benchmarks.malloc import plan
from memcoord.benchmarks.malloc.plan import CELLS, KEY_SHARES, NATIVE, SHARES, SITUATIONS
from memcoord.benchmarks.tables import MISSING, Table, short
from memcoord.testbed.report.figures import Axis, Figure, Line

#: The allocator of the figure: every machine has it.
DRAWN = "glibc"

Result = Mapping[str, Any]


def tables(result: Result) -> Iterator[Table]:
    """Single calls, then whole runs."""
    yield _calls(result)
    yield _sums(result)


def _calls(result: Result) -> Table:
    lines = []
    for trace, allocator in CELLS:
        rows = [
            result["rows"].get(plan.calls(trace, allocator, situation)) for situation in SITUATIONS
        ]
        if rows[0] is not None:
            lines.append([f"{trace}, {allocator}", *map(_quantiles, rows)])
    title = "A call with the first touch of what it gave, ns: p50 / p99 / p99.9"
    return Table(title, ["", *SITUATIONS], lines)


def _quantiles(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return MISSING
    shown = (row[name] for name in ("p50", "p99", "p999"))
    return " / ".join(MISSING if value is None else short(value) for value in shown)


def _sums(result: Result) -> Table:
    killed = result["machine"].get("killed_by_the_kernel", {})
    lines = []
    for trace, allocator in CELLS:
        native = result["rows"].get(plan.total(trace, allocator, NATIVE))
        if native is None:
            continue
        cells = []
        for situation in SITUATIONS:
            row = result["rows"].get(plan.total(trace, allocator, situation))
            if row is None:
                died = killed.get(f"{trace} {allocator}")
                cells.append(f"killed in {died} runs" if died else MISSING)
            else:
                cells.append(f"{short(row['median'])} ({row['median'] / native['median']:.2f})")
        lines.append([f"{trace}, {allocator}", *cells])
    title = "All calls of a run, ns a call (over native)"
    return Table(title, ["", *SITUATIONS], lines)


def figure(result: Result) -> Figure:
    """How many calls took longer than a time: one line for each trace and situation."""
    lines = []
    for colour, situation in enumerate(SITUATIONS):
        for trace in sorted({trace for trace, _ in CELLS}):
            row = result["rows"].get(plan.calls(trace, DRAWN, situation))
            if row is None or KEY_SHARES not in row:
                continue
            points = [(ns, 1 - share) for ns, share in zip(row[KEY_SHARES], SHARES, strict=True)]
            lines.append(Line(f"{trace}, {situation}", points, colour, is_dashed=colour > 1))
    x_axis = Axis(f"a call of {DRAWN}'s malloc, with the first touch of what it gave, ns", True)
    return Figure(lines, x_axis, Axis("share of calls that took longer", True))
