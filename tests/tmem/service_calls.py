"""A ``Tmem`` driven as the C service drives it: by address, with records, never through Python."""

from __future__ import annotations

import ctypes

import numpy as np

from tmem import Tmem
from tmem.record import RECORD
from tmem.serve import Entries, entry_points

I64, U64 = ctypes.c_int64, ctypes.c_uint64
PUT, GET, FLUSH_PAGE, FLUSH_OBJECT, NEW_POOL, DESTROY_POOL = range(16, 22)
NEED_SLAB = -3000


def entries_of(tmem: Tmem) -> Entries:
    """What the service would call; a test may put a recorder's in its place."""
    return entry_points(tmem.state_address)


class ServiceCalls:
    """The same operations as ``Tmem``, through the compiled entries."""

    def __init__(self, tmem: Tmem) -> None:
        self.entries = entries_of(tmem)
        self._tmem = tmem  # keeps the state alive
        self._execute = ctypes.CFUNCTYPE(I64, U64, U64, U64, I64, I64)(self.entries.execute)
        self._grow = ctypes.CFUNCTYPE(I64, U64, I64)(self.entries.grow)
        self._shrink = ctypes.CFUNCTYPE(I64, U64)(self.entries.shrink)
        self._open = ctypes.CFUNCTYPE(I64, U64, I64)(self.entries.open_client)
        self._close = ctypes.CFUNCTYPE(I64, U64, I64)(self.entries.close_client)

    def record(
        self,
        op: int,
        client: int,
        args: tuple[int, ...],
        page: np.ndarray | None = None,
        may_ask: int = 0,
        seq: int = 0,
    ) -> int:
        """Execute one record of exactly these words; ``may_ask`` is all that is said of how."""
        words = [word & 0xFFFFFFFFFFFFFFFF for word in [*args, 0, 0, 0, 0, 0][:5]]
        record = np.array([(op, 0, seq, 0, 0, words)], RECORD)
        address = 0 if page is None else page.ctypes.data
        return self._execute(
            self.entries.state_address, record.ctypes.data, address, client, may_ask
        )

    def open_client(self, client: int) -> int:
        return self._open(self.entries.state_address, client)

    def close_client(self, client: int) -> int:
        return self._close(self.entries.state_address, client)

    def grow(self, area: int) -> int:
        return self._grow(self.entries.state_address, area)

    def shrink(self) -> int:
        return self._shrink(self.entries.state_address)

    def new_pool(self, client: int, flags: int) -> int:
        return self.record(NEW_POOL, client, (flags,))

    def destroy_pool(self, client: int, slot: int) -> int:
        return self.record(DESTROY_POOL, client, (slot,))

    def put(
        self,
        client: int,
        slot: int,
        oid: tuple[int, int, int],
        index: int,
        page: np.ndarray,
        may_ask: int = 0,
    ) -> int:
        return self.record(PUT, client, (slot | index << 32, *oid), page, may_ask)

    def get(
        self, client: int, slot: int, oid: tuple[int, int, int], index: int, page: np.ndarray
    ) -> int:
        return self.record(GET, client, (slot | index << 32, *oid), page)

    def flush_page(self, client: int, slot: int, oid: tuple[int, int, int], index: int) -> int:
        return self.record(FLUSH_PAGE, client, (slot | index << 32, *oid))

    def flush_object(self, client: int, slot: int, oid: tuple[int, int, int]) -> int:
        return self.record(FLUSH_OBJECT, client, (slot, *oid))
