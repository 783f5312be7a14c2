"""A worker of a sweep: ``python -P -m memcoord.benchmarks.sweep.worker MODULE:FUNCTION``.

Owns: reading cells from stdin and writing what they give to stdout, a JSON line each. Ends when
stdin does, hence with its parent, however that ends.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from memcoord.benchmarks.sweep.cell import Cell, Result, run_cell

Runner = Callable[[Cell], Result]
RUNNER = f"{run_cell.__module__}:{run_cell.__name__}"
EXIT_INTERRUPTED = 130


def runner_of(name: str) -> Runner:
    """The function ``MODULE:FUNCTION``."""
    module, _, function = name.partition(":")
    runner: Runner = getattr(importlib.import_module(module), function)
    return runner


def answer(cell: Cell, runner: str) -> dict[str, Any]:
    """``{"result": ...}``, or ``{"error": ...}`` in one line; never raises."""
    try:
        return {"result": runner_of(runner)(cell)}
    except Exception as error:  # whatever a cell does, the sweep goes on and tells
        text = " ".join(str(error).split()) or "no reason given"
        return {"error": f"{type(error).__name__}: {text}"}


def main(runner: str) -> None:
    """Serve cells until stdin ends."""
    # Ctrl-C reaches every process of the terminal: end at once and without a traceback.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(EXIT_INTERRUPTED))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a policy prints must not look like an answer
    for line in sys.stdin.buffer:
        cell = msgspec.json.decode(line, type=Cell)
        answers.write(msgspec.json.encode(answer(cell, runner)) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
