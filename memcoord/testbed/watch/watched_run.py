"""A run as somebody watches it: what its feed says while it lives, its end when it is over.

Owns: ``WatchedRun``, which hears the feed and asks the manifest whether the run is over. Every live
view is made of it. Used from one thread.
"""

from __future__ import annotations

import time
from pathlib import Path

from memcoord.testbed.runs import facts, rundir
from memcoord.testbed.watch.ended import history_of
from memcoord.testbed.watch.ends import Ends
from memcoord.testbed.watch.frame import Frame, frame_of
from memcoord.testbed.watch.history import History
from memcoord.testbed.watch.reader import FeedReader

#: How often the manifest is asked whether a silent run is over.
OVER_S = 1.0


class WatchedRun:
    """A run as it can be seen: live, or its end."""

    def __init__(self, place: Path) -> None:
        self.place, self.history, self.ended = place, History(), ""
        self._asked_s = 0.0
        self._ends = Ends(place)

    def read(self, reader: FeedReader, wait_s: float) -> None:
        """Take what has come by ``wait_s`` from now."""
        reader.follow()
        for message in reader.read(round(wait_s * 1000)):
            self.history.hear(message)

    def frame(self, sort: str = "starved", opened: str = "") -> Frame | None:
        """A look at it now; None before the first tick. ``opened`` is a domain's name."""
        last = self.history.last
        now_ns = time.monotonic_ns()
        if self.ended and last is not None:
            now_ns = last.monotonic_ns
        return frame_of(
            self.history,
            now_ns,
            sort=sort,
            opened=opened,
            busy="" if self.ended else _busy(),
            title=self.place.name,
            ends=self._ends.read(),
        )

    def ask_whether_it_is_over(self, now_s: float) -> bool:
        """Look at the manifest, now and then; a run that ended shows what it left."""
        if self.ended or now_s - self._asked_s < OVER_S:
            return bool(self.ended)
        self._asked_s = now_s
        self.ended = state_of_ended(self.place)
        if self.ended and self.history.last is None:
            self.history = history_of(self.place) or self.history
        return bool(self.ended)


def state_of_ended(place: Path) -> str:
    """How the run in ``place`` ended; empty while it lives, or where no manifest says."""
    try:
        manifest = rundir.read_manifest(place)
        if rundir.live(place, manifest):
            return ""
    except rundir.RunDirError:
        return ""
    return "dead" if manifest.state == "running" else f"{manifest.state}"


def _busy() -> str:
    load, count = facts.load(), facts.cores()
    if load <= count:
        return ""
    return f"machine busy: load {load:.1f} on {count} CPUs; waiting for a CPU counts as waiting"
