"""A worker of a sweep: a child process that runs one cell after the other.

Owns: the operation ``run``, and the one way in which a cell is run and its failure told, here and
on a cluster. Called by: ``sweep.local``, which starts workers; ``sweep.cluster``.
"""

from __future__ import annotations

import os
import pkgutil
import signal
from typing import Any

import msgspec

from memcoord.benchmarks.sweep.cell import Cell, run_cell
from memcoord.testbed.runs.remote import operation, serve

#: MODULE:FUNCTION, a function from a cell to its result.
#: MODULE:FUNCTION, a function from a cell to its result.
RUNNER = f"{run_cell.__module__}:{run_cell.__name__}"
EXIT_INTERRUPTED = 130


def answer(cell: Cell, runner: str) -> dict[str, Any]:
    """``{"result": ...}`` of the function ``runner``, or ``{"error": ...}`` in one line; never
    raises."""
    try:
        return {"result": pkgutil.resolve_name(runner)(cell)}
    except Exception as error:  # the sweep goes on and tells of it
        text = " ".join(str(error).split()) or "no reason given"
        return {"error": f"{type(error).__name__}: {text}"}


class CellWorker:
    """The operations of the process."""

    @operation
    def run(self, cell: dict[str, Any], runner: str) -> dict[str, Any]:
        """Run a cell given as plain data."""
        return answer(msgspec.convert(cell, Cell), runner)


def main() -> None:
    """Serve cells until the parent hangs up."""
    # Ctrl-C reaches every process of the terminal: end at once and without a traceback.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(EXIT_INTERRUPTED))
    serve(CellWorker(), is_threaded=False)


if __name__ == "__main__":
    main()
