"""What a sweep found: means over seeds with their intervals, beside greedy; what its cells are.

Owns: the grouping of runs that differ only by their seed, the ratio to greedy's runs of the same
seeds, and both forms of it: lines for a reader, ``summary.csv`` for a program. The statistics are
those of every report (``memcoord.testbed.report.comparison``).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memcoord.benchmarks.sweep.cell import Cell
from memcoord.benchmarks.sweep.store import write_whole
from memcoord.benchmarks.sweep.table import AFTER, BEFORE, RunRow
from memcoord.testbed.report.claims import bound
from memcoord.testbed.report.comparison import estimate, ratio
from memcoord.testbed.report.results import BASELINE, Against, Estimate

SUMMARY = "summary.csv"
#: Column of a run -> its title; those of counts.
FIGURES = {
    "worst_slowdown": "worst slowdown",
    "mean_slowdown": "mean slowdown",
    "disk_reads": "disk reads",
}
COUNTS = ("disk_reads",)
#: What disk reads are the sum of.
DISK_READS = ("swap_ins", "file_reads")
SITUATIONS_SHOWN = 12
#: Said instead of a verdict where no digit that is shown differs.
EQUAL = "the same to 1 %"
HEADS = ("", "mean [95 %]", "against greedy [95 %]")

Situation = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Line:
    """One figure of one policy in one situation, over the seeds."""

    situation: Situation  # world, scenario and settings, by column
    policy: str  # with its parameters
    figure: str
    value: Estimate
    against: Against | None  # greedy; None: it is greedy, or was not run


def summarise(rows: Sequence[RunRow]) -> list[Line]:
    """A line for every situation, figure and policy, in the order of the rows."""
    groups: dict[tuple[Situation, str], dict[str, RunRow]] = {}
    for row in rows:
        groups.setdefault((_situation(row), _policy(row)), {})[str(row["seed"])] = row
    lines = []
    for situation in dict.fromkeys(situation for situation, _ in groups):
        of_policy = {policy: runs for (at, policy), runs in groups.items() if at == situation}
        lines += [line for figure in FIGURES for line in _lines(situation, figure, of_policy)]
    return lines


def _lines(situation: Situation, figure: str, runs: dict[str, dict[str, RunRow]]) -> Iterator[Line]:
    is_count = figure in COUNTS
    base = runs.get(BASELINE, {})
    for policy, by_seed in sorted(runs.items(), key=lambda item: item[0] != BASELINE):
        values = [_value(row, figure) for row in by_seed.values()]
        theirs = [_value(base[seed], figure) if seed in base else None for seed in by_seed]
        against = ratio(values, theirs, is_count) if base and policy != BASELINE else None
        yield Line(situation, policy, figure, estimate(values, is_count=is_count), against)


def _value(row: RunRow, figure: str) -> float | None:
    names = DISK_READS if figure == "disk_reads" else (figure,)
    value = sum(float(row.get(name, math.nan)) for name in names)
    return None if math.isnan(value) else value


def _situation(row: RunRow) -> Situation:
    options = {*row} - {*BEFORE, *AFTER}
    settings = sorted(
        name
        for name in options
        if isinstance(row[name], str) and not name.startswith(f"{row['policy']}.")
    )
    return tuple((name, str(row[name])) for name in ("world", "scenario", *settings))


def _policy(row: RunRow) -> str:
    policy = str(row["policy"])
    own = f"{policy}."
    params = [f"{name.removeprefix(own)}={row[name]}" for name in row if name.startswith(own)]
    return f"{policy}:{','.join(params)}" if params else policy


def counted(cells: Sequence[Cell]) -> str:
    """How many cells there are, and of what."""
    runs = [cell for cell in cells if cell.kind == "run"]
    parts: dict[str, set[Any]] = {
        "policies": {cell.policy_text for cell in runs},
        "scenarios": {cell.scenario for cell in runs},
        "settings": {cell.overrides for cell in runs},
        "seeds": {cell.seed for cell in runs},
    }
    words = [
        f"{len(found)} {what if len(found) != 1 else _ONE[what]}"
        for what, found in parts.items()
        if what != "settings" or len(found) > 1
    ]
    product = math.prod(map(len, parts.values()))
    of_what = f" ({' x '.join(words)})" if product == len(runs) else ""
    alone = len(cells) - len(runs)
    told = f"{len(cells):,} cells: {len(runs):,} runs{of_what}"
    return told + (f", and {alone:,} of a domain alone, for slowdowns" if alone else "")


_ONE = {"policies": "policy", "scenarios": "scenario", "settings": "setting", "seeds": "seed"}


def text(lines: Sequence[Line]) -> list[str]:
    """The summary for a reader: a block for each situation and figure."""
    found: list[str] = []
    situations = [*dict.fromkeys(line.situation for line in lines)]
    for situation in situations[:SITUATIONS_SHOWN]:
        own = [line for line in lines if line.situation == situation]
        seeds = max(line.value.n for line in own)
        world, scenario, *settings = (value for _, value in situation)
        names = [name for name, _ in situation[2:]]
        more = [f"{name}={value}" for name, value in zip(names, settings, strict=True)]
        found.append(", ".join([scenario, *more, f"{world}, {seeds} seed{'s' * (seeds != 1)}"]))
        for figure, title in FIGURES.items():
            block = [line for line in own if line.figure == figure]
            if any(line.value.value is not None for line in block):
                found += _block(title, block)
    if len(situations) > SITUATIONS_SHOWN:
        found.append(f"and {len(situations) - SITUATIONS_SHOWN:,} more situations in {SUMMARY}")
    if lines and all(line.against is None for line in lines):
        found.append(f"nothing to set against greedy: a grid needs {BASELINE!r} and another policy")
    return found


def _block(title: str, lines: Sequence[Line]) -> list[str]:
    rows = [(title, *HEADS[1:])]
    for line in lines:
        shown = _count if line.figure in COUNTS else _fraction
        rows.append((line.policy, _range(line.value, shown), _ratio(line.against)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return [
        "  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _fraction(value: float) -> str:
    return f"{value:.2f}"


def _range(value: Estimate, shown: Callable[[float], str]) -> str:
    if value.value is None:
        return "-"
    if value.low is None or value.high is None:
        return shown(value.value)
    return f"{shown(value.value)} [{shown(value.low)}, {shown(value.high)}]"


def _ratio(against: Against | None) -> str:
    if against is None or against.value is None:
        return "-"
    if against.low is None or against.high is None:
        return f"x{bound(against.value)}"
    is_equal = {bound(against.low), bound(against.high)} == {bound(1.0)}
    return f"x{_range(against, bound)} {EQUAL if is_equal else against.verdict}"


def as_csv(lines: Sequence[Line]) -> str:
    """The summary for a program: a row per situation, policy and figure; empty where unknown."""
    settings = sorted({name for line in lines for name, _ in line.situation[2:]})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = ("seeds", "mean", "low", "high", "ratio", "ratio_low", "ratio_high", "verdict")
    writer.writerow([*("world", "scenario"), *settings, *("policy", "figure"), *numbers])
    for line in lines:
        at, value, against = dict(line.situation), line.value, line.against
        ratios = (
            ["", "", "", ""]
            if against is None
            else [*map(_number, (against.value, against.low, against.high)), against.verdict]
        )
        writer.writerow(
            [
                *(at.get(name, "") for name in ("world", "scenario", *settings)),
                *(line.policy, line.figure, value.n),
                *map(_number, (value.value, value.low, value.high)),
                *ratios,
            ]
        )
    return out.getvalue()


def write_summary(directory: Path, lines: Sequence[Line]) -> Path:
    """Write ``summary.csv``; its path."""
    path = directory / SUMMARY
    write_whole(path, as_csv(lines).encode())
    return path


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
