"""Where a guest's pages are while they are not in RAM, and moving them there and back.

Owns: ``Places``, which has a program's file, cleancache, frontswap and the swap file, and knows the
place of every page that is not resident:

  never touched    no bytes anywhere; its first touch fills a frame
  in frontswap     stored there when it was evicted
  on disk          in the swap file, because tmem refused it
  in the file      a page of a program that nobody wrote to, perhaps in cleancache too

A page read back from disk keeps its copy there until it is written to, so that evicting it again
needs no write. A page read back from frontswap is flushed there in the same batch (exclusive gets):
that makes room for the page that is evicted for it, and no store is ever a duplicate.

Rules: one thread. ``add_load`` and ``add_store`` add a request for tmem to a batch; the caller
submits the batch and hands the answers to ``load`` and ``store``. ``frontend.paging.manager`` uses
it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from frontend.domain import Domain
from frontend.paging.cleancache import Cleancache
from frontend.paging.frontswap import Frontswap
from frontend.paging.swapfile import SwapFile
from hypervisor.public.errors import PeerGone

#: The one swap device, and the one file of the program.
DEVICE = INODE = 0


class ProgramFile(Protocol):
    """The file that holds a program's pages; ``SwapFile`` will do."""

    def read(self, page: int, frame: memoryview) -> None:
        """Fill ``frame`` with a page of the file."""


@dataclass
class GuestMemoryStatistics:
    """What a manager did so far. Counters count pages, if nothing else is said, and only rise."""

    references: int = 0
    faults: int = 0  # references to a page that was not resident
    first_touches: int = 0  # faults on a page never touched
    tmem_hits: int = 0  # faults served by tmem
    swap_ins: int = 0  # faults served by the swap file
    swap_outs: int = 0  # pages written to the swap file
    file_reads: int = 0  # faults served by the program's file
    puts: int = 0  # pages offered to tmem
    failed_puts: int = 0  # of those, anonymous ones that were refused
    moved: int = 0  # pages moved to another frame to empty an area
    stall_ns: int = 0  # time in faults that waited for tmem, the disk or a victim
    resident_frames: int = 0
    committed_frames: int = 0  # pages ever touched: resident, in tmem or on disk


class Places:
    """The places of ``pages`` pages, and the counters of what moved between them and RAM.

    ``first_touch(page, frame)`` fills the frame of a page that was never touched. ``program_pages``
    are those of ``program``. ``tmem=False`` uses the swap file only.
    """

    def __init__(
        self,
        domain: Domain,
        pages: int,
        swap: SwapFile,
        first_touch: Callable[[int, int], None],
        program: ProgramFile | None,
        program_pages: Collection[int],
        tmem: bool,
    ) -> None:
        self.counted = GuestMemoryStatistics()
        self.on_disk: set[int] = set()
        #: Pages of the program's file that were not written to.
        self.file_pages = set(program_pages)
        self.frontswap: Frontswap | None = None
        self._file_unread = set(program_pages)
        self._domain, self._swap, self._program = domain, swap, program
        self._first_touch = first_touch
        self._batch = domain.tmem.batch()
        self._cleancache: Cleancache | None = None
        if tmem:
            self.frontswap = Frontswap(domain.tmem, exclusive_gets=True)
            self.frontswap.swapon(DEVICE, pages)
            if program is not None:
                self._cleancache = Cleancache(domain.tmem)
                self._filesystem = self._cleancache.mount()

    def submit(self) -> list[int]:
        """Send the requests that were added; tmem's answers in their order, or PeerGone."""
        return self._batch.submit()

    def add_load(self, page: int, frame: int) -> int | None:
        """Ask tmem for a page; the place of its answer, or None: tmem cannot have the page."""
        if page in self.file_pages:
            if self._cleancache is None:
                return None
            return self._cleancache.add_get(self._batch, self._filesystem, INODE, page, frame)
        if self.frontswap is None or not self.frontswap.holds(DEVICE, page):
            return None
        return self.frontswap.add_load(self._batch, DEVICE, page, frame)

    def load(self, page: int, frame: int, answer: int | None) -> None:
        """Fill ``frame`` from the page's place, if tmem has not done so.

        ``answer`` is tmem's, None when tmem was not asked. SwapError when the disk fails.
        """
        counted = self.counted
        if page in self.file_pages:
            if answer is not None and self._cleancache and self._cleancache.settle_get(answer):
                counted.tmem_hits += 1
            elif self._program is not None:
                self._program.read(page, self._domain.view(frame))
                counted.file_reads += 1
                if page in self._file_unread:
                    self._file_unread.discard(page)
                    counted.committed_frames += 1
        elif answer is not None and self.frontswap is not None:
            self.frontswap.settle_load(DEVICE, page, answer)
            counted.tmem_hits += 1
        elif page in self.on_disk:
            self._swap.read(page, self._domain.view(frame))
            counted.swap_ins += 1
        else:
            self._first_touch(page, frame)
            counted.first_touches += 1
            counted.committed_frames += 1

    def add_store(self, page: int, frame: int) -> int | None:
        """Offer a page to tmem; the place of the answer that ``store`` wants, or None."""
        if page in self.file_pages:
            if self._cleancache is not None:
                self._cleancache.add_put(self._batch, self._filesystem, INODE, page, frame)
                self.counted.puts += 1
            return None
        if self.frontswap is None:
            return None
        self.counted.puts += 1
        return self.frontswap.add_store(self._batch, DEVICE, page, frame)

    def store(self, page: int, frame: int, answer: int | None) -> None:
        """Have a copy of an evicted page outside RAM; SwapError when the disk fails.

        ``answer`` is tmem's, None when tmem was not offered the page or its answer does not matter.
        """
        if page in self.file_pages:
            return
        if answer is not None and self.frontswap is not None:
            if self.frontswap.settle_store(DEVICE, page, frame, answer):
                self.on_disk.discard(page)
                return
            self.counted.failed_puts += 1
        if page not in self.on_disk:
            self._swap.write(page, self._domain.view(frame))
            self.counted.swap_outs += 1
            self.on_disk.add(page)

    def close(self) -> None:
        """Give up tmem's pools; the swap file stays the caller's."""
        with contextlib.suppress(PeerGone):  # then the pools died with the hypervisor
            if self.frontswap is not None:
                self.frontswap.close()
            if self._cleancache is not None:
                self._cleancache.unmount(self._filesystem)
        self.frontswap = self._cleancache = None
        self.on_disk.clear()
