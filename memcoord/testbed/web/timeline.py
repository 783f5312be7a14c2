"""What a run looked like at each moment of a bounded past: looks as they were, and their curves.

Owns: ``Timeline``. It is given looks at a run, the same that ``memcoord top`` draws, and keeps them
so that somebody can go back in time. Looks and their bytes have bounds; the oldest give way. Not
shared between threads while it grows.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import msgspec

from memcoord.testbed.watch.folding import Folding
from memcoord.testbed.watch.frame import DETAIL_FOLD_S, Frame, Line
from memcoord.testbed.watch.history import DECISIONS_S, History

#: Twenty minutes of a live run.
LOOKS_MAX = 2400
#: Of looks, as they are packed: some KiB each with 64 domains.
BYTES_MAX = 32 << 20
#: Of domains that came and went meanwhile, the last ones are drawn.
NAMES_MAX = 128
FOLDS_MAX, FOLDS_SHOWN_MAX = 20_000, 12
STEP_S = 0.5
#: Of more domains there is a look a second: each costs more, and so does drawing it.
MANY_DOMAINS, MANY_STEP_S = 16, 1.0

#: What of a domain is drawn over time: fields of ``Line``, as they are.
FIELDS = (
    *("ram_frames", "ram_target_frames", "tmem_pages", "tmem_target_pages"),
    *("waits", "disk_reads", "grants"),
)
Point = tuple[float | None, ...]


@dataclass(frozen=True)
class _Look:
    at_s: float
    packed: bytes
    points: dict[str, Point]  # by domain, a value for each of FIELDS
    costs: dict[str, float]


def _point(line: Line) -> Point:
    values = (getattr(line, field) for field in FIELDS)
    return tuple(round(value, 3) if isinstance(value, float) else value for value in values)


class Timeline:
    """Looks at a run, oldest first, ``step_s`` apart; without it, as a live run needs it."""

    def __init__(self, step_s: float = 0.0) -> None:
        self._looks: list[_Look] = []
        self._step_s = step_s
        self._bytes = 0
        self._folding = Folding(DETAIL_FOLD_S)
        self._decided_s = float("-inf")
        self._behind_s = 0.0  # how far a look's time is behind the clock of the decisions

    def is_due(self, at_s: float, domains: int) -> bool:
        """Whether another look is to be kept, of so many domains."""
        step_s = self._step_s or (MANY_STEP_S if domains > MANY_DOMAINS else STEP_S)
        if not self._looks:
            return True
        later_s = at_s - self._looks[-1].at_s
        return later_s >= step_s or later_s < 0  # a clock that was set back begins anew

    def add(self, at_s: float, history: History, frame: Frame) -> bytes:
        """Keep a look: ``frame``, made of ``history`` at ``at_s`` of the clock that is shown.

        Times ascend; the look as JSON.
        """
        self._decide(at_s, history)
        if self._looks and at_s <= self._looks[-1].at_s:
            self.clear()  # the clock was set back
        look = msgspec.json.encode(plain(at_s, frame))
        costs = {
            f"{cost.path} {cost.word} {name}": ns
            for cost in frame.costs
            for name, ns in (("p50", cost.p50_ns), ("p99", cost.p99_ns))
            if ns is not None
        }
        points = {line.name: _point(line) for line in frame.lines}
        packed = zlib.compress(look, 1)
        self._looks.append(_Look(at_s, packed, points, costs))
        self._bytes += len(packed)
        while len(self._looks) > LOOKS_MAX or self._bytes > BYTES_MAX:
            self._bytes -= len(self._looks.pop(0).packed)
        return look

    def _decide(self, at_s: float, history: History) -> None:
        """Fold what was decided since the last look."""
        assert history.last is not None
        self._behind_s = history.last.monotonic_ns / 1e9 - at_s
        new = [one for one in history.decisions(DECISIONS_S) if one.time_s > self._decided_s]
        for one in new:
            self._folding.add(one)
            self._decided_s = one.time_s
        while len(self._folding.found) > FOLDS_MAX:
            self._folding.found.popleft()

    def clear(self) -> None:
        """Forget all looks."""
        self._looks.clear()
        self._bytes = 0

    def look(self, at_s: float) -> bytes | None:
        """The look of ``at_s``, or the last before it, as JSON; None before there was one."""
        at = bisect_right(self._looks, at_s, key=lambda look: look.at_s)
        if not self._looks:
            return None
        return zlib.decompress(self._looks[max(at - 1, 0)].packed)

    def decided(self, domain: str, at_s: float) -> list[str]:
        """What was decided about a domain in the minute before ``at_s``, folded, a line each."""
        until_s = at_s + self._behind_s
        found = [
            one.line
            for one in self._folding.found
            if one.first.domain == domain
            and one.first.time_s <= until_s
            and one.last.time_s >= until_s - DECISIONS_S
        ]
        return found[-FOLDS_SHOWN_MAX:]

    def history(self) -> dict[str, Any]:
        """All that is drawn over time, as columns; None where a domain, or a figure, was not."""
        looks = self._looks
        domains: dict[str, dict[str, list[float | None]]] = {}
        names = dict.fromkeys(name for look in looks for name in look.points)
        for name in [*names][-NAMES_MAX:]:
            rows = [look.points.get(name, (None,) * len(FIELDS)) for look in looks]
            domains[name] = {field: [row[at] for row in rows] for at, field in enumerate(FIELDS)}
        keys = dict.fromkeys(key for look in looks for key in look.costs)
        return {
            "times": [look.at_s for look in looks],
            "domains": domains,
            "costs": {key: [look.costs.get(key) for look in looks] for key in keys},
        }


def plain(at_s: float, frame: Frame) -> dict[str, Any]:
    """A look as the page gets it: when it was, and all that it shows."""
    made = frame.plain()
    del made["detail"]
    return {"at_s": at_s, **made}
