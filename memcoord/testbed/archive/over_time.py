"""What is drawn of a run over time: which panels, on which scale, of which domains.

Owns: the choice, the same for pages and for papers. A panel is one quantity; beside each other
stand its pictures, one per policy, on one scale. Above CURVES_MAX domains lines are a thicket:
then a map has a row per domain. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memcoord.testbed.archive.columns import Columns, by_domain, length, rate
from memcoord.testbed.archive.outcome import WINDOW_S
from memcoord.testbed.archive.thinning import last_of_each

Floats = NDArray[np.float64]

CURVES_MAX = 8
MAP_SLICES = 240
MIB = 1 << 20
#: A window of a rate is at most this part of the run, so that a short run has a course at all.
WINDOW_PART = 0.05
WINDOW_MIN_S = 0.1


@dataclass(frozen=True)
class Line:
    """One domain's course in one panel; ``colour`` is its number among the domains."""

    name: str
    time_s: Floats
    values: Floats
    colour: int
    is_target: bool = False


@dataclass(frozen=True)
class Panel:
    """One quantity under one policy. ``top`` and ``end_s`` are those of all its policies."""

    quantity: str
    title: str  # with the unit
    unit: str
    policy: str
    end_s: float
    top: float
    lines: Sequence[Line] = ()
    rows: Sequence[tuple[str, Floats]] = field(default=())  # of a map instead


@dataclass(frozen=True)
class _Quantity:
    name: str
    title: str
    unit: str
    column: str
    target: str = ""
    is_level: bool = False
    top: float | None = None
    scale: float = 1.0


QUANTITIES = (
    _Quantity("ram", "RAM held", "MiB", "ram_bytes", "ram_target_bytes", True, None, 1 / MIB),
    _Quantity("tmem", "tmem held", "MiB", "tmem_bytes", "tmem_target_bytes", True, None, 1 / MIB),
    _Quantity("waits", "time spent waiting for memory", "%", "stall_s", "", False, 100.0, 100.0),
    _Quantity("disk", "pages read back from disk", "pages/s", "disk_reads"),
)


def window_of(end_s: float) -> float:
    """The window over which rates of a run of this length are taken."""
    return min(WINDOW_S, max(WINDOW_MIN_S, end_s * WINDOW_PART))


def panels(courses: Sequence[tuple[str, Columns]]) -> dict[str, list[Panel]]:
    """By quantity, a panel per course; ``courses`` are titles, with the ticks of one round each.

    RAM is left out where no domain's moved, and any quantity that was not recorded.
    """
    end_s = max((float(c["time_s"].max()) for _, c in courses if length(c)), default=0.0)
    parts = [(title, by_domain(course)) for title, course in courses]
    domains = list(dict.fromkeys(name for _, own in parts for name in own))
    found: dict[str, list[Panel]] = {}
    for what in QUANTITIES:
        drawn = [
            (title, _lines(what, own, domains, end_s))
            for title, own in parts
            if own and all(what.column in one for one in own.values())
        ]
        if not drawn or (what.name == "ram" and not _moved(parts)):
            continue
        top = what.top or _top([line for _, lines in drawn for line in lines]) or 1.0
        found[what.name] = [
            _panel(what, title, lines, end_s, top, domains) for title, lines in drawn
        ]
    return found


def _moved(parts: Sequence[tuple[str, dict[str, Columns]]]) -> bool:
    """Whether any domain's RAM, or what it was to have, changed."""
    return any(
        (own[column] != own[column][0]).any()
        for _, domains in parts
        for own in domains.values()
        for column in ("ram_bytes", "ram_target_bytes")
        if column in own
    )


def _lines(
    what: _Quantity, course: dict[str, Columns], domains: list[str], end_s: float
) -> list[Line]:
    made = []
    for number, name in enumerate(domains):
        own = course.get(name)
        if own is None:
            continue
        time_s = own["time_s"]
        if what.is_level:
            made.append(Line(name, time_s, own[what.column] * what.scale, number))
            if what.target in own and np.isfinite(own[what.target]).any():
                aim = own[what.target] * what.scale
                made.append(Line(f"{name} target", time_s, aim, number, True))
        else:
            values = rate(time_s, own[what.column], window_of(end_s)) * what.scale
            made.append(Line(name, time_s, np.minimum(values, what.top or np.inf), number))
    return made


def _top(lines: Sequence[Line]) -> float:
    """The end of the axis: the most that was held, and of targets what is not far beyond."""

    def most(wanted: Callable[[Line], bool], below: float = np.inf) -> float:
        found = [line.values[np.isfinite(line.values)] for line in lines if wanted(line)]
        return max((float(v[v <= below].max(initial=0.0)) for v in found), default=0.0)

    held = most(lambda line: not line.is_target)
    return max(held, most(lambda line: line.is_target, below=2.0 * held or np.inf)) * 1.05


def _panel(
    what: _Quantity, policy: str, lines: list[Line], end_s: float, top: float, domains: list[str]
) -> Panel:
    title = f"{what.title}, {what.unit}"
    if len(domains) <= CURVES_MAX:
        return Panel(what.name, title, what.unit, policy, end_s, top, lines)
    edges = np.linspace(0.0, end_s, MAP_SLICES)
    shares = {
        line.name: last_of_each(line.time_s, line.values, edges) / top
        for line in lines
        if not line.is_target
    }
    rows = [(name, shares.get(name, np.full(MAP_SLICES, np.nan))) for name in domains]
    return Panel(what.name, title, what.unit, policy, end_s, top, rows=rows)
