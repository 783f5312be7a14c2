"""A look at a pool from outside the kernels: are its invariants kept, what is evicted next.

Owns: ``validate``, which trusts no counter and no list, and derives each from another. Plain Python
on copies of the arrays, on purpose: it shares no code with what it checks. Slow; for tests, and for
an operator who suspects damage. Used by ``tmem.pool``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from tmem import layout
from tmem.codes import TmemBroken
from tmem.state import State
from tmem.validate_store import Cells, StoreWalk

#: client, pool slot, oid, index
Handle = tuple[int, int, tuple[int, int, int], int]

_MASK = (1 << 64) - 1
_LOW = (1 << 32) - 1
_FAILURES = ("target", "nomem", "nospc", "frozen", "fault")


def eviction_order(state: State) -> list[Handle]:
    """Every ephemeral page, the next victim first."""
    walk = _Walk(state)
    return [
        walk.handle(page)
        for anchor in (layout.EVICT_STORED, layout.EVICT_ZERO)
        for page in walk.linked(anchor, "eviction")
    ]


def validate(state: State) -> None:
    """TmemBroken when an invariant does not hold."""
    try:
        walk = _Walk(state)
        walk.check_index()
        walk.check_lists()
        walk.check_frames()
        walk.store.check()
        walk.check_counters()
        walk.check_slots()
    except IndexError as error:
        raise TmemBroken("a link leads out of its array") from error


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise TmemBroken(what)


class _Walk:
    """Copies of the arrays of a pool, and what was found in them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.header = state.header
        self.keys: list[int] = state.header["keys"].tolist()
        self.cells = Cells(state)
        self.objects = self._chained(state.object_buckets)
        self.pages = self._chained(state.page_buckets)
        self.store = StoreWalk(
            state,
            self.cells,
            {page: (self.cells.store[page], self.pool_of(page)) for page in self.pages},
            _need,
        )

    def _chained(self, buckets: np.ndarray) -> dict[int, int]:
        """Every cell on a hash chain of a table, with its bucket."""
        found: dict[int, int] = {}
        for bucket in np.flatnonzero(buckets).tolist():
            cell = int(buckets[bucket])
            while cell:
                _need(layout.FIRST_CELL <= cell < len(self.cells), f"chain leads to cell {cell}")
                _need(cell not in found, f"cell {cell} is on two chains, or on one twice")
                found[cell] = bucket
                cell = self.cells.chain[cell]
        return found

    def linked(self, anchor: int, links: str) -> Iterator[int]:
        """The cells of one list, checking the way back; ``links`` names the field of PAGE."""
        after, back = self.cells.links[links]
        before, cell = anchor, after[anchor]
        for _ in range(len(self.cells)):
            _need(back[cell] == before, f"list of {anchor}: {cell} points astray")
            if cell == anchor:
                return
            yield cell
            before, cell = cell, after[cell]
        raise TmemBroken(f"list of cell {anchor} never ends")

    def pool_of(self, page: int) -> int:
        """Number of the pool a page is in."""
        return self.cells.pool[self.cells.object[page]]

    def owner(self, page: int) -> int:
        """The client a page is counted to."""
        return int(self.state.pools["owner"][self.pool_of(page)])

    def handle(self, page: int) -> Handle:
        """Full name of a page."""
        pool = self.state.pools[self.pool_of(page)]
        oid0, oid1, oid2 = self.cells.oid[self.cells.object[page]]
        return int(pool["owner"]), int(pool["slot"]), (oid0, oid1, oid2), self.cells.index[page]

    def is_persistent(self, page: int) -> bool:
        """Whether a page is in a persistent pool."""
        return bool(self.state.pools["is_persistent"][self.pool_of(page)])

    def check_index(self) -> None:
        """Every cell is a page, an object or free; each is on the chain its key hashes to."""
        free = []
        cell = int(self.header["first_free_cell"])
        while cell:
            _need(cell not in free[-1:] and len(free) < len(self.cells), "free cells in a ring")
            free.append(cell)
            cell = self.cells.chain[cell]
        everything = [*self.objects, *self.pages, *self.store.refs, *self.gone(), *free]
        expected = list(range(layout.FIRST_CELL, len(self.cells)))
        _need(sorted(everything) == expected, "a cell is lost, or used twice")
        left = self.header["cell_count"] - len(self.cells) + len(free)
        _need(self.header["free_cells"] == left, "free_cells is wrong")
        for cell, bucket in self.objects.items():
            found = self._bucket(self._words(cell), "object")
            _need(found == bucket, f"object {cell} is on a foreign chain")
        for cell, bucket in self.pages.items():
            owner = self.cells.object[cell]
            _need(owner in self.objects, f"page {cell} belongs to {owner}, which is no object")
            found = self._bucket([*self._words(owner), self.cells.index[cell]], "page")
            _need(found == bucket, f"page {cell} is on a foreign chain")
        names = [(self.cells.pool[cell], *self.cells.oid[cell]) for cell in self.objects]
        _need(len(set(names)) == len(names), "one object exists twice")
        handles = [self.handle(page) for page in self.pages]
        _need(len(set(handles)) == len(handles), "one page exists twice")

    def gone(self) -> list[int]:
        """The cells of the logs of invalidations."""
        found: list[int] = []
        for number, client in enumerate(self.state.clients):
            cell, last = int(client["first_gone"]), 0
            while cell:
                _need(len(found) < len(self.cells), f"client {number}: the log never ends")
                found.append(cell)
                last, cell = cell, self.cells.chain[cell]
            _need(last == client["last_gone"], f"client {number}: end of the log")
        return found

    def _words(self, cell: int) -> list[int]:
        """What the hash of an object is made of."""
        halves = [half for part in self.cells.oid[cell] for half in (part & _LOW, part >> 32)]
        return [self.cells.pool[cell], *halves]

    def _bucket(self, words: list[int], table: str) -> int:
        mixed = self.keys[0] + sum(k * w for k, w in zip(self.keys[1:], words, strict=False))
        return ((mixed & _MASK) >> 32) * int(self.header[f"{table}_bucket_count"]) >> 32

    def check_lists(self) -> None:
        """Each page is in its object's, its client's and its eviction list, and in no other."""
        mates = {}
        for cell in self.objects:
            pages = list(self.linked(cell, "mates"))
            _need(bool(pages), f"object {cell} has no page")
            mates.update({page: cell for page in pages})
        owners = {page: self.cells.object[page] for page in self.pages}
        _need(mates == owners, "an object's list is not its pages")
        anchors = {}
        for anchor in range(layout.CLIENT_ANCHORS, layout.FIRST_CELL):
            anchors.update({p: anchor for p in self.linked(anchor, "of_client")})
        expected = {
            page: layout.client_anchor(self.owner(page), self.kind(page)) for page in self.pages
        }
        _need(anchors == expected, "a client's list is not its pages")
        queued = {
            page: anchor
            for anchor in (layout.EVICT_STORED, layout.EVICT_ZERO)
            for page in self.linked(anchor, "eviction")
        }
        expected = {
            page: layout.EVICT_STORED + self.kind(page)
            for page in self.pages
            if not self.is_persistent(page)
        }
        _need(queued == expected, "the eviction order is not the ephemeral pages")
        cold = int(self.header["cold"])
        _need(queued.get(cold, cold) == layout.EVICT_STORED, "the compressor stands elsewhere")
        for number in np.flatnonzero(self.state.clients["is_open"]).tolist():
            anchor = layout.client_anchor(number, layout.ANCHOR_PERSISTENT)
            cold = int(self.state.clients["cold"][number])
            _need(anchors.get(cold, cold) == anchor, f"client {number}: the compressor's place")

    def kind(self, page: int) -> int:
        """Which of its client's lists a page belongs on."""
        if self.is_persistent(page):
            return layout.ANCHOR_PERSISTENT
        return layout.ANCHOR_ZERO if page in self.store.zero else layout.ANCHOR_STORED

    def check_frames(self) -> None:
        """Each frame of a held area has a holder, or is on the free list of its area."""
        frames = self.state.frames
        found: dict[int, int] = {}
        areas_open, free_frames, held = set(), 0, 0
        for area, (size, used, first_free, _) in enumerate(self.state.areas.tolist()):
            if not size:
                continue
            start = area * layout.AREA_PAGES
            owners = frames[start : start + size].tolist()
            free, at = set(), first_free
            while at:
                frame = at - 1
                _need(0 <= frame - start < size and frame not in free, f"area {area}: free list")
                _need(bool(owners[frame - start] & layout.FRAME_FREE), f"frame {frame} is not free")
                free.add(frame)
                at = owners[frame - start] & (layout.FRAME_FREE - 1)
            found.update(
                {f: owners[f - start] for f in range(start, start + size) if f not in free}
            )
            _need(used == size - len(free), f"area {area}: used {used}, free {len(free)}")
            if free:
                areas_open.add(area)
            free_frames += len(free)
            held += size
        _need(found == self.store.holders, "a frame's page does not have that frame")
        listed, area_next = [], int(self.header["open_area"])
        while area_next and len(listed) <= len(areas_open):
            listed.append(area_next - 1)
            area_next = int(self.state.areas["next"][area_next - 1])
        _need(sorted(listed) == sorted(areas_open), "open areas are not those with a free frame")
        _need(self.header["held_areas"] == int((self.state.areas["size"] > 0).sum()), "held_areas")
        _need(self.header["held_frames"] == held, "held_frames")
        free_frames -= int(self.header["host_taken"])
        _need(self.header["free_frames"] == free_frames, "free_frames")
        _need(0 <= self.header["heap_free"] <= free_frames, "heap_free")
        _need(self.header["host_taken"] >= 0, "host_taken")

    def check_counters(self) -> None:
        """Every counter of what there is equals what there is; sums add up."""
        ephemeral = [page for page in self.pages if not self.is_persistent(page)]
        now = {
            "pages": len(self.pages),
            "objects": len(self.objects),
            "ephemeral_pages": len(ephemeral),
        }
        for name, count in now.items():
            _need(self.header[name] == count, f"{name} is {self.header[name]}, not {count}")
        in_pool = Counter(self.pool_of(page) for page in self.pages)
        objects = Counter(self.cells.pool[cell] for cell in self.objects)
        kinds = Counter((self.owner(page), self.is_persistent(page)) for page in self.pages)
        weights = self.state.clients["weight"]
        _need(self.header["total_weight"] == int(weights.sum()), "total_weight")
        open_pools = np.flatnonzero(self.state.pools["is_open"]).tolist()
        _need(set(in_pool) <= set(open_pools), "a closed pool has pages")
        for number in open_pools:
            pool = self.state.pools[number]
            self._check_pool(number, pool, in_pool[number], objects[number])
        for number, client in enumerate(self.state.clients):
            kept = kinds[number, False], kinds[number, True]
            has = int(client["ephemeral_pages"]), int(client["persistent_pages"])
            _need(kept == has, f"client {number} counts {has}, has {kept}")
            _need(int(client["used_pages"]) == sum(kept), f"client {number}: used_pages")
            failed = sum(int(client[f"puts_failed_{why}"]) for why in _FAILURES)
            _need(client["puts"] == client["puts_succ"] + failed, f"client {number}: puts")
            _need(client["ephemeral_pages_max"] >= kept[0], f"client {number}: a maximum is less")
            hits = client["ephemeral_gets_hit"] + client["persistent_gets_hit"]
            _need(client["gets_hit"] == hits, f"client {number}: gets_hit")
            _need(client["gets_hit"] <= client["gets"], f"client {number}: gets")

    def _check_pool(self, number: int, pool: np.void, pages: int, objects: int) -> None:
        owner = int(pool["owner"])
        _need(bool(self.state.clients["is_open"][owner]), f"pool {number} has no client")
        _need(int(pool["pages"]) == pages, f"pool {number} counts {pool['pages']}, has {pages}")
        _need(int(pool["objects"]) == objects, f"pool {number}: objects")
        _need(pool["pages_max"] >= pages and pool["objects_max"] >= objects, "a maximum is less")
        done = int(pool["puts_good"] + pool["puts_dropped"] + pool["puts_failed"])
        _need(int(pool["puts"]) == done, f"pool {number}: puts")
        _need(pool["puts_replaced"] <= pool["puts_good"], f"pool {number}: puts_replaced")
        _need(pool["gets_hit"] <= pool["gets"], f"pool {number}: gets")

    def check_slots(self) -> None:
        """Every slot leads to an open pool, every open pool has its slots, its owner's among them,
        and no two shared pools have one uuid."""
        uuids = set()
        leading: dict[int, list[int]] = {}
        pool_of_slot = self.state.clients["slots"]["pool"].ravel()
        for slot in np.flatnonzero(pool_of_slot).tolist():
            leading.setdefault(int(pool_of_slot[slot]) - 1, []).append(slot)
        open_pools = np.flatnonzero(self.state.pools["is_open"]).tolist()
        _need(set(leading) == set(open_pools), "a slot leads to no pool, or no slot to a pool")
        for number, slots in leading.items():
            pool = self.state.pools[number]
            _need(len(slots) == pool["sharers"], f"pool {number}: sharers")
            home = int(pool["owner"]) * layout.POOLS_PER_CLIENT + int(pool["slot"])
            _need(home in slots, f"pool {number}: its owner's slot leads elsewhere")
            shared = number >= layout.SLOT_COUNT
            _need(bool(pool["is_shared"]) == shared, f"pool {number}: is_shared")
            _need(shared or slots == [number], f"private pool {number} has slots {slots}")
            uuid = (int(pool["uuid_lo"]), int(pool["uuid_hi"]))
            _need(not shared or uuid not in uuids, f"two shared pools of uuid {uuid}")
            uuids |= {uuid} if shared else set()
