"""Run the missing cells of a sweep, and keep their results.

Owns: the loop from cells to stored results, shared by ``sweep`` and ``bench policies``. A cell is
run only when its result is not there; a result that has come is kept before the next is waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypervisor.public.errors import MemcoordError
from memcoord.benchmarks.sweep.cell import Cell, Result, scenario_of
from memcoord.benchmarks.sweep.cluster import run_on_cluster
from memcoord.benchmarks.sweep.local import Outcomes, run_local
from memcoord.benchmarks.sweep.store import Store
from memcoord.benchmarks.sweep.worker import RUNNER
from memcoord.testbed.report.progress import expected_real_s, expected_sim_s
from memcoord.testbed.streams import lengths_of


@dataclass
class Sweep:
    """The results of a sweep in the order of its cells, and the errors of cells without one."""

    results: list[tuple[Cell, Result]] = field(default_factory=list)
    errors: list[tuple[Cell, str]] = field(default_factory=list)
    found: int = 0  # results that were there already


#: Told how many cells of how many are done, and which was the last.
Advance = Callable[[int, int, str], None]
Run = Callable[[Sequence[Cell]], Outcomes]


def run_cells(cells: Sequence[Cell], store: Store, run: Run, progress: Advance) -> Sweep:
    """Every cell's result, run or found in ``store``; a failed cell is in ``errors``."""
    known = {cell.key: result for cell in cells if (result := store.read(cell.key)) is not None}
    missing = [cell for cell in cells if cell.key not in known]
    sweep = Sweep(found=len(known))
    progress(len(known), len(cells), "")
    if missing:  # otherwise no cluster is needed
        with contextlib.closing(run(missing)) as outcomes:
            for outcome in outcomes:
                if outcome.result is None:
                    sweep.errors.append((outcome.cell, outcome.error))
                else:
                    store.write(outcome.cell.key, outcome.result)
                    known[outcome.cell.key] = outcome.result
                progress(len(known) + len(sweep.errors), len(cells), outcome.cell.label)
    sweep.results = [(cell, known[cell.key]) for cell in cells if cell.key in known]
    return sweep


def expected_s(cells: Sequence[Cell], workers: int) -> float:
    """About how long ``cells`` take on quiet cores; seeds are taken to be as long as the first."""
    known: dict[object, int] = {}
    total_s = 0.0
    for cell in cells:
        if cell.kind == "optimal":
            continue
        key = (cell.scenario, cell.overrides, cell.kind, cell.domain)
        if key not in known:
            known[key] = 0
            with contextlib.suppress(MemcoordError):  # it will be told when the cell is run
                known[key] = sum(lengths_of(scenario_of(cell)).values())
        is_real = cell.world == "testbed"
        total_s += expected_real_s(known[key]) if is_real else expected_sim_s(known[key])
    return total_s / workers


def runner(dask: str | None, workers: int, name: str = RUNNER) -> Run:
    """How cells are run: on the cluster at ``dask``, or on ``workers`` processes here."""
    if dask is not None:
        return lambda cells: run_on_cluster(cells, dask, name, workers)
    return lambda cells: run_local(cells, workers, name)
