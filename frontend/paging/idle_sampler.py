"""An estimate of how much of a domain's memory is idle, by sampling as ESX does.

Owns: the sample. At the start of a period the sampler draws pages at random and takes their entries
out of the page table. The next use of such a page misses there; the sampler notes it and puts the
entry back. A page whose entry is not back at the end of the period was idle (Waldspurger, "Memory
Resource Management in VMware ESX Server", OSDI 2002, section 5.3). A reference that hits the table
costs nothing more than without a sample.

Used by ``frontend.paging.manager`` only, which tells the sampler of every page that leaves memory.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

#: Pages in a sample, as many as ESX draws.
SAMPLE_PAGES = 100
#: ESX takes 30 s; coordinators here look every 50 to 1000 ms.
PERIOD_NS = 100_000_000
UNKNOWN = -1


class IdleSampler:
    """Samples ``resident``, page -> frame, through ``table``, the part of it that is mapped."""

    def __init__(self, table: dict[int, int], resident: Mapping[int, int], seed: int = 0) -> None:
        #: Thousandths of the sample not used during the last whole period, or UNKNOWN.
        self.permille = UNKNOWN
        self._table, self._resident = table, resident
        self._rng = random.Random(seed)
        self._unused: set[int] = set()
        self._size = 0
        self._end_ns = 0

    def used(self, page: int) -> bool:
        """Whether ``page``, which missed in the table, was there but for the sample; maps it."""
        if page not in self._unused:
            return False
        self._unused.discard(page)
        self._table[page] = self._resident[page]
        return True

    def forget(self, page: int) -> None:
        """``page`` leaves memory: it says nothing about what stays there."""
        if page in self._unused:
            self._unused.discard(page)
            self._size -= 1

    def look(self, now_ns: int) -> None:
        """End the period if it is over, and begin the next."""
        if now_ns < self._end_ns:
            return
        if self._size:
            self.permille = 1000 * len(self._unused) // self._size
        self.stop()
        pages = list(self._resident)
        sample = self._rng.sample(pages, min(SAMPLE_PAGES, len(pages)))
        for page in sample:
            del self._table[page]
        self._unused, self._size = set(sample), len(sample)
        self._end_ns = now_ns + PERIOD_NS

    def stop(self) -> None:
        """Map the sample again; this period says nothing."""
        for page in self._unused:
            self._table[page] = self._resident[page]
        self._unused.clear()
        self._size = 0
