"""tmem used over time against its targets: a panel per situation and policy, in one file.

Owns: FILE beside the result, and which policies have a panel. Without matplotlib it is left out,
and a line on stderr says so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks.smartmem.verdict import OURS
from memcoord.testbed.report import figures
from memcoord.testbed.report.figures import Axis, Figure, Line

FILE = "smartmem-tmem.svg"
#: Those with a panel, of those that were run.
SHOWN = ("greedy", "static-alloc", "smart-alloc:P=2", "smart-alloc:P=6", OURS)
MIB = 1 << 20
#: Of a line; a panel is a few centimetres wide.
POINTS_MAX = 48

Points = Sequence[Sequence[float]]
OverTime = Mapping[str, Mapping[str, Mapping[str, Points]]]


def draw(over_time: OverTime, directory: Path) -> None:
    """Write FILE into ``directory``, if there is anything to show."""
    rows = sheet(over_time)
    if not rows:
        return
    try:
        figures.write_sheet(rows, directory / FILE)
    except figures.NoFigures as error:
        sys.stderr.write(f"{FILE} is left out: {error}\n")


def sheet(over_time: OverTime) -> list[list[Figure]]:
    """A row per situation, a figure per policy: of each domain a line, its target dashed."""
    return [
        [_panel(f"{situation}, {policy}", by_policy[policy]) for policy in SHOWN
         if by_policy.get(policy)]
        for situation, by_policy in over_time.items()
        if any(by_policy.get(policy) for policy in SHOWN)
    ]  # fmt: skip


def _panel(title: str, domains: Mapping[str, Points]) -> Figure:
    lines = []
    for colour, (name, points) in enumerate(domains.items()):
        kept = points[:: -(-len(points) // POINTS_MAX)]
        used = [(at, _mib(pages)) for at, pages, _ in kept]
        target = [(at, _mib(pages)) for at, _, pages in kept if pages >= 0]
        lines.append(Line(name, used, colour, has_marks=False))
        if target:
            lines.append(Line(f"{name}, target", target, colour, is_dashed=True, has_marks=False))
    return Figure(lines, Axis("seconds"), Axis("tmem, MiB"), title)


def _mib(pages: float) -> float:
    return pages * FRAME_BYTES / MIB
