"""Cells on the processes of this machine.

Owns: the worker processes. Each holds one cell at a time, so that when one dies its cell is known;
the cell is tried again by a fresh worker, ATTEMPTS_MAX times in all.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import msgspec

from memcoord.benchmarks.sweep.cell import Cell, Result
from memcoord.benchmarks.sweep.worker import RUNNER
from memcoord.testbed.runs.launcher import ROOT

ATTEMPTS_MAX = 3
#: A worker that says nothing for so long is taken for stuck.
CELL_S_MAX = 900.0
POLL_S = 5.0
END_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its result, or in ``error`` why there is none."""

    cell: Cell
    result: Result | None
    error: str = ""


Outcomes = Generator[Outcome, None, None]


def outcome_of(cell: Cell, answer: dict[str, Any]) -> Outcome:
    """The outcome that ``worker.answer`` tells of."""
    return Outcome(cell, answer.get("result"), answer.get("error", ""))


def run_local(cells: Sequence[Cell], workers: int, runner: str = RUNNER) -> Outcomes:
    """Run every cell once, in any order; closing the generator ends the workers."""
    waiting, deaths = deque(cells), Counter[str]()
    with _Crew(runner) as crew:
        while waiting or crew.busy:
            while waiting and crew.busy < workers:
                crew.give(waiting.popleft())
            for cell, answer in crew.answers():
                if answer is not None:
                    yield outcome_of(cell, answer)
                    continue
                deaths[cell.key] += 1
                if deaths[cell.key] < ATTEMPTS_MAX:
                    waiting.append(cell)
                else:
                    yield Outcome(cell, None, f"its worker died {ATTEMPTS_MAX} times")


class _Worker:
    """A process and the cell it works on."""

    def __init__(self, runner: str) -> None:
        python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "memcoord.benchmarks.sweep.worker", runner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": python_path},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin: IO[bytes] = self.process.stdin
        self.stdout: IO[bytes] = self.process.stdout
        self.cell: Cell | None = None
        self.since_s = 0.0

    def give(self, cell: Cell) -> None:
        self.cell, self.since_s = cell, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died: the end of its stdout says so
            self.stdin.write(msgspec.json.encode(cell) + b"\n")
            self.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()


class _Crew:
    """The workers, idle and busy. Use as a context manager; leaving it ends them."""

    def __init__(self, runner: str) -> None:
        self._runner = runner
        self._workers: list[_Worker] = []
        self._ready = selectors.DefaultSelector()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in list(self._workers):
            self._dismiss(worker)
        self._ready.close()

    @property
    def busy(self) -> int:
        """Workers that have a cell."""
        return sum(worker.cell is not None for worker in self._workers)

    def give(self, cell: Cell) -> None:
        """Have ``cell`` worked on by an idle worker, or by a new one."""
        for worker in self._workers:
            if worker.cell is None:
                break
        else:
            worker = _Worker(self._runner)
            self._workers.append(worker)
            self._ready.register(worker.stdout, selectors.EVENT_READ, worker)
        worker.give(cell)

    def answers(self) -> Iterator[tuple[Cell, dict[str, Any] | None]]:
        """Wait, POLL_S at most, for what workers say; None of one that died over its cell."""
        for key, _ in self._ready.select(POLL_S):
            worker: _Worker = key.data
            cell, worker.cell = worker.cell, None
            line = worker.stdout.readline()
            whole = line.endswith(b"\n")
            if not whole:
                self._dismiss(worker)
            if cell is not None:
                yield cell, msgspec.json.decode(line) if whole else None
        for worker in self._workers:
            if worker.cell is not None and time.monotonic() - worker.since_s > CELL_S_MAX:
                worker.process.kill()  # heard of as a death, with the next answers

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._ready.unregister(worker.stdout)
        worker.end()
