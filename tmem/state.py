"""The memory block of a pool, and numpy views of it.

Owns: ``State``, laid out as ``tmem.layout`` says. Used by ``tmem.pool`` and by those that look at a
pool from outside the kernels (``tmem.validate``, ``tmem.statistics``, ``tmem.control``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tmem import layout

LINE_BYTES = 64  # of a cache line; every array begins with one
_Records = npt.NDArray[np.void]
_Words = npt.NDArray[np.uint32]


class State:
    """The memory block of one pool. Alive as long as anybody uses ``address``.

    Room for ``max_pages`` pages, however they are stored, on ``max_frames`` frames of a slab that
    begins at the host address ``slab``. ``keys`` are the secret words of the hash, KEY_COUNT u64.
    ``hash_page`` is the address of the content hash; pages share their content only with one.
    """

    clients: _Records
    pools: _Records

    def __init__(
        self,
        max_frames: int,
        slab: int,
        keys: list[int],
        *,
        max_pages: int,
        reserve_pages: int = 0,
        hash_page: int = 0,
    ) -> None:
        max_areas = -(-max_frames // layout.AREA_PAGES)
        frames = max_areas * layout.AREA_PAGES
        hashed_frames = frames if hash_page else 0
        cell_count = layout.FIRST_CELL + layout.cells_for(max_pages)
        views = self._allocate(
            {
                "state": (layout.STATE, 1),
                "cells": (layout.CELL, cell_count),
                "page_buckets": (layout.U32, max(max_pages, 1)),
                "object_buckets": (layout.U32, max_pages // 2 + 1),
                "frames": (layout.U32, frames),
                "areas": (layout.AREA, max_areas),
                "hash_buckets": (layout.U32, hashed_frames),
                "hashed": (layout.HASHED, hashed_frames),
                "scratch": (layout.U32, layout.PAGE_BYTES // 2),  # codecs write beyond the result
                "warm": (layout.U32, layout.WARM_FRAMES),
            }
        )
        #: the fields of STATE; a view, as all these are
        self.header: np.void = views.pop("state")[0]
        for name, view in views.items():
            self.header[name] = view.ctypes.data
        self.cells: _Records = views["cells"]
        self.page_buckets: _Words = views["page_buckets"]
        self.object_buckets: _Words = views["object_buckets"]
        self.frames: _Words = views["frames"]
        self.areas: _Records = views["areas"]
        self.hash_buckets: _Words = views["hash_buckets"]
        self.hashed: _Records = views["hashed"]
        self.clients, self.pools = self.header["clients"], self.header["pools"]
        for name, value in {
            "slab": slab,
            "dedup": hash_page != 0,
            "hash_page": hash_page,
            "reserve_pages": reserve_pages,
            "max_areas": max_areas,
            "max_pages": max_frames,
            "page_bucket_count": len(self.page_buckets),
            "object_bucket_count": len(self.object_buckets),
            "hash_bucket_count": len(self.hash_buckets),
            "cell_count": cell_count,
            "free_cells": cell_count - layout.FIRST_CELL,
            "cells_touched": layout.FIRST_CELL,
            "cold": layout.EVICT_STORED,
            "keys": np.array(keys, dtype=np.uint64),
        }.items():
            self.header[name] = value
        anchors = self.cells["page"][: layout.FIRST_CELL]
        for links in (anchors["of_client"], anchors["eviction"]):
            links["next"] = links["previous"] = np.arange(layout.FIRST_CELL)

    def _allocate(self, arrays: dict[str, tuple[np.dtype, int]]) -> dict[str, Any]:
        """The block, and in it a view of each array, of so many elements of its dtype."""
        starts, end = {}, 0
        for name, (dtype, count) in arrays.items():
            starts[name] = end
            end += -(-count * dtype.itemsize // LINE_BYTES) * LINE_BYTES
        #: zeroes are an empty pool, so no page of this memory is touched yet
        self.block = _aligned(end)
        self.address = int(self.block.ctypes.data)
        return {
            name: self.block[starts[name] :][: count * dtype.itemsize].view(dtype)
            for name, (dtype, count) in arrays.items()
        }


def _aligned(count: int) -> npt.NDArray[np.uint8]:
    """So many zero bytes, at a cache line's start: what is used together is on few lines."""
    block = np.zeros(count + LINE_BYTES - 1, dtype=np.uint8)
    start = -int(block.ctypes.data) % LINE_BYTES
    return block[start : start + count]
