"""The table of a sweep: a row per run, every figure a column; CSV always, Parquet with the extra.

Owns: the joining of runs with their comparison (each domain alone, of the same scenario, settings,
seed and world), and the two forms of the file. Rows are sorted by the run they tell of, so that the
same results give the same bytes, in whichever order and by whichever worker they were computed.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memcoord.benchmarks.sweep.cell import Cell, Result
from memcoord.benchmarks.sweep.store import write_whole
from memcoord.testbed.report.metrics import by_domain, regret, slowdowns, speed_figures
from memcoord.testbed.report.results import DONE

RunRow = dict[str, str | float]

DIGITS = 9
#: Columns of text at the left, and beyond the options.
BEFORE = ("world", "scenario", "policy")
AFTER = ("seed", "error")
PARQUET = "results.parquet"
CSV = "results.csv"
#: Counts that are summed over domains into a column.
SUMS = ("references", "faults", "tmem_hits", "swap_ins", "swap_outs", "file_reads", "failed_puts")


def situation(cell: Cell) -> tuple[Any, ...]:
    """The part two cells must share to be compared: all but the policy and the kind."""
    return cell.world, cell.scenario, cell.text, cell.overrides, cell.seed


def rows_of(results: Iterable[tuple[Cell, Result]]) -> list[RunRow]:
    """A row per ``run`` cell, sorted; ``slowdown.NAME`` is a domain's, NaN when it did not finish.

    A cell without a result has no row.
    """
    known = list(results)
    alone_s: dict[tuple[Any, ...], dict[str, float]] = {}
    optimal: dict[tuple[Any, ...], float] = {}
    for cell, result in known:
        if cell.kind == "alone":
            times = run_times(result)
            alone_s.setdefault(situation(cell), {})[cell.domain] = times.get(cell.domain, math.nan)
        elif cell.kind == "optimal":
            optimal[situation(cell)] = number(result["figures"].get("optimal_cost"))
    runs = sorted((c for c in known if c[0].kind == "run"), key=lambda item: order(item[0]))
    return [
        _row(cell, result, alone_s.get(situation(cell), {}), optimal.get(situation(cell), math.nan))
        for cell, result in runs
    ]


def order(cell: Cell) -> tuple[Any, ...]:
    """A key to sort cells by: what they run, then their key, so that no two are equal."""
    numbers = _by_number(cell.params), _by_number(cell.overrides)
    return cell.world, cell.scenario, cell.policy, *numbers, cell.seed, cell.key


def _by_number(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, float, str]]:
    return [(name, _float(value), value) for name, value in pairs]


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf


def run_times(result: Result) -> dict[str, float]:
    """Seconds each domain took, NaN for one that did not finish."""
    return {
        entry["domain"]: number(entry["run_s"]) if entry["state"] == DONE else math.nan
        for entry in result["domains"]
    }


def number(value: float | None) -> float:
    """A figure as it was before JSON made null of NaN."""
    return math.nan if value is None else float(value)


def _row(cell: Cell, result: Result, alone_s: Mapping[str, float], optimal_cost: float) -> RunRow:
    times = run_times(result)
    names = list(times)
    slow = slowdowns(by_domain(times, names), by_domain(alone_s, names))
    row: RunRow = {
        "world": cell.world,
        "scenario": cell.scenario,
        "policy": cell.policy,
        **{f"{cell.policy}.{name}": value for name, value in cell.params},
        **dict(cell.overrides),
        "seed": str(cell.seed),
        **speed_figures(slow),
        **{name: number(value) for name, value in result["figures"].items()},
        **{name: float(sum(entry[name] for entry in result["domains"])) for name in SUMS},
        "finished": float(sum(entry["state"] == DONE for entry in result["domains"])),
        "domains": float(len(names)),
        "error": result.get("error", ""),
    }
    disk_reads = sum(entry["swap_ins"] + entry["file_reads"] for entry in result["domains"])
    references = sum(entry["references"] for entry in result["domains"])
    row["regret"] = regret(disk_reads, optimal_cost, references)
    for name, slowdown in zip(names, slow, strict=True):
        row[f"slowdown.{name}"] = float(slowdown)
    return row


def columns_of(rows: Sequence[RunRow]) -> list[str]:
    """The columns: the run, figures of every run, figures of some runs, the error."""
    names = dict.fromkeys(name for row in rows for name in row)
    words = {name for row in rows for name, value in row.items() if isinstance(value, str)}
    options = sorted(words - {*BEFORE, *AFTER})
    figures = [name for name in names if name not in words]
    shared = [name for name in figures if all(name in row for row in rows)]
    others = sorted(set(figures) - set(shared))
    columns = [*BEFORE, *options, "seed", *shared, *others, "error"]
    return [name for name in columns if name in names]


def as_csv(rows: Sequence[RunRow]) -> str:
    """The table; empty where a run has no such figure."""
    columns = columns_of(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.{DIGITS}g}"


def write_tables(directory: Path, rows: Sequence[RunRow]) -> list[Path]:
    """Write results.csv, and results.parquet where pyarrow is; the files written."""
    written = [directory / CSV]
    write_whole(written[0], as_csv(rows).encode())
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return written
    table = pyarrow.table({name: _values(rows, name) for name in columns_of(rows)})
    data = io.BytesIO()
    parquet.write_table(table, data)
    write_whole(directory / PARQUET, data.getvalue())
    return [*written, directory / PARQUET]


def _values(rows: Sequence[RunRow], name: str) -> list[str | float | None]:
    """One type per column: text as soon as a row has text there."""
    values = [row.get(name) for row in rows]
    if any(isinstance(value, str) for value in values):
        return [None if value is None else str(value) for value in values]
    return values
