"""Cells that run nothing: figures from the cell's key, and ways to go wrong on purpose."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from memcoord.benchmarks.sweep.cell import Cell

RUNNER = "fake_cells:run"
#: A file a cell's process appends a line to: what was really run.
LOG = "FAKE_CELLS_LOG"
#: Cells whose label holds this word ...
BAD = "FAKE_CELLS_BAD"
#: ... do this, as often as the count file allows: "raise", "die".
HOW = "FAKE_CELLS_HOW"
DEATHS = "FAKE_CELLS_DEATHS"
REST_S = "FAKE_CELLS_REST_S"
DOMAINS = ("vm1", "vm2")


def run(cell: Cell) -> dict[str, Any]:
    """A result that depends on the cell alone."""
    _log(cell)
    if os.environ.get(BAD, "\n") in cell.label:
        if os.environ[HOW] == "raise":
            raise ValueError("told to fail")
        if _deaths() < int(os.environ[DEATHS]):
            _log(cell, "died")
            os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ.get(REST_S, "0")))
    names = [cell.domain] if cell.kind == "alone" else list(DOMAINS)
    return {
        "domains": [_domain(name, int(cell.key[:4], 16)) for name in names],
        "figures": {"churn": int(cell.key[4:8], 16) / 3, "disparity": float("nan")},
        "ticks": 7,
        "error": "",
    }


def ran() -> list[str]:
    """The labels of the cells that were run, in order; a label ends in ``died`` when it died."""
    path = Path(os.environ[LOG])
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _deaths() -> int:
    return sum(line.endswith("died") for line in ran())


def _log(cell: Cell, what: str = "") -> None:
    if LOG in os.environ:
        with Path(os.environ[LOG]).open("a", encoding="utf-8") as file:
            file.write(f"{cell.key} {what}".rstrip() + "\n")


def _domain(name: str, number: int) -> dict[str, Any]:
    counts = ("references", "faults", "tmem_hits", "swap_ins", "swap_outs", "file_reads")
    return {
        "domain": name,
        "state": "done",
        "run_s": 1 + number / 7,
        "failed_puts": number,
        **dict.fromkeys(counts, number),
    }
