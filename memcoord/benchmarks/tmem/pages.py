"""The pages that every row of ``memcoord bench tmem`` walks, and our pool as Python code sees it.

Owns: ``PageSet``, a number of page names in one random order, with the guest's side of the pages: a
block of 64 pages, which stays in the CPU's cache as a page does that was just used. Before the
clock of a sample starts, every page about to be put gets a first word it never had: no two pages
that are put are alike, so each is stored. Also ``text_pages``, which compress as text does.
Used by: ``memcoord.benchmarks.tmem.guest``.
"""

from __future__ import annotations

import mmap
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypervisor.public.units import FRAME_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.tmem.peers import Store
from tmem import Tmem

SEED = 20260
CLIENT = 0
DONE = 1
BLOCK_PAGES = 64
#: Text that compresses as text does: Python's own standard library, which every machine has. zlib
#: brings about two thirds of its pages down to a third of their size, any fast codec to a half.
LIBRARY = Path(os.__file__).parent
ZLIB_BYTES_MAX = 1400
#: The first page begins at these bytes of the text, in turn: where the library is small, as in some
#: distributions, cutting the same text elsewhere gives further pages.
SHIFTS = (0, 1024, 2048, 3072)


class PageSet:
    """Names of pages in their random order, how far the walk has got, and the guest's block."""

    def __init__(self, pages: int, number: int, content: bytes) -> None:
        self.pages = pages
        self.order = list(range(pages))
        random.Random(SEED + number).shuffle(self.order)
        self._order = ffi.new("uint32_t[]", self.order)
        self._memory = memory_of(content)
        whole = memoryview(self._memory)
        starts = range(0, len(content), FRAME_BYTES)
        #: the pages of the block; position p of the walk has page p % len(block)
        self.block = [whole[start : start + FRAME_BYTES] for start in starts]
        self.walk: Any = ffi.new("struct mcb_set *")
        self.walk.order, self.walk.pages, self.walk.object = self._order, pages, number
        self.walk.memory, self.walk.block = address_of(self._memory), len(self.block)
        self.walk.stamp = 1
        self._first_words = whole.cast("Q")[:: FRAME_BYTES // 8]

    def advance(self, pages: int) -> int:
        """Move the walk on by ``pages``, which divides its length; where it was."""
        at = int(self.walk.next)
        self.walk.next = (at + pages) % self.pages
        return at

    def stamp(self, start: int, stop: int) -> None:
        """Give the pages at these positions a content they never had."""
        for position in range(start, stop):
            self.walk.stamp += 1
            self._first_words[position % len(self.block)] = self.walk.stamp


def memory_of(content: bytes) -> mmap.mmap:
    """Private memory that holds ``content``, aligned to pages."""
    memory = mmap.mmap(-1, len(content), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = content
    return memory


def address_of(memory: mmap.mmap) -> int:
    """Where it lies, as long as the object lives."""
    return int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))


class TmemStore(Store):
    """Our pool as Python sees it, beside the rivals; it goes with the process."""

    def __init__(self, pages: PageSet, tmem: Tmem, slot: int) -> None:
        self._tmem, self._slot = tmem, slot
        per, number = lib.MCB_OBJECT_PAGES, int(pages.walk.object)
        oids = [(n + 1, number, 0) for n in range(-(-pages.pages // per))]
        indices = list(range(per))
        named = [(oids[n // per], indices[n % per]) for n in pages.order]
        self._calls = [(*name, pages.block[p % BLOCK_PAGES]) for p, name in enumerate(named)]
        self._page = bytearray(FRAME_BYTES)

    def put(self, start: int, stop: int) -> None:
        """One call a page."""
        put, slot = self._tmem.put, self._slot
        for oid, index, page in self._calls[start:stop]:
            if put(CLIENT, slot, oid, index, page) != DONE:
                raise KeyError(index)

    def get(self, start: int, stop: int) -> bytearray:
        """One call a page, into one buffer."""
        get, slot, page = self._tmem.get, self._slot, self._page
        for oid, index, _ in self._calls[start:stop]:
            if get(CLIENT, slot, oid, index, page) != DONE:
                raise KeyError(index)
        return page


class RingStore(Store):
    """The pool of a hypervisor as a domain sees it from Python: a request and an answer a page.

    A page is copied into a frame of the domain first, where a guest's pages are anyway.
    """

    def __init__(self, pages: PageSet, domain: Any, slot: int) -> None:
        self._tmem, self._slot = domain.tmem, slot
        self._frame = int(domain.alloc())
        self._view = domain.view(self._frame)
        number = int(pages.walk.object)
        self._calls = [
            ((1, number, 0), index, pages.block[position % BLOCK_PAGES])
            for position, index in enumerate(pages.order)
        ]

    def put(self, start: int, stop: int) -> None:
        """One call a page."""
        put, slot, frame, view = self._tmem.put, self._slot, self._frame, self._view
        for oid, index, page in self._calls[start:stop]:
            view[:] = page
            if put(slot, oid, index, frame) != DONE:
                raise KeyError(index)

    def get(self, start: int, stop: int) -> memoryview:
        """One call a page, into one frame."""
        get, slot, frame = self._tmem.get, self._slot, self._frame
        for oid, index, _ in self._calls[start:stop]:
            if get(slot, oid, index, frame) != DONE:
                raise KeyError(index)
        found: memoryview = self._view
        return found


def text_pages(pages: int) -> bytes:
    """``pages`` pages of the library's text, no two the same; ValueError when there are fewer."""
    found: dict[bytes, None] = {}
    for shift in SHIFTS:
        for page in _cut(shift):
            if len(zlib.compress(page, 1)) <= ZLIB_BYTES_MAX:
                found[page] = None
                if len(found) == pages:
                    return b"".join(found)
    raise ValueError(f"the standard library is only {len(found)} pages of text")


def _cut(shift: int) -> Iterator[bytes]:
    rest, start = b"", shift
    for path in sorted(LIBRARY.rglob("*.py")):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            rest += path.read_bytes()
            while len(rest) - start >= FRAME_BYTES:
                yield rest[start : start + FRAME_BYTES]
                start += FRAME_BYTES
            rest, start = rest[start:], max(start - len(rest), 0)
