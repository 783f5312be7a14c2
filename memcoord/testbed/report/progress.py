"""The progress of long work: a bar on a terminal, plain lines in a pipe; always on stderr.

Owns: everything shown while a run, a sweep or a bench lasts, so that stdout holds the report only.
A run also shows itself: a few lines of its live view below the bar, in a pipe who is starved.
"""

import sys
from collections.abc import Iterable
from typing import Self

from rich import progress as bars
from rich.console import Console, Group, RenderableType

from memcoord.testbed.watch.frame import Frame
from memcoord.testbed.watch.screen import encodable, short

#: In a pipe, a line is written whenever another part of this many has been done.
PARTS = 10
#: For a first line: what a real run takes beside its references, and those, real and simulated, on
#: two quiet cores.
START_S, REFERENCE_S, SIM_REFERENCE_S = 0.5, 3e-6, 1e-6


def duration(expected_s: float) -> str:
    """About how long something takes, for its first line."""
    minutes = expected_s / 60
    return f"about {expected_s:.0f} s" if expected_s < 100 else f"about {minutes:.0f} min"


def expected_real_s(references: int) -> float:
    """About how long a run of real processes takes that refer to so many pages in all."""
    return START_S + references * REFERENCE_S


def expected_sim_s(references: int) -> float:
    """The same for a simulated run, on one core."""
    return references * SIM_REFERENCE_S


class _Bars(bars.Progress):
    """Bars with something below them."""

    below: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn, from the top down."""
        yield from super().get_renderables()
        if self.below is not None:
            yield self.below


class Progress:
    """One bar per title, the last one begun is at work. A context manager, for one thread."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._is_plain = not console.is_terminal
        self._bars = _Bars(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[what]}", markup=False),
            console=console,
            disable=self._is_plain,
        )
        self._title = ""
        self._task: bars.TaskID | None = None
        self._part = 0
        self._sentence = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.below = None
        self._bars.stop()

    def begin(self, title: str, total: int | None = None) -> None:
        """Begin work called ``title`` of ``total`` steps; None: ``advance`` will tell."""
        self._title, self._part = title, 0
        self._bars.below, self._sentence = None, ""
        self._task = self._bars.add_task(title, total=total, what="")

    def note(self, what: str) -> None:
        """Say in a few words what happens now."""
        if self._is_plain:
            self._line(what)
        elif self._task is not None:
            self._bars.update(self._task, what=what)

    def say(self, text: str) -> None:
        """A line of its own that stays, before the work or between parts of it."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def watch(self, frame: Frame) -> None:
        """Show how the run at work fares; in a pipe, who is starved whenever that changes."""
        if not self._is_plain:
            console = self._bars.console
            lines = short(frame, console.width)
            self._bars.below = Group(*(encodable(line, console.encoding) for line in lines))
            return
        starved = [line.name for line in frame.lines if line.state in ("STARVED", "BROKEN")]
        told = ", ".join(starved)
        if told != self._sentence:
            self._sentence = told
            self._line(frame.sentence)

    def advance(self, done: float, total: int, what: str = "") -> None:
        """``done`` of ``total`` steps are done; a bar also shows ``what`` was last."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)
            if what:
                self._bars.update(self._task, what=what)
        part = int(done * PARTS / max(total, 1))
        if self._is_plain and part > self._part:
            self._part = part
            self._line(f"{f'{done:,.1f}'.removesuffix('.0')} of {total:,}")

    def _line(self, text: str) -> None:
        sys.stderr.write(f"{self._title}: {text}\n")
        sys.stderr.flush()
