"""``memcoord bench cheats``: what guests that cheat achieve against every mechanism.

Owns: the table. The cheats are ``memcoord.benchmarks.hostile.cheats``; each is tried once per
mechanism, and a million random corruptions after them. Words corrupted one by one are one line per
part of meta: of the four ways to corrupt them the worst is shown. The 99th percentile is that of a
neighbour's grants of 2 MiB, against the moment before, as the median over the mechanisms; the
neighbour is the same in all of them. ``busy`` is what a neighbour that only computes does to it:
the floor.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from hypervisor.public.backend import MECHANISMS
from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.hostile.cheats import CheatRow, cheat_report
from memcoord.testbed.runs import rundir

FOR_S = 0.6
CORRUPTIONS = 1_000_000
MIB = 1 << 20
TABLE_WIDTH = 150
NOTHING = "-"

Tell = Callable[[str], None]


def bench_cheats(as_json: bool, out: str | None, for_s: float = FOR_S) -> int:
    """Try everything, print the table (or all rows); 1 when some cheat did damage."""
    run = rundir.create("bench-cheats", path=out)
    state = "failed"
    try:
        console = Console(stderr=True)
        tell = console.log if console.is_terminal else _silent
        result = measure(for_s, tell)
        (run.path / "cheats.json").write_bytes(msgspec.json.encode(result))
        state = "finished"
    finally:
        run.finish(state)
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
        console.print(table(result))
        sys.stdout.write(f"rows: {run.path}\n")
    return int(any(row["damage"] for row in result["rows"]))


def measure(for_s: float, tell: Tell, mechanisms: Iterable[str] = MECHANISMS) -> dict[str, Any]:
    """Every row of every mechanism, as plain values."""
    rows: list[CheatRow] = []
    for mechanism in mechanisms:
        tell(mechanism)
        with tempfile.TemporaryDirectory(prefix="mc-") as directory:
            rows += cheat_report(mechanism, Path(directory), for_s=for_s, corruptions=CORRUPTIONS)
    return {
        "bench": "cheats",
        "machine": cpus.finish(cpus.describe(cpus.pair())),
        "rows": [asdict(row) for row in rows],
    }


def table(result: Mapping[str, Any]) -> Table:
    """Cheats down, mechanisms across."""
    rows = _by_cheat(result["rows"])
    made = Table(title="bench cheats: detected after, or harmless", title_justify="left")
    for name in ("cheat", *MECHANISMS, "beyond grant", "host excess", "others' p99"):
        made.add_column(name)
    for cheat, found in rows.items():
        made.add_row(cheat, *_cells(found))
    return made


def markdown(result: Mapping[str, Any]) -> str:
    """The same for docs/mechanisms.md."""
    names = ("cheat", *MECHANISMS, "beyond its grant", "host excess", "others' p99")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for cheat, found in _by_cheat(result["rows"]).items():
        lines.append(f"| {' | '.join((cheat, *_cells(found)))} |")
    return "\n".join(lines)


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
    return [*cells, _mib(beyond), _mib(excess), f"{median(ratios):.1f} x" if ratios else NOTHING]


def _verdict(rows: list[Mapping[str, Any]]) -> str:
    if not rows:
        return NOTHING
    damage = [text for row in rows for text in row["damage"]]
    if damage:
        return str(damage[0])
    noticed = [row["noticed_ms"] for row in rows if row["noticed"]]
    return f"{max(noticed):.0f} ms" if noticed else "harmless"


def _mib(frames: int) -> str:
    return f"{frames * FRAME_BYTES / MIB:.1f} MiB" if frames else NOTHING


def _silent(_: str) -> None:
    return
