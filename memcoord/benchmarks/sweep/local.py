"""Cells on the processes of this machine.

Owns: the worker processes. Each holds one cell at a time, so that when one dies its cell is known;
the cell is tried again by a fresh worker, ATTEMPTS_MAX times in all.
"""

from __future__ import annotations

import selectors
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from memcoord.benchmarks.sweep.cell import Cell, Result
from memcoord.benchmarks.sweep.worker import RUNNER
from memcoord.testbed.runs.remote import Remote, RemoteError

WORKER = "memcoord.benchmarks.sweep.worker"
ATTEMPTS_MAX = 3
#: A worker without an answer for so long is taken for stuck.
CELL_S_MAX = 900.0
POLL_S = 5.0
END_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell: its result, or the reason why there is none."""

    cell: Cell
    result: Result | None
    error: str = ""


Outcomes = Generator[Outcome, None, None]


def outcome_of(cell: Cell, answer: dict[str, Any]) -> Outcome:
    """The outcome that ``worker.answer`` tells of."""
    return Outcome(cell, answer.get("result"), answer.get("error", ""))


def run_local(
    cells: Sequence[Cell], workers: int, runner: str = RUNNER, cell_s_max: float = CELL_S_MAX
) -> Outcomes:
    """Run every cell once, in any order; closing the generator ends the workers."""
    waiting, deaths = deque(cells), Counter[str]()
    with _Crew(runner, cell_s_max) as crew:
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


class _Crew:
    """The workers, idle and busy. Use as a context manager; leaving it ends them."""

    def __init__(self, runner: str, cell_s_max: float) -> None:
        self._runner, self._cell_s_max = runner, cell_s_max
        self._idle: list[Remote] = []
        self._busy: dict[Remote, tuple[Cell, float]] = {}  # the cell, and since when
        self._ready = selectors.DefaultSelector()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in [*self._idle, *self._busy]:
            self._dismiss(worker)
        self._ready.close()

    @property
    def busy(self) -> int:
        """Workers that have a cell."""
        return len(self._busy)

    def give(self, cell: Cell) -> None:
        """Have ``cell`` worked on by an idle worker, or by a new one."""
        if self._idle:
            worker = self._idle.pop()
        else:
            worker = Remote("worker", WORKER)
            self._ready.register(worker, selectors.EVENT_READ, worker)
        self._busy[worker] = cell, time.monotonic()
        worker.tell("run", cell=msgspec.to_builtins(cell), runner=self._runner)

    def answers(self) -> Iterator[tuple[Cell, dict[str, Any] | None]]:
        """Wait, POLL_S at most, for answers of workers; None from one that died over its cell."""
        for key, _ in self._ready.select(POLL_S):
            worker: Remote = key.data
            cell, _ = self._busy.pop(worker, (None, 0.0))
            try:
                answer = worker.answer(END_S)
            except RemoteError:
                answer = None
                self._dismiss(worker)
            else:
                self._idle.append(worker)
            if cell is not None:
                yield cell, answer
        for worker, (_, since_s) in self._busy.items():
            if time.monotonic() - since_s > self._cell_s_max:
                worker.kill()  # the next answers tell of it as a death

    def _dismiss(self, worker: Remote) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
        self._ready.unregister(worker)
        worker.close(grace_s=0.0)
