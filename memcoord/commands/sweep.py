"""``memcoord sweep``: run a grid, show how far it is, write the table.

Owns: the sweep's directory (``cells/``, ``results.csv``, ``results.parquet``, ``summary.csv``) and
the output. The directory is the sweep's memory: the same command after a kill runs only the missing
cells.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.sweep.grid import Grid, cells_of, read_grid
from memcoord.benchmarks.sweep.run import Sweep, expected_s, run_cells, runner
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.summary import counted, summarise, text, write_summary
from memcoord.benchmarks.sweep.table import rows_of, write_tables
from memcoord.benchmarks.sweep.worker import RUNNER
from memcoord.testbed.report.progress import Progress, duration
from memcoord.testbed.runs import facts

ERRORS_SHOWN = 5
WORKERS_MAX = 256


def sweep_command(
    grid: str, out: str | None, workers: int | None, dask: str | None, as_json: bool,
    runner_name: str = RUNNER,
) -> int:  # fmt: skip
    """Run the grid in the file ``grid``; 0, or 1 when a cell failed.

    ``out`` is the sweep's directory, ``GRID.sweep`` where nothing is said; ``workers`` the number
    of processes. ConfigError or PolicyError, before anything runs, when the grid is wrong.
    """
    what, name = read_grid(Path(grid)), Path(grid).stem
    directory = Path(out) if out is not None else Path(f"{name}.sweep")
    sweep, files = swept(what, name, directory, workers, dask, runner_name)
    _report(sweep, files, as_json)
    if not as_json:
        sys.stdout.write(f"as a page: memcoord report {shlex.quote(str(directory))}\n")
    return 1 if sweep.errors else 0


def swept(
    what: Grid, name: str, directory: Path, workers: int | None = None, dask: str | None = None,
    runner_name: str = RUNNER,
) -> tuple[Sweep, list[Path]]:  # fmt: skip
    """Run the missing cells and write the tables; the results, and the files written.

    ConfigError or PolicyError, before anything runs, when the grid is wrong.
    """
    cells = cells_of(what)
    wanted = workers if workers is not None else facts.cores()
    if what.sweep.world == "testbed" and workers is None:
        wanted = 1  # a run of the testbed takes every CPU there is, and real time
    if not 1 <= wanted <= WORKERS_MAX:
        raise ConfigError("--workers", f"must be 1 to {WORKERS_MAX}")
    store = Store(directory)
    with Progress() as progress:
        takes = duration(expected_s(cells, wanted))
        progress.say(f"sweep {name}: {counted(cells)}; {takes} if none is done yet")
        progress.begin(f"sweep {name}", len(cells))
        sweep = run_cells(cells, store, runner(dask, wanted, runner_name), progress.advance)
    rows = rows_of(sweep.results)
    return sweep, [*write_tables(directory, rows), write_summary(directory, summarise(rows))]


def _report(sweep: Sweep, files: list[Path], as_json: bool) -> None:
    total = len(sweep.results) + len(sweep.errors)
    if as_json:
        errors = [f"{cell.label}: {error}" for cell, error in sweep.errors]
        counts = {"cells": total, "found": sweep.found, "failed": len(errors)}
        report = {**counts, "errors": errors, "files": [str(path) for path in files]}
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return
    for line in error_lines(sweep):
        sys.stderr.write(f"{line}\n")
    for line in text(summarise(rows_of(sweep.results))):
        sys.stdout.write(f"{line}\n")
    done = total - len(sweep.errors)
    sys.stdout.write(f"{done:,} of {total:,} cells, {sweep.found:,} of them done before\n")
    for path in files:
        sys.stdout.write(f"{path}\n")


def error_lines(sweep: Sweep) -> list[str]:
    """The first failures, a line each, and how many more there are."""
    lines = [f"{cell.label}: {error}" for cell, error in sweep.errors[:ERRORS_SHOWN]]
    more = len(sweep.errors) - len(lines)
    return [*lines, f"and {more:,} more"] if more > 0 else lines
