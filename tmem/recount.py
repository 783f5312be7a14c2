"""A look at a pool that is in use: every page and frame beside its neighbours, a few at a time.

Owns: ``Recount``. ``tmem.validate`` derives everything anew and needs the pool to itself for long.
A ``Recount`` needs the pool for one ``step`` at a time, of at most STEP_BUCKETS buckets or
STEP_FRAMES frames, and whoever uses the pool may do so between two steps. Each step checks what
holds of a page at any moment: the page is on the chain of its key and belongs to an object of an
open pool, its neighbours in three lists point back, the frame that it names names it. The counters
must agree with each other in the last step. They must also equal what the steps counted when no
operation came in between.
Rules: numpy on the arrays themselves, no kernel, so nothing is compiled. Called by ``tmem.pool``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem import layout
from tmem.codes import TmemBroken
from tmem.state import State

STEP_BUCKETS = 512
STEP_FRAMES = 2048
#: A chain as long as this would need so many keys of one secret hash value.
CHAIN_MAX = 256
_CHANGING = ("operations", "pages", "evicted", "relocated", "held_frames", "packed_pages")
_FRAME_MARKS = layout.FRAME_FREE | layout.FRAME_SHARED | layout.FRAME_PACKED

_Numbers = npt.NDArray[Any]


class Recount:
    """One walk over the pool of ``state``; ``step`` until it answers False."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._steps = self._walk()
        self._before = self._changes()
        self.pages = self.objects = self.frames = 0
        self.is_exact = False  # whether nobody used the pool meanwhile: counts were compared too

    def step(self) -> bool:
        """Check a little more; False when all is checked. TmemBroken when something is wrong.

        Nobody else may use the pool during a step.
        """
        return next(self._steps, False)

    def _changes(self) -> list[int]:
        """What is no longer the same once anything was put, dropped, moved or compressed."""
        return [int(self._state.header[name]) for name in _CHANGING]

    def _walk(self) -> Iterator[bool]:
        state = self._state
        for first in range(0, len(state.object_buckets), STEP_BUCKETS):
            self._check_objects(first)
            yield True
        for first in range(0, len(state.page_buckets), STEP_BUCKETS):
            self._check_pages(first)
            yield True
        for first in range(0, len(state.frames), STEP_FRAMES):
            self._check_frames(first)
            yield True
        self._check_counters()

    def _chained(self, buckets: _Numbers, first: int) -> tuple[_Numbers, _Numbers]:
        """The cells on some chains from bucket ``first`` on, and the bucket of each."""
        chain = self._state.cells["chain"]
        heads = buckets[first : first + STEP_BUCKETS]
        where = np.flatnonzero(heads)
        at = heads[where].astype(np.int64)
        cells, found = [at], [where + first]
        for _ in range(CHAIN_MAX):
            if not at.size:
                return np.concatenate(cells), np.concatenate(found)
            self._need_cells(at, "a chain")
            at = chain[at].astype(np.int64)
            where, at = where[at > 0], at[at > 0]
            cells.append(at)
            found.append(where + first)
        raise TmemBroken(f"a chain of bucket {where[0] + first} never ends")

    def _need_cells(self, cells: _Numbers, what: str) -> None:
        touched = int(self._state.header["cells_touched"])
        _need((cells >= layout.FIRST_CELL) & (cells < touched), f"{what} leads to no cell")

    def _bucket(self, objects: _Numbers, index: _Numbers | None) -> _Numbers:
        """The bucket that the key of each object hashes to, or of its page of number ``index``."""
        made = self._state.cells["object"][objects]
        keys = self._state.header["keys"]
        mixed = keys[0] + keys[1] * made["pool"].astype(np.uint64)
        for part in range(3):
            word = made["oid"][:, part]
            mixed += keys[2 + 2 * part] * (word & np.uint64(0xFFFFFFFF))
            mixed += keys[3 + 2 * part] * (word >> np.uint64(32))
        table = "object"
        if index is not None:
            mixed += keys[8] * index.astype(np.uint64)
            table = "page"
        count = np.uint64(self._state.header[f"{table}_bucket_count"])
        bucket: _Numbers = ((mixed >> np.uint64(32)) * count >> np.uint64(32)).astype(np.int64)
        return bucket

    def _check_objects(self, first: int) -> None:
        cells, buckets = self._chained(self._state.object_buckets, first)
        made = self._state.cells["object"][cells]
        self._check_pools(made["pool"])
        _need(self._bucket(cells, None) == buckets, "an object is on a foreign chain")
        _need(made["pages"]["next"] != cells, "an object has no page")
        self._check_links("mates", cells)
        self.objects += cells.size

    def _check_pools(self, pools: _Numbers) -> None:
        _need(pools < layout.MAX_POOLS, "an object is in no pool")
        _need(self._state.pools["is_open"][pools] == 1, "an object is in a closed pool")

    def _check_pages(self, first: int) -> None:
        cells, buckets = self._chained(self._state.page_buckets, first)
        page = self._state.cells["page"][cells]
        owners = page["object"].astype(np.int64)
        self._need_cells(owners, "a page's object")
        pools = self._state.cells["object"]["pool"][owners].astype(np.int64)
        self._check_pools(pools)
        _need(self._bucket(owners, page["index"]) == buckets, "a page is on a foreign chain")
        self._check_links("mates", cells)
        self._check_links("of_client", cells)
        ephemeral = self._state.pools["is_persistent"][pools] == 0
        self._check_links("eviction", cells[ephemeral])
        self._check_places(cells, page["store"].astype(np.int64))
        self.pages += cells.size

    def _check_links(self, name: str, cells: _Numbers) -> None:
        """Both neighbours in a list point back. An anchor's link lies where a page's does."""
        links = self._state.cells["page"][name]
        touched = int(self._state.header["cells_touched"])
        for way, back in (("next", "previous"), ("previous", "next")):
            others = links[way][cells]
            _need((others > 0) & (others < touched), f"a link of {name} leads to no cell")
            _need(links[back][others] == cells, f"a neighbour in {name} points astray")

    def _check_places(self, cells: _Numbers, places: _Numbers) -> None:
        """The frame that each page, or its shared content, names has it, or is a packed one."""
        stored = places != layout.NO_FRAME
        cells, places = cells[stored], places[stored]
        shared = (places & layout.STORE_SHARED) > 0
        packed = ~shared & ((places & layout.STORE_PACKED) > 0)
        own = ~shared & ~packed
        contents = places[shared] & layout.STORE_MASK
        self._need_cells(contents, "a page's content")
        content = self._state.cells["content"][contents]
        _need(content["references"] > 0, "a page has content that nobody counts")
        self._check_holder(content["frame"].astype(np.int64), layout.FRAME_SHARED | contents)
        self._check_holder(places[own], cells[own])
        frames = (places[packed] & layout.STORE_MASK) >> layout.PACKED_SLOT_BITS
        _need(frames < len(self._state.frames), "a compressed page is in no frame")
        marks = self._state.frames[frames] & np.uint32(_FRAME_MARKS)
        _need(marks == layout.FRAME_PACKED, "a compressed page is in a frame of another kind")

    def _check_holder(self, frames: _Numbers, holders: _Numbers) -> None:
        _need(frames < len(self._state.frames), "a page is in no frame")
        _need(self._state.frames[frames] == holders, "a page's frame does not have that page")

    def _check_frames(self, first: int) -> None:
        """What holds a frame names that frame."""
        frames = np.arange(first, min(first + STEP_FRAMES, len(self._state.frames)))
        area = self._state.areas["size"][frames // layout.AREA_PAGES]
        there = frames % layout.AREA_PAGES < area
        frames = frames[there]
        held = self._state.frames[frames].astype(np.int64)
        marks = held & _FRAME_MARKS
        own, shared = marks == 0, marks == layout.FRAME_SHARED
        self._need_cells(held[own], "a frame's page")
        store = self._state.cells["page"]["store"]
        _need(store[held[own]] == frames[own], "a frame has a page that is elsewhere")
        contents = held[shared] & layout.FRAME_MASK
        self._need_cells(contents, "a frame's content")
        at = self._state.cells["content"]["frame"][contents]
        _need(at == frames[shared], "a frame has a content that is elsewhere")
        self.frames += int((marks != layout.FRAME_FREE).sum())

    def _check_counters(self) -> None:
        header, state = self._state.header, self._state
        pages = int(header["pages"])
        self._same("pages of the clients", int(state.clients["used_pages"].sum()), pages)
        is_open = state.pools["is_open"] == 1
        self._same("pages of the pools", int(state.pools["pages"][is_open].sum()), pages)
        kinds = state.clients["ephemeral_pages"] + state.clients["persistent_pages"]
        _need(kinds == state.clients["used_pages"], "a client's two kinds are not its pages")
        self._same("held frames", int(state.areas["size"].sum()), int(header["held_frames"]))
        used = int(state.areas["used"].sum())
        free = int(header["held_frames"]) - used - int(header["host_taken"])
        self._same("free frames", free, int(header["free_frames"]))
        self.is_exact = self._changes() == self._before
        if self.is_exact:
            self._same("pages on chains", self.pages, pages)
            self._same("objects on chains", self.objects, int(header["objects"]))
            self._same("frames that are held", self.frames, used)

    def _same(self, what: str, found: int, counted: int) -> None:
        if found != counted:
            raise TmemBroken(f"{what}: {found}, and {counted} by the counter")


def _need(holds: _Numbers, what: str) -> None:
    if not np.all(holds):
        raise TmemBroken(what)
