"""What the host does to a pool: freeze, weigh, limit, authorise, take memory and give it back.

Owns: the privileged half of ``Tmem``, Xen's control operations. The rules of use are those of
``Tmem``: embedded, any thread may call; once the C service runs, only a holder of its lock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tmem import serve
from tmem.codes import Code, PoolFlag, TmemError
from tmem.layout import MAX_CLIENTS, POOLS_PER_CLIENT
from tmem.state import State

PAGES_PER_MB = 256
COMPRESS_PAGES_MAX = 65536  # of one step, so that the lock is not held for more than a second
KB_PER_PAGE = 4
WEIGHT_MAX = 0xFFFFFFFF  # a u32 in Xen's ABI
_NO_UUID = (-1, -1)
_WORD_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class PoolEntry:
    """One row of ``get_pools``: Xen's ``xen_tmem_pool_info``."""

    flags: int  # PERSISTENT, SHARED, VERSION
    slot: int
    pages: int
    uuid_lo: int
    uuid_hi: int


class Control:
    """Host-side operations of a ``Tmem``."""

    _state: State

    def freeze(self, client: int | None = None) -> int:
        """Refuse new pages of a client, or of every open client: 0; EPERM for an unknown client.

        Duplicate puts and gets go on; a flush is carried out and answers EFROZEN all the same.
        """
        return self._set_frozen(client, 1)

    def thaw(self, client: int | None = None) -> int:
        """Undo ``freeze``: 0; EPERM."""
        return self._set_frozen(client, 0)

    def _set_frozen(self, client: int | None, frozen: int) -> int:
        clients = self._state.clients
        if client is None:
            clients["is_frozen"][clients["is_open"] != 0] = frozen
            return 0
        if not self._is_open(client):
            return int(Code.EPERM)
        clients["is_frozen"][client] = frozen
        return 0

    def set_weight(self, client: int, weight: int) -> int:
        """Set a client's weight, 0 to 2^32 - 1, 0 at first: 0; ENOENT for an unknown client.

        A client that has a weight, and a larger part of all ephemeral pages than of all weights,
        evicts its own pages first. TmemError for a weight out of range.
        """
        if not 0 <= weight <= WEIGHT_MAX:
            raise TmemError(f"a weight is 0 to {WEIGHT_MAX}, not {weight}")
        if not self._is_open(client):
            return int(Code.ENOENT)
        weights = self._state.clients["weight"]
        self._state.header["total_weight"] += weight - int(weights[client])
        weights[client] = weight
        return 0

    def set_quota(self, client: int, pages: int) -> int:
        """Limit a client's persistent pages, -1 for no limit: 0; ENODEV for an unknown client.

        At the quota a new persistent page fails with ENOMEM; above it (the quota was lowered) a
        duplicate put fails with ENOSPC too and drops the page, as in Xen.
        """
        if not self._is_open(client):
            return int(Code.ENODEV)
        self._state.clients["quota"][client] = max(min(pages, _WORD_MAX), -1)
        return 0

    def authorise(self, client: int, uuid: tuple[int, int], allow: bool = True) -> int:
        """Let a client share pools of ``uuid`` (two u64, low first), or forbid it: DONE; ENOMEM
        when the client has sixteen uuids; ENODEV. A pool that it shares already stays shared."""
        if not self._is_open(client):
            return int(Code.ENODEV)
        low, high = np.array(uuid, dtype=np.uint64).view(np.int64).tolist()
        before, after = ((low, high), _NO_UUID) if not allow else (_NO_UUID, (low, high))
        places = self._state.clients[client]["uuids"]
        for place, found in enumerate(places.tolist()):
            if found == before:
                places[place] = after
                return int(Code.DONE)
        return int(Code.ENOMEM if allow else Code.DONE)

    def get_pools(self, client: int) -> tuple[int, tuple[PoolEntry, ...]]:
        """The number of a client's pools, and an entry for each by slot; (EINVAL, ()) for an
        unknown client."""
        if not self._is_open(client):
            return int(Code.EINVAL), ()
        entries = []
        for slot, number in enumerate(self._state.clients[client]["slots"]["pool"].tolist()):
            if number:
                pool = self._state.pools[number - 1]
                flags = PoolFlag.VERSION
                flags |= PoolFlag.PERSISTENT if pool["is_persistent"] else 0
                flags |= PoolFlag.SHARED if pool["is_shared"] else 0
                low, high = int(pool["uuid_lo"]) % 2**64, int(pool["uuid_hi"]) % 2**64
                entries.append(PoolEntry(int(flags), slot, int(pool["pages"]), low, high))
        return len(entries), tuple(entries)

    def set_dedup(self, client: int, pool: int, on: bool) -> int:
        """Let pages put into a pool from now on share their content, or not: 0; ENODEV.

        On at first when the ``Tmem`` was made with ``dedup``; TmemError for ``on`` when not.
        """
        if not self._is_open(client) or not 0 <= pool < POOLS_PER_CLIENT:
            return int(Code.ENODEV)
        number = int(self._state.clients[client]["slots"]["pool"][pool]) - 1
        if number < 0:
            return int(Code.ENODEV)
        if on and not self._state.header["dedup"]:
            raise TmemError("this pool was made without dedup")
        self._state.pools["dedup"][number] = on
        return 0

    def compress_step(self, budget_pages: int) -> int:
        """Compress up to ``budget_pages`` of the coldest raw pages: how many it compressed, 0
        without compression."""
        budget = min(max(budget_pages, 0), COMPRESS_PAGES_MAX)
        return int(serve.py_compress(self._state.address, budget))

    def flush_kb(self, kb: int) -> int:
        """Evict until ``kb`` KiB (rounded up to pages) are free, if possible; then give tmem's
        whole free list to the host's heap: how many KiB the heap got."""
        pages = -(-max(kb, 0) // KB_PER_PAGE)
        return KB_PER_PAGE * self._host(serve.FLUSH_TO_HOST, min(pages, _WORD_MAX))

    def freeable_mb(self) -> int:
        """MiB, rounded down, that tmem could give to the host: free list and ephemeral pages."""
        header = self._state.header
        pages = header["free_frames"] - header["heap_free"] + header["ephemeral_pages"]
        return int(pages) // PAGES_PER_MB

    def relinquish(self, order: int = 0) -> bool:
        """Give the host's heap one page, evicting one if need be; False when ``order`` is more
        than 0 (more pages in a row) or tmem has nothing to give."""
        return bool(self._host(serve.RELINQUISH, min(max(order, 0), 1)))

    def host_take(self, pages: int) -> int:
        """The host takes ``pages`` out of its free heap, or all there are: how many it took."""
        return self._move(min(max(pages, 0), int(self._state.header["heap_free"])))

    def host_give(self, pages: int) -> int:
        """The host gives ``pages`` of those it took back, or all it took: how many it gave."""
        return -self._move(-min(max(pages, 0), int(self._state.header["host_taken"])))

    def _move(self, pages: int) -> int:
        header = self._state.header
        header["host_taken"] += pages
        header["heap_free"] -= pages
        header["free_frames"] -= pages
        return pages

    def _host(self, op: int, amount: int) -> int:
        return int(serve.py_host(self._state.address, op, amount))

    def _is_open(self, client: int) -> bool:
        return 0 <= client < MAX_CLIENTS and bool(self._state.clients["is_open"][client])
