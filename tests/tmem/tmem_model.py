"""The reference: tmem as plain dicts, and the pages tests write.

One dict of all pages, and two ordered ones for the eviction orders. No storage, no hash, no cell;
only the rules. ``Model`` answers what a ``Tmem`` of the same capacity must answer.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
AREA_PAGES = 512
ZERO = None  # the "seed" of a page of zeroes

Handle = tuple[int, int, tuple[int, int, int], int]


def page_of(seed: int | None) -> np.ndarray:
    """512 words: word k = seed * GOLDEN + k, modulo 2^64; a page of zeroes for ``ZERO``."""
    if seed is ZERO:
        return np.zeros(512, np.uint64)
    return np.arange(512, dtype=np.uint64) + np.uint64(seed * GOLDEN % 2**64)


class Model:
    """What a pool of ``pages`` pages, or of areas held one by one, must answer."""

    def __init__(self, pages: int, areas: set[int], max_areas: int, max_cells: int) -> None:
        self.frames, self.areas, self.max_areas = pages, areas, max_areas
        self.max_cells = max_cells
        self.targets: dict[int, int] = {}  # open clients
        self.pools: dict[tuple[int, int], bool] = {}  # -> persistent
        self.pages: dict[Handle, int | None] = {}
        self.stored: dict[Handle, None] = {}  # eviction orders
        self.zeroes: dict[Handle, None] = {}
        self.evicted = 0
        self.counts: Counter[object] = Counter()  # pages by client, by pool, by object; frames

    @property
    def free_frames(self) -> int:
        return self.frames - self.counts["frames"]

    @property
    def objects(self) -> int:
        return self.counts["objects"]

    def used(self, client: int) -> int:
        return self.counts[client,]

    def order(self) -> list[Handle]:
        return [*self.stored, *self.zeroes]

    def open_client(self, client: int) -> int:
        if not 0 <= client < 64:
            return -1
        if client in self.targets:
            return -17
        self.targets[client] = -1
        return 0

    def close_client(self, client: int) -> int:
        if client not in self.targets:
            return -19
        freed = self.used(client)
        for slot in range(16):
            self.destroy_pool(client, slot)
        del self.targets[client]
        return freed

    def new_pool(self, client: int, flags: int) -> int:
        if client not in self.targets:
            return -19
        wrong = flags >> 24 != 1 or flags & 0x00FFFFF4 or flags & 3 == 3
        free = [slot for slot in range(16) if (client, slot) not in self.pools]
        if wrong or not free:
            return -1
        self.pools[client, free[0]] = bool(flags & 1)
        return free[0]

    def destroy_pool(self, client: int, slot: int) -> int:
        if (client, slot) not in self.pools:
            return 0
        for handle in [handle for handle in self.pages if handle[:2] == (client, slot)]:
            self._drop(handle)
        del self.pools[client, slot]
        return 1

    def put(
        self, client: int, slot: int, oid: tuple[int, int, int], index: int, seed: int | None
    ) -> int:
        if (client, slot) not in self.pools:
            return -19
        handle = (client, slot, oid, index)
        if handle in self.pages:
            return self._replace(handle, seed)
        if 0 <= self.targets[client] <= self.used(client):
            return -999
        while True:
            new_object = not self.counts[handle[:3]]
            wants_frame = seed is not ZERO and self.free_frames == 0
            cells = self.max_cells - len(self.pages) - self.objects
            if not wants_frame and cells >= 1 + new_object:
                break
            if not self._evict([self.stored] if wants_frame else [self.zeroes, self.stored]):
                return -12
        self._add(handle, seed)
        return 1

    def needs_slab(self, handle: Handle, seed: int | None) -> bool:
        """Whether a put that may ask for memory must do so instead of changing anything."""
        client = handle[0]
        if handle[:2] not in self.pools or seed is ZERO or self.free_frames:
            return False
        if handle in self.pages:
            return self.pages[handle] is ZERO
        return not 0 <= self.targets[client] <= self.used(client)

    def get(
        self, client: int, slot: int, oid: tuple[int, int, int], index: int
    ) -> tuple[int, int | None]:
        """The code and, when it is 1, the seed."""
        if (client, slot) not in self.pools:
            return -19, ZERO
        if not self.counts[client, slot]:
            return -1001, ZERO
        handle = (client, slot, oid, index)
        if handle not in self.pages:
            return 0, ZERO
        seed = self.pages[handle]
        if not self.pools[client, slot]:
            self._drop(handle)
        return 1, seed

    def flush(
        self, client: int, slot: int, oid: tuple[int, int, int], index: int | None = None
    ) -> int:
        """Flush a page, or with no index the object."""
        if (client, slot) not in self.pools:
            return -19
        for handle in [handle for handle in self.pages if handle[:3] == (client, slot, oid)]:
            if index is None or handle[3] == index:
                self._drop(handle)
        return 1

    def grow(self, area: int) -> int:
        if area in self.areas or not 0 <= area < self.max_areas:
            return -1
        self.areas.add(area)
        self.frames += AREA_PAGES
        return 0

    def can_shrink(self) -> bool:
        return bool(self.areas) and self.free_frames + len(self.stored) >= AREA_PAGES

    def shrink(self, area: int) -> None:
        """Give up ``area``, which the pool chose."""
        while self.free_frames < AREA_PAGES:
            self._evict([self.stored])
        self.areas.remove(area)
        self.frames -= AREA_PAGES

    def _replace(self, handle: Handle, seed: int | None) -> int:
        old = self.pages[handle]
        if (
            seed is not ZERO
            and old is ZERO
            and self.free_frames == 0
            and not self._evict([self.stored])
        ):
            self._drop(handle)
            return -28
        if (old is ZERO) != (seed is ZERO):
            self._drop(handle)
            self._add(handle, seed)
        self.pages[handle] = seed
        return 1

    def _add(self, handle: Handle, seed: int | None) -> None:
        self.pages[handle] = seed
        if not self.pools[handle[:2]]:
            (self.zeroes if seed is ZERO else self.stored)[handle] = None
        for name in (handle[:1], handle[:2], handle[:3]):
            self.counts[name] += 1
        self.counts["objects"] += self.counts[handle[:3]] == 1
        self.counts["frames"] += seed is not ZERO

    def _drop(self, handle: Handle) -> None:
        self.counts["frames"] -= self.pages.pop(handle) is not ZERO
        self.stored.pop(handle, None)
        self.zeroes.pop(handle, None)
        for name in (handle[:1], handle[:2], handle[:3]):
            self.counts[name] -= 1
        self.counts["objects"] -= self.counts[handle[:3]] == 0

    def _evict(self, orders: list[dict[Handle, None]]) -> bool:
        for order in orders:
            for handle in order:
                self._drop(handle)
                self.evicted += 1
                return True
        return False
