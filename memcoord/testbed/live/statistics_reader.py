"""The ticks of a hypervisor, read by the process that runs it.

Owns: the counts over ticks that a run's report needs, and what is done with the rest of the feed.
Called by ``memcoord.testbed.live.session`` from one thread; a context manager.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from hypervisor.public.feed import FeedMessage
from memcoord.testbed.watch.publications import Publication
from memcoord.testbed.watch.reader import BadStatistics as BadStatistics
from memcoord.testbed.watch.reader import FeedReader


class StatisticsReader:
    """The ticks of the hypervisor in ``directory``; subscribe once it answers a ping.

    Each tick comes once, also over a restart of the hypervisor. ``hear`` gets all that is no tick.
    """

    def __init__(
        self,
        directory: Path,
        hear: Callable[[FeedMessage], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed, self._hear, self._clock = FeedReader(directory), hear, clock
        self.ticks = self.served_ticks = 0  # all, and those with domains
        self.faults = self.faulty_ticks = 0  # of the policy; ticks with domains and a new one
        self._last_tick = 0
        self.begin_s = clock()

    def __enter__(self) -> Self:
        self._feed.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._feed.__exit__(*raised)

    def subscribe(self) -> None:
        """Receive from now on; times are counted from here."""
        self._feed.subscribe()
        self.begin_s = self._clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since ``begin_s``."""
        return self._clock() - self.begin_s

    def since_begin_s(self, publication: Publication) -> float:
        """When a tick was, in seconds since ``begin_s``: by the hypervisor's own clock."""
        return publication.monotonic_ns / 1e9 - self.begin_s

    def read(self, wait_ms: int = 0) -> Iterator[Publication]:
        """The ticks that have come; waits up to ``wait_ms`` for the first. BadStatistics."""
        for message in self._feed.read(wait_ms):
            if not isinstance(message, Publication):
                self._hear(message)
                continue
            if message.tick <= self._last_tick:
                continue  # of the hypervisor before, which had published it
            self._last_tick = message.tick
            faults = message.host.get("policy_faults", 0)
            self.ticks += 1
            self.served_ticks += bool(message.domains)
            self.faulty_ticks += bool(message.domains) and faults > self.faults
            self.faults = faults
            yield message
