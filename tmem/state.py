"""The memory block of a pool, and numpy views of it.

Owns: ``State``, laid out as ``tmem.layout`` says. The block is memory of this process, or memory of
the caller that outlives the process: then the next process opens the same block again. The block
holds no address that counts: the next process writes the addresses anew. Used by ``tmem.pool`` and
by those that look at a pool from outside the kernels (``tmem.validate``, ``tmem.statistics``,
``tmem.control``).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem import layout
from tmem.codes import TmemError

LINE_BYTES = 64  # of a cache line; every array begins with one
_Records = npt.NDArray[np.void]
_Words = npt.NDArray[np.uint32]
_Bytes = npt.NDArray[np.uint8]


class State:
    """The memory block of one pool. Alive as long as anybody uses ``address``.

    Room for ``max_pages`` pages, however they are stored, on ``max_frames`` frames of a slab that
    begins at the host address ``slab``. ``keys`` are the secret words of the hash, KEY_COUNT u64.
    ``hash_page`` is the address of the content hash; pages share their content only with one.

    ``memory`` is the address and the size of the caller's memory, all zero, in which the block is
    made. With ``recover`` the block of another process is there already: its settings and pages
    stay, and only what ``tmem.rebuild`` cannot know is written. TmemError when the memory is too
    small, or when the block in it has another layout or other sizes.
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
        memory: tuple[int, int] | None = None,
        recover: bool = False,
    ) -> None:
        arrays = _arrays(max_frames, max_pages, hash_page != 0)
        views = self._allocate(arrays, memory)
        #: the fields of STATE; a view, as all these are
        self.header: np.void = views.pop("state")[0]
        self.cells: _Records = views["cells"]
        self.page_buckets: _Words = views["page_buckets"]
        self.object_buckets: _Words = views["object_buckets"]
        self.frames: _Words = views["frames"]
        self.areas: _Records = views["areas"]
        self.hash_buckets: _Words = views["hash_buckets"]
        self.hashed: _Records = views["hashed"]
        self.kept: _Bytes = views["kept"]
        self.clients, self.pools = self.header["clients"], self.header["pools"]
        sizes = {
            "dedup": int(hash_page != 0),
            "max_areas": len(self.areas),
            "max_pages": max_frames,
            "page_bucket_count": len(self.page_buckets),
            "object_bucket_count": len(self.object_buckets),
            "hash_bucket_count": len(self.hash_buckets),
            "cell_count": len(self.cells),
        }
        if recover:
            self._expect(sizes)
        else:
            self._make(sizes, keys)
        for name, view in views.items():
            self.header[name] = view.ctypes.data
        for name, value in {
            "slab": slab,
            "hash_page": hash_page,
            "reserve_pages": reserve_pages,
            "note": 0,
            "shards": 0,
        }.items():
            self.header[name] = value
        self.header["layout"] = layout.LAYOUT

    def _make(self, sizes: dict[str, int], keys: list[int]) -> None:
        """An empty pool, in memory of zeroes."""
        first: dict[str, Any] = {
            **sizes,
            "free_cells": len(self.cells) - layout.FIRST_CELL,
            "cells_touched": layout.FIRST_CELL,
            "cold": layout.EVICT_STORED,
            "keys": np.array(keys, dtype=np.uint64),
        }
        for name, value in first.items():
            self.header[name] = value
        anchors = self.cells["page"][: layout.FIRST_CELL]
        for links in (anchors["of_client"], anchors["eviction"]):
            links["next"] = links["previous"] = np.arange(layout.FIRST_CELL)

    def _expect(self, sizes: dict[str, int]) -> None:
        found = int(self.header["layout"])
        if found != layout.LAYOUT:
            raise TmemError(
                f"the pool left by the last process has layout {found:#x}, this one needs "
                f"{layout.LAYOUT:#x}: go on with the version that made it, or start without it"
            )
        for name, size in sizes.items():
            if self.header[name] != size:
                raise TmemError(
                    f"the pool left by the last process has {name} {self.header[name]}, not "
                    f"{size}: recover it with the options it was made with"
                )

    def _allocate(
        self, arrays: dict[str, tuple[np.dtype, int]], memory: tuple[int, int] | None
    ) -> dict[str, Any]:
        """The block, and in it a view of each array, of so many elements of its dtype."""
        starts, end = _places(arrays)
        #: zeroes are an empty pool, so no page of this memory is touched yet
        self.block = _aligned(end) if memory is None else _given(*memory, end)
        self.address = int(self.block.ctypes.data)
        return {
            name: self.block[starts[name] :][: count * dtype.itemsize].view(dtype)
            for name, (dtype, count) in arrays.items()
        }


def bytes_needed(max_frames: int, max_pages: int, hashed: bool) -> int:
    """The size of the block of a ``State`` of these sizes; ``hashed`` is whether it has dedup."""
    return _places(_arrays(max_frames, max_pages, hashed))[1]


def _arrays(max_frames: int, max_pages: int, hashed: bool) -> dict[str, tuple[np.dtype, int]]:
    """Every array of the block: its dtype and how many elements it has."""
    max_areas = -(-max_frames // layout.AREA_PAGES)
    frames = max_areas * layout.AREA_PAGES
    cells = layout.FIRST_CELL + layout.cells_for(max_pages)
    return {
        "state": (layout.STATE, 1),
        "cells": (layout.CELL, cells),
        "page_buckets": (layout.U32, max(max_pages, 1)),
        "object_buckets": (layout.U32, max_pages // 2 + 1),
        "frames": (layout.U32, frames),
        "areas": (layout.AREA, max_areas),
        "hash_buckets": (layout.U32, frames if hashed else 0),
        "hashed": (layout.HASHED, frames if hashed else 0),
        "scratch": (layout.U32, layout.PAGE_BYTES // 2),  # codecs write beyond the result
        "warm": (layout.U32, layout.WARM_FRAMES),
        "kept": (layout.U8, cells),
    }


def _places(arrays: dict[str, tuple[np.dtype, int]]) -> tuple[dict[str, int], int]:
    """Where in the block each array begins, and where the last ends."""
    starts, end = {}, 0
    for name, (dtype, count) in arrays.items():
        starts[name] = end
        end += -(-count * dtype.itemsize // LINE_BYTES) * LINE_BYTES
    return starts, end


def _aligned(count: int) -> _Bytes:
    """So many zero bytes, at a cache line's start: what is used together is on few lines."""
    block = np.zeros(count + LINE_BYTES - 1, dtype=np.uint8)
    start = -int(block.ctypes.data) % LINE_BYTES
    return block[start : start + count]


def _given(address: int, size: int, count: int) -> _Bytes:
    """The first ``count`` of ``size`` bytes of the caller's memory."""
    if address % LINE_BYTES or size < count:
        raise TmemError(
            f"a state of {count} bytes does not fit in {size} bytes at {address:#x}: give it what "
            f"Tmem.state_bytes says, at a multiple of {LINE_BYTES}"
        )
    memory = memoryview((ctypes.c_uint8 * count).from_address(address))
    return np.frombuffer(memory, dtype=np.uint8)
