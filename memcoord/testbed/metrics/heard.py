"""The last of what the feed told, as one value that a scrape can take at any moment.

Owns: ``Heard``, which one thread feeds while others look, and ``Seen``, one look. Nothing grows:
only the last of each is kept, of the domains of the last tick.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hypervisor.public.feed import DomainLimits, FeedMessage, Hello, Latencies
from hypervisor.public.latency import Counts
from memcoord.testbed.watch.publications import Publication

#: Domain, path, and whose word it is.
Counted = tuple[str, str, str]


@dataclass(frozen=True)
class Seen:
    """What was known of ``run`` at one moment. ``counts``: how long grants took so far."""

    run: str = ""
    hello: Hello | None = None
    tick: Publication | None = None
    limits: Mapping[str, DomainLimits] = field(default_factory=dict)
    counts: Mapping[Counted, Counts] = field(default_factory=dict)
    has_counts: bool = False
    unreadable: int = 0


class Heard:
    """The last of every kind of message of ``run``. One thread calls ``hear`` and ``garbled``."""

    def __init__(self, run: str = "") -> None:
        self._run = run
        self._lock = threading.Lock()
        self._hello: Hello | None = None
        self._tick: Publication | None = None
        self._limits: dict[str, DomainLimits] = {}
        self._counts: dict[Counted, Counts] = {}
        self._has_counts = False
        self._unreadable = 0

    def look(self) -> Seen:
        """All of it, now; from any thread."""
        with self._lock:
            kept = dict(self._limits), dict(self._counts)
            of_run = self._run, self._hello, self._tick
            return Seen(*of_run, *kept, self._has_counts, self._unreadable)

    def garbled(self) -> None:
        """A message came that cannot be read."""
        with self._lock:
            self._unreadable += 1

    def hear(self, message: Publication | FeedMessage) -> None:
        """Take one message. What is sent in parts adds up: a part has some of the rows."""
        with self._lock:
            match message:
                case Publication():
                    self._take(message)
                case Hello():
                    if self._hello is not None and self._hello.run != message.run:
                        self._forget()  # a run goes on under another policy
                    self._hello = message
                    self._limits |= {row.name: row for row in message.rows}
                case Latencies():
                    self._has_counts = True
                    for row in message.rows:
                        self._counts[row.domain, row.path, row.word] = row.counts

    def _take(self, tick: Publication) -> None:
        if self._tick is not None and tick.tick < self._tick.tick:
            self._counts.clear()  # another hypervisor, which counts from nothing
        self._tick = tick
        names = [str(row.get("name")) for row in tick.domains]
        self._keep(names)

    def _keep(self, names: Iterable[str]) -> None:
        known = set(names)
        for gone in [name for name in self._limits if name not in known]:
            del self._limits[gone]
        for key in [key for key in self._counts if key[0] not in known]:
            del self._counts[key]

    def _forget(self) -> None:
        self._tick = None
        self._limits.clear()
        self._counts.clear()
        self._has_counts = False
