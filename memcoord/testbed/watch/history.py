"""The last seconds of a run: what there is now, and how fast it changes.

Owns: ``History``, which is fed with all that a ``FeedReader`` reads and forgets what is old, and
``DomainNow``. Pure; every live view shows what it says.

A guest writes its counters when it suits it, not at ticks: so rates are over WINDOW_S at least, and
a share of time is never above 1. A window is a time, not a number of ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hypervisor.public.feed import DomainLimits, Event, FeedMessage, Hello, Latencies, Why
from hypervisor.public.latency import Counts
from memcoord.testbed.watch.folding import Decided
from memcoord.testbed.watch.latencies import added, since
from memcoord.testbed.watch.publications import Publication

WINDOW_S, LATENCY_WINDOW_S = 2.0, 10.0
CURVE = "mrc_permille"
#: Of a newcomer nothing is said before it has been there for so long.
WINDOW_MIN_S = 0.2
#: What an opened domain shows of the last minute: a value a second.
TRAIL_STEP_S, TRAIL_MAX = 1.0, 60
#: What an opened domain shows of its decisions, and what is kept of all of them at most.
DECISIONS_S, DECISIONS_MAX = 60.0, 20_000
TICKS_MAX = 4000
EVENTS_MAX = 64
#: Names of domains that are remembered, with those that are gone: a host sees new ones for ever.
SEEN_MAX = 128
#: Rows of latencies of one instant that are kept: a few of each domain.
LATENCY_ROWS_MAX = 20_000


@dataclass(frozen=True)
class DomainNow:
    """One domain at the last tick. ``before``: its values ``span_s`` earlier, or None."""

    values: Mapping[str, Any]
    before: Mapping[str, Any] | None
    span_s: float
    limits: DomainLimits | None

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.values.get("name", "?"))

    def count(self, column: str) -> int:
        """A value of now; 0 where there is none."""
        value = self.values.get(column, 0)
        return value if isinstance(value, int) else 0

    def rate(self, *columns: str) -> float | None:
        """How much counters rose a second, in sum; None where that is not known.

        A counter of -1 was not reported. One that fell began anew, and rose by what it is now.
        """
        if self.before is None or self.span_s <= 0:
            return None
        grown = 0
        for column in columns:
            now, then = self.count(column), self.before.get(column, 0)
            if now < 0 or not isinstance(then, int):
                return None
            then = max(then, 0)
            grown += now - then if now >= then else now
        return grown / self.span_s

    @property
    def waits(self) -> float | None:
        """The share of time that it stood still for want of memory, by its own word."""
        rate = self.rate("guest_stall_ns")
        return None if rate is None else min(rate / 1e9, 1.0)


@dataclass(frozen=True)
class Trail:
    """What one domain had, and how it fared, at one second of the last minute."""

    waits: float | None
    ram_frames: int
    tmem_pages: int


@dataclass
class History:
    """The last of what was heard of one run, whichever hypervisor serves it."""

    hello: Hello | None = None
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    _ticks: deque[Publication] = field(default_factory=lambda: deque(maxlen=TICKS_MAX))
    _decided: deque[Decided] = field(default_factory=lambda: deque(maxlen=DECISIONS_MAX))
    _latencies: deque[Latencies] = field(default_factory=deque)
    _trails: dict[str, deque[Trail]] = field(default_factory=dict)
    _curves: dict[str, list[int]] = field(default_factory=dict)
    _seen: dict[str, None] = field(default_factory=dict)
    _trail_ns: int = 0

    def hear(self, message: Publication | FeedMessage) -> None:
        """Take one message of the feed."""
        match message:
            case Publication():
                self._tick(message)
            case Hello():
                if self.hello is not None and self.hello.run != message.run:
                    self._forget()  # a run goes on under another policy
                self.hello = message
            case Why():
                at_s = message.monotonic_ns / 1e9
                self._decided += [Decided.of(at_s, message.tick, row) for row in message.rows]
            case Latencies():
                self._latency(message)
            case Event():
                self.events.append(message)

    def _tick(self, tick: Publication) -> None:
        if self._ticks and tick.tick < self._ticks[-1].tick:
            self._forget()
        self._ticks.append(tick)
        self._drop(self._ticks, tick.monotonic_ns, WINDOW_S)
        for row in tick.domains:
            self._seen[str(row.get("name"))] = None
            curve = row.get(CURVE)  # comes once a second
            if isinstance(curve, list) and all(isinstance(ratio, int) for ratio in curve):
                self._curves[str(row.get("name"))] = curve
        while len(self._seen) > SEEN_MAX:  # the oldest of those that are gone, or else of all
            del self._seen[next(iter(self.gone() or self._seen))]
        if tick.monotonic_ns - self._trail_ns >= TRAIL_STEP_S * 1e9:
            self._trail_ns = tick.monotonic_ns
            self._follow()
        while self._decided and tick.monotonic_ns / 1e9 - self._decided[0].time_s > DECISIONS_S:
            self._decided.popleft()

    def _latency(self, message: Latencies) -> None:
        """Put it to the others; parts of one message have one time, and are one here."""
        last = self._latencies[-1] if self._latencies else None
        if last is not None and last.monotonic_ns == message.monotonic_ns:
            rows = [*last.rows, *message.rows][-LATENCY_ROWS_MAX:]
            self._latencies[-1] = msgspec.structs.replace(last, rows=rows)
        else:
            self._latencies.append(message)
        self._drop(self._latencies, message.monotonic_ns, LATENCY_WINDOW_S)

    def _follow(self) -> None:
        domains = self.domains()
        for gone in self._trails.keys() - {domain.name for domain in domains}:
            del self._trails[gone]
        for now in domains:
            trail = self._trails.setdefault(now.name, deque(maxlen=TRAIL_MAX))
            held = now.count("current_frames"), now.count("tmem_used_pages")
            trail.append(Trail(now.waits, *held))

    def trail(self, domain: str) -> list[Trail]:
        """The last minute of one domain, a value a second."""
        return list(self._trails.get(domain, ()))

    def curve(self, domain: str) -> list[int]:
        """Thousandths of its requests that tmem of 0 to all pages would miss; empty if unknown."""
        return self._curves.get(domain, [])

    def _forget(self) -> None:
        self._trails.clear()
        self._curves.clear()
        self._seen.clear()
        self._trail_ns = 0
        self._ticks.clear()
        self._decided.clear()
        self._latencies.clear()
        self.events.clear()

    @staticmethod
    def _drop(kept: deque[Any], now_ns: int, span_s: float) -> None:
        """All but the newest that is at least ``span_s`` old, and what came after it."""
        while len(kept) > 2 and now_ns - kept[1].monotonic_ns >= span_s * 1e9:
            kept.popleft()

    @property
    def last(self) -> Publication | None:
        """The last tick."""
        return self._ticks[-1] if self._ticks else None

    def domains(self) -> list[DomainNow]:
        """Every domain of the last tick, in the order of their numbers."""
        if not self._ticks:
            return []
        last = self._ticks[-1]
        first: dict[str, tuple[int, Mapping[str, Any]]] = {}
        for tick in self._ticks:  # a newcomer has a shorter window
            for row in tick.domains:
                first.setdefault(str(row.get("name")), (tick.monotonic_ns, row))
        limits = {} if self.hello is None else {one.name: one for one in self.hello.rows}
        found = []
        for row in last.domains:
            name = str(row.get("name"))
            begin_ns, before = first[name]
            span_s = (last.monotonic_ns - begin_ns) / 1e9
            known = before if span_s >= WINDOW_MIN_S else None
            found.append(DomainNow(row, known, span_s, limits.get(name)))
        return found

    def gone(self) -> dict[str, str]:
        """The domains that were here and are not any more, and why, as far as was heard."""
        here = set() if self.last is None else {str(row.get("name")) for row in self.last.domains}
        told = {
            str(event.fields.get("domain")): str(event.fields.get("reason", ""))
            for event in self.events
            if event.event == "detached"
        }
        return {name: told.get(name, "") for name in self._seen if name not in here}

    def host_rate(self, column: str) -> float:
        """How much a counter of the host rose a second."""
        if len(self._ticks) < 2:
            return 0.0
        first, last = self._ticks[0], self._ticks[-1]
        span_s = max((last.monotonic_ns - first.monotonic_ns) / 1e9, 1e-9)
        return max(last.host.get(column, 0) - first.host.get(column, 0), 0) / span_s

    def decisions(self, span_s: float = WINDOW_S, domain: str = "") -> list[Decided]:
        """What was decided lately, about one domain or about all."""
        if not self._ticks:
            return []
        since_s = self._ticks[-1].monotonic_ns / 1e9 - span_s
        return [
            one for one in self._decided if one.time_s >= since_s and domain in ("", one.domain)
        ]

    def latencies(self, domain: str = "") -> dict[tuple[str, str], Counts]:
        """What was counted in the last LATENCY_WINDOW_S, by path and whose word it is."""
        if not self._latencies:
            return {}
        first, last = self._latencies[0], self._latencies[-1]
        is_all = first is last  # since the run began, if it began just now
        before = {} if is_all else {(r.domain, r.path, r.word): r.counts for r in first.rows}
        found: dict[tuple[str, str], list[Counts]] = {}
        for row in last.rows:
            if domain in ("", row.domain):
                new = since(row.counts, before.get((row.domain, row.path, row.word), {}))
                found.setdefault((row.path, row.word), []).append(new)
        return {key: added(parts) for key, parts in found.items()}
