"""The memory block of a pool, and numpy views of it.

Owns: ``State``, laid out as ``tmem.layout`` says. Used by ``tmem.pool`` and what looks from outside
(``tmem.validate``, ``tmem.statistics``, ``tmem.control``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tmem import layout
from tmem.layout import (
    AREA_PAGES,
    AREA_WORDS,
    AUTHORISATIONS,
    CELL_EVICTION,
    CELL_OF_CLIENT,
    CELL_WORDS,
    CLIENT_FIELDS,
    CLIENTS,
    FIRST_CELL,
    FIXED_WORDS,
    H_AREAS,
    H_CELLS,
    H_FRAMES,
    H_KEYS,
    H_OBJECT_BUCKETS,
    H_PAGE_BUCKETS,
    H_SAME,
    H_SAME_BUCKETS,
    H_SCRATCH,
    H_WARM,
    HEADER_WORDS,
    KEY_COUNT,
    MAX_CLIENTS,
    MAX_POOLS,
    PAGE_BYTES,
    POOL_FIELDS,
    POOLS,
    POOLS_PER_CLIENT,
    SAME_WORDS,
    SLOT_WORDS,
    SLOTS,
    UUIDS,
    WARM_FRAMES,
    cells_for,
)

LINE_WORDS = 8  # of a cache line


class State:
    """The memory block of one pool. Alive as long as anybody uses ``address``.

    Room for ``max_pages`` pages, whatever they are stored as, on ``max_frames`` frames of a slab.
    """

    def __init__(
        self,
        max_frames: int,
        slab: int,
        keys: list[int],
        *,
        max_pages: int,
        reserve_pages: int = 0,
        dedup: bool = False,
    ) -> None:
        max_areas = -(-max_frames // AREA_PAGES)
        frames = max_areas * AREA_PAGES
        cell_count = FIRST_CELL + cells_for(max_pages)
        sizes = {  # in u32
            H_CELLS: cell_count * CELL_WORDS,
            H_PAGE_BUCKETS: max(max_pages, 1),
            H_OBJECT_BUCKETS: max_pages // 2 + 1,
            H_FRAMES: frames,
            H_AREAS: max_areas * AREA_WORDS,
            H_SAME_BUCKETS: frames * dedup,
            H_SAME: frames * SAME_WORDS * dedup,
            H_SCRATCH: 2 * PAGE_BYTES // 4,  # a codec may write beyond what it answers
            H_WARM: WARM_FRAMES,
        }
        starts: dict[int, int] = {}
        end = FIXED_WORDS
        for header, size in sizes.items():
            starts[header] = end
            end += -(-size // 2)
        #: the block, in int64 words; zeroes are an empty pool, so no page of it is touched yet
        self.words: npt.NDArray[np.int64] = _aligned(end)
        self.address = int(self.words.ctypes.data)
        views = {
            header: self.words[start:].view(np.uint32)[: sizes[header]]
            for header, start in starts.items()
        }
        self.cells = views[H_CELLS].reshape(cell_count, CELL_WORDS)
        self.page_buckets = views[H_PAGE_BUCKETS]
        self.object_buckets = views[H_OBJECT_BUCKETS]
        self.frames = views[H_FRAMES]
        self.areas = views[H_AREAS].reshape(max_areas, AREA_WORDS)
        self.same_buckets = views[H_SAME_BUCKETS]
        self.same = views[H_SAME].reshape(-1, SAME_WORDS)
        self.header = self.words[:HEADER_WORDS]
        self.clients = _records(self.words, CLIENTS, MAX_CLIENTS, CLIENT_FIELDS)
        self.uuids = self.words[UUIDS:SLOTS].reshape(MAX_CLIENTS, AUTHORISATIONS, 2)
        self.slots = self.words[SLOTS:POOLS].reshape(MAX_CLIENTS, POOLS_PER_CLIENT, SLOT_WORDS)
        self.pools = _records(self.words, POOLS, MAX_POOLS, POOL_FIELDS)
        for header, start in starts.items():
            self.header[header] = self.address + start * 8 if sizes[header] else 0
        self.header[layout.H_SLAB] = slab
        self.header[layout.H_MAX_AREAS] = max_areas
        self.header[layout.H_MAX_PAGES] = max_frames
        self.header[layout.H_RESERVE_PAGES] = reserve_pages
        self._format(cell_count, keys)

    def _format(self, cell_count: int, keys: list[int]) -> None:
        self.header[layout.H_PAGE_BUCKET_COUNT] = len(self.page_buckets)
        self.header[layout.H_OBJECT_BUCKET_COUNT] = len(self.object_buckets)
        self.header[layout.H_SAME_BUCKET_COUNT] = len(self.same_buckets)
        self.header[layout.H_CELL_COUNT] = cell_count
        self.header[layout.H_FREE_CELLS] = cell_count - FIRST_CELL
        self.header[layout.H_CELLS_TOUCHED] = FIRST_CELL
        self.header[layout.H_COLD] = layout.EVICT_STORED
        self.header[H_KEYS : H_KEYS + KEY_COUNT] = np.array(keys, dtype=np.uint64).view(np.int64)
        anchors = np.arange(FIRST_CELL, dtype=np.uint32)
        for column in (CELL_OF_CLIENT, CELL_EVICTION):
            self.cells[:FIRST_CELL, column] = anchors
            self.cells[:FIRST_CELL, column + 1] = anchors


def _aligned(words: int) -> npt.NDArray[np.int64]:
    """Zeroes that begin with a cache line, so that what is used together is on as few as can be."""
    block = np.zeros(words + LINE_WORDS - 1, dtype=np.int64)
    start = -int(block.ctypes.data) // 8 % LINE_WORDS
    return block[start : start + words]


def _records(
    words: npt.NDArray[np.int64], start: int, count: int, fields: tuple[str, ...]
) -> npt.NDArray[np.void]:
    """A view of ``count`` records of named int64 fields: ``view["used_pages"][client]``."""
    record = np.dtype([(name, np.int64) for name in fields])
    view: npt.NDArray[np.void] = words[start : start + count * len(fields)].view(record)
    return view
