"""How far a run is: a bar on a terminal, plain lines in a pipe; always on stderr.

Owns: what is shown while a run lasts, so that stdout holds nothing but the report.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Plain lines are written whenever another part of this many has been done.
RUN_PARTS = 4
CELL_PARTS = 10


class RunProgress:
    """One bar per policy. Use as a context manager, from one thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._plain = not self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.fields[policy]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"),
            console=self._console,
            disable=self._plain,
        )
        self._policy = ""
        self._task: TaskID | None = None
        self._part = 0

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.__exit__(kind, error, traceback)

    def begin(self, policy: str, total: int) -> None:
        """A policy's run begins; ``total`` references make it complete."""
        self._policy, self._part = policy, 0
        if not self._plain:
            self._task = self._bars.add_task("", total=total, policy=policy, what="")

    def note(self, what: str) -> None:
        """Say what happens now: a few words."""
        if self._plain:
            self._line(what)
        elif self._task is not None:
            self._bars.update(self._task, what=what)

    def advance(self, done: int, total: int) -> None:
        """``done`` of ``total`` references are done."""
        if not self._plain:
            if self._task is not None:
                self._bars.update(self._task, completed=done)
            return
        part = min(RUN_PARTS, done * RUN_PARTS // max(1, total))
        if part > self._part:
            self._part = part
            self._line(f"{part * 100 // RUN_PARTS} % of {total:,} references")

    def _line(self, text: str) -> None:
        sys.stderr.write(f"{self._policy}: {text}\n")
        sys.stderr.flush()


class CellProgress:
    """A bar on a terminal, plain lines in a pipe; on stderr. Use as a context manager."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        console = console or Console(stderr=True)
        self._plain = not console.is_terminal
        self._part = 0
        self._bars = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}", markup=False),
            console=console,
            disable=self._plain,
        )
        self._task = self._bars.add_task("", total=None, what="")

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.__exit__(kind, error, traceback)

    def __call__(self, done: int, total: int, what: str) -> None:
        """``done`` of ``total`` cells are done, ``what`` the last of them."""
        self._bars.update(self._task, completed=done, total=total, what=what)
        part = done * CELL_PARTS // max(total, 1)
        if self._plain and part > self._part:
            self._part = part
            sys.stderr.write(f"{self._title}: {done:,} of {total:,}\n")
            sys.stderr.flush()
