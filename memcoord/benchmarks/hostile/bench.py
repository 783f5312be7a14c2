"""``memcoord bench cheats``: the effect of guests that cheat, on every mechanism.

Owns: the bench and its table. Each of ``hostile.cheats`` is tried once per mechanism, and a million
random corruptions after them. Words corrupted one by one are one line per part of meta: the worst
of the four ways to corrupt them is shown. The 99th percentiles are of a neighbour's grants of 2 MiB
and of its puts, beside the cheat over beside a domain that only computes, both measured in turns in
one run; a ratio is the median over the mechanisms, because the neighbour is the same in all of
them. ``busy`` compares a busy domain with itself: what the machine does to a ratio.
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
ROUNDS = 2
#: A neighbour's 99th percentile beside a cheat may not be so many times that beside a busy domain.
MUST_RATIO = 3.0
KINDS = {"grant": "p99_ratio", "put": "p99_put_ratio"}
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
                rows += cheat_report(
                    mechanism, run_dir, for_s=FOR_S, rounds=ROUNDS, corruptions=CORRUPTIONS
                )
            progress.advance(number, len(MECHANISMS), mechanism)
        return {
            "bench": "cheats",
            "machine": cpus.finish(cpus.describe(cpus.pair())),
            "ratios": _ratios([asdict(row) for row in rows]),
            "rows": [asdict(row) for row in rows],
        }

    def tables(self, result: Result) -> Iterator[Table]:
        """Cheats down, mechanisms across."""
        head = ("cheat", *MECHANISMS, "beyond its grant", "host excess")
        head += tuple(f"others' p99 of {kind}" for kind in KINDS)
        lines = [[cheat, *_cells(found)] for cheat, found in _by_cheat(result["rows"]).items()]
        yield Table("bench cheats: detected after, or harmless", head, lines)

    def lines(self, result: Result) -> list[str]:
        """The damage of each cheat that did any, why some were skipped, who waits too long."""
        told = [(f"{row['mechanism']}, {row['cheat']}", row["damage"]) for row in result["rows"]]
        lines = [f"{cheat}: {text}" for cheat, damage in told for text in damage]
        skipped = {row["skipped"]: row["cheat"] for row in result["rows"] if row["skipped"]}
        lines += [f"{cheat.partition(':')[0]}: skipped: {why}" for why, cheat in skipped.items()]
        return lines + [
            f"{cheat}: a neighbour's p99 of {kind} is {ratio:.1f} times that beside a busy domain;"
            f" it must be below {MUST_RATIO:g}"
            for cheat, kind, ratio in _too_slow(result["rows"])
        ]

    def parts(self, result: Result) -> dict[str, str]:
        """The table."""
        text = [line for table in self.tables(result) for line in tables.markdown(table)[2:]]
        return {"cheats": "\n".join(text)}

    def status(self, result: Result) -> int:
        """1 when some cheat did damage, or had its neighbours wait too long."""
        damage = any(row["damage"] for row in result["rows"])
        return int(damage or bool(_too_slow(result["rows"])))


def _ratios(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By line of the table and kind of wait: the median over the mechanisms."""
    found: dict[str, dict[str, float]] = {}
    for cheat, line in _by_cheat(rows).items():
        found[cheat] = {}
        for kind, key in KINDS.items():
            ratios = [row[key] for row in line if row[key] is not None]
            if ratios:
                found[cheat][kind] = median(ratios)
    return found


def _too_slow(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    return [
        (cheat, kind, ratio)
        for cheat, kinds in _ratios(rows).items()
        for kind, ratio in kinds.items()
        if ratio >= MUST_RATIO
    ]


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
    (ratios,) = _ratios(rows).values()
    times = [f"{ratios[kind]:.1f} x" if kind in ratios else MISSING for kind in KINDS]
    return [*cells, _mib(beyond), _mib(excess), *times]


def _verdict(rows: list[Mapping[str, Any]]) -> str:
    if not rows:
        return MISSING
    damage = [text for row in rows for text in row["damage"]]
    if damage:
        return str(damage[0])
    if all(row["skipped"] for row in rows):
        return "skipped"
    noticed = [row["noticed_ms"] for row in rows if row["noticed"]]
    return f"{max(noticed):.0f} ms" if noticed else "harmless"


def _mib(frames: int) -> str:
    return f"{frames * FRAME_BYTES / MIB:.1f} MiB" if frames else MISSING
