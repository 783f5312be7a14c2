"""Frozen snapshots of a pool's counters, one for the whole, one per client, one per pool.

Owns: what ``Tmem.statistics()`` returns and ``memcoord tmem-list`` prints. Counts only rise, except
those named ``*_pages``, ``objects`` and ``held_areas``, which say how much there is now (``*_max``:
the most there ever was). Pure; anybody may import it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tmem.layout import HEADER_FIELDS, POOLS_PER_CLIENT, State


@dataclass(frozen=True)
class PoolStatistics:
    """One pool. A put is good, dropped or failed; a good one may have replaced a page."""

    client: int
    slot: int
    is_persistent: bool
    uuid_lo: int
    uuid_hi: int
    pages: int
    pages_max: int
    objects: int
    objects_max: int
    puts: int
    puts_good: int
    puts_replaced: int
    puts_dropped: int  # duplicate puts that found no memory: the old page is gone too
    puts_failed: int  # puts of new pages: no memory, or mm_target reached
    gets: int  # gets of an empty pool are not counted
    gets_hit: int
    page_flushes: int
    page_flushes_hit: int
    object_flushes: int
    object_flushes_hit: int


@dataclass(frozen=True)
class ClientStatistics:
    """One open client, since it was opened. ``puts`` is the sum of the four below it."""

    client: int
    mm_target: int  # pages; -1: no limit
    used_pages: int
    ephemeral_pages: int
    persistent_pages: int
    puts: int
    puts_succ: int
    puts_failed_target: int
    puts_failed_nomem: int
    puts_failed_nospc: int
    gets: int
    gets_hit: int
    flushes: int
    evicted: int
    errors: int  # operations that answered a negative code


@dataclass(frozen=True)
class Statistics:
    """The whole pool. ``held_pages`` is slab memory, ``free_pages`` the part that holds no data."""

    held_areas: int
    held_pages: int
    free_pages: int
    used_pages: int
    objects: int
    zero_pages: int  # pages of zeroes: they are used, but hold no slab memory
    ephemeral_pages: int
    operations: int
    errors: int
    evicted: int
    relocated: int  # pages moved to another area when the slab shrank
    clients: tuple[ClientStatistics, ...]
    pools: tuple[PoolStatistics, ...]


_CLIENT_FIELDS = tuple(ClientStatistics.__dataclass_fields__)[1:]
_POOL_FIELDS = tuple(PoolStatistics.__dataclass_fields__)[3:]


def snapshot(state: State) -> Statistics:
    """Copy every counter. Consistent when nobody runs an operation meanwhile."""
    now = dict(zip(HEADER_FIELDS, state.header.tolist(), strict=False))
    return Statistics(
        held_areas=now["held_areas"],
        held_pages=now["held_frames"],
        free_pages=now["free_frames"],
        used_pages=now["pages"],
        objects=now["objects"],
        zero_pages=now["zero_pages"],
        ephemeral_pages=now["ephemeral_pages"],
        operations=now["operations"],
        errors=now["errors"],
        evicted=now["evicted"],
        relocated=now["relocated"],
        clients=tuple(
            ClientStatistics(client, **_named(state.clients[client], _CLIENT_FIELDS))
            for client in np.flatnonzero(state.clients["is_open"]).tolist()
        ),
        pools=tuple(
            PoolStatistics(
                pool // POOLS_PER_CLIENT,
                pool % POOLS_PER_CLIENT,
                bool(state.pools[pool]["is_persistent"]),
                **_named(state.pools[pool], _POOL_FIELDS),
            )
            for pool in np.flatnonzero(state.pools["is_open"]).tolist()
        ),
    )


def _named(record: np.void, fields: tuple[str, ...]) -> dict[str, int]:
    return {name: int(record[name]) for name in fields}
