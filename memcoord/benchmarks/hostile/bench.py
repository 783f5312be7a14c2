"""``memcoord bench cheats``: the effect of guests that cheat, on every mechanism.

Owns: the bench and its table. Each of ``hostile.cheats`` is tried once per mechanism, and a million
random corruptions after them. Words corrupted one by one are one line per part of meta: the worst
of the four ways to corrupt them is shown. The 99th percentile is of a neighbour's grants of 2 MiB,
against the moment before, as the median over the mechanisms; the neighbour is the same in all of
them. ``busy`` is the floor: a neighbour that only computes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from hypervisor.public.settings import MECHANISMS
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks import cpus, tables
from memcoord.benchmarks.hostile.cheats import CheatRow, cheat_report
from memcoord.benchmarks.runner import Bench, Result
from memcoord.benchmarks.tables import MISSING, Table
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.runs.rundir import RunDir

FOR_S = 0.6
CORRUPTIONS = 1_000_000
MIB = 1 << 20


class CheatsBench(Bench):
    """Every cheat against every mechanism, each for about FOR_S seconds."""

    name = "cheats"

    def measure(self, where: RunDir | Path, progress: Progress) -> dict[str, Any]:
        """Every row of every mechanism."""
        progress.begin("bench cheats", len(MECHANISMS))
        rows: list[CheatRow] = []
        for number, mechanism in enumerate(MECHANISMS, start=1):
            with tempfile.TemporaryDirectory(prefix="mc-") as directory:
                run_dir = Path(directory)
                rows += cheat_report(mechanism, run_dir, for_s=FOR_S, corruptions=CORRUPTIONS)
            progress.advance(number, len(MECHANISMS), mechanism)
        return {
            "bench": "cheats",
            "machine": cpus.finish(cpus.describe(cpus.pair())),
            "rows": [asdict(row) for row in rows],
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """Cheats down, mechanisms across."""
        head = ("cheat", *MECHANISMS, "beyond its grant", "host excess", "others' p99")
        lines = [[cheat, *_cells(found)] for cheat, found in _by_cheat(result["rows"]).items()]
        yield Table("bench cheats: detected after, or harmless", head, lines)

    def lines(self, result: Result) -> list[str]:
        """The damage of each cheat that did any."""
        told = [(f"{row['mechanism']}, {row['cheat']}", row["damage"]) for row in result["rows"]]
        return [f"{cheat}: {text}" for cheat, damage in told for text in damage]

    def parts(self, result: Result) -> dict[str, str]:
        """The table."""
        text = [line for table in self.tables(result) for line in tables.markdown(table)[2:]]
        return {"cheats": "\n".join(text)}

    def status(self, result: Result) -> int:
        """1 when some cheat did damage."""
        return int(any(row["damage"] for row in result["rows"]))


def _by_cheat(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of one line together, in the order of the cheats."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row["cheat"].partition(":")[0], []).append(row)
    return lines


def _cells(rows: list[Mapping[str, Any]]) -> list[str]:
    cells = [_verdict([row for row in rows if row["mechanism"] == name]) for name in MECHANISMS]
    beyond = max(row["beyond_frames"] for row in rows)
    excess = max(row["excess_frames"] for row in rows)
    ratios = [row["p99_ratio"] for row in rows if row["p99_ratio"] is not None]
    return [*cells, _mib(beyond), _mib(excess), f"{median(ratios):.1f} x" if ratios else MISSING]


def _verdict(rows: list[Mapping[str, Any]]) -> str:
    if not rows:
        return MISSING
    damage = [text for row in rows for text in row["damage"]]
    if damage:
        return str(damage[0])
    noticed = [row["noticed_ms"] for row in rows if row["noticed"]]
    return f"{max(noticed):.0f} ms" if noticed else "harmless"


def _mib(frames: int) -> str:
    return f"{frames * FRAME_BYTES / MIB:.1f} MiB" if frames else MISSING
