"""Frozen snapshots of a pool's counters, one for the whole, one per client, one per pool.

Owns: what ``Tmem.statistics()`` returns and ``memcoord tmem-list`` prints. Counts only rise, except
those named ``*_pages``, ``objects`` and ``held_areas``, which say how much there is now (``*_max``:
the most there ever was). Any module may import it.
"""

from __future__ import annotations

import msgspec
import numpy as np

from tmem.state import State


class PoolStatistics(msgspec.Struct, frozen=True):
    """One pool. A put is good, dropped or failed; a good one may have replaced a page."""

    client: int  # the owner of a shared pool
    slot: int
    is_persistent: bool
    is_shared: bool
    dedup: bool
    sharers: tuple[tuple[int, int], ...]  # (client, slot) in the order they joined
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
    puts_failed: int  # puts of new pages: no memory, a limit reached, frozen, a fault
    gets: int  # gets of an empty pool are not counted
    gets_hit: int
    page_flushes: int
    page_flushes_hit: int
    object_flushes: int
    object_flushes_hit: int


class ClientStatistics(msgspec.Struct, frozen=True):
    """One open client, since it was opened. ``puts`` is the sum of the six below it."""

    client: int
    mm_target: int  # pages; -1: no limit
    quota: int  # persistent pages; -1: no limit
    weight: int
    is_frozen: int
    used_pages: int
    ephemeral_pages: int
    ephemeral_pages_max: int
    persistent_pages: int
    puts: int
    puts_succ: int
    puts_failed_target: int
    puts_failed_nomem: int
    puts_failed_nospc: int
    puts_failed_frozen: int
    puts_failed_fault: int
    gets: int
    gets_hit: int
    flushes: int
    ephemeral_gets_hit: int
    persistent_puts_succ: int
    persistent_gets_hit: int
    evicted: int
    errors: int  # operations that answered a negative code


class Statistics(msgspec.Struct, frozen=True):
    """The whole pool. ``held_pages`` is slab memory, ``free_pages`` the part of it that holds no
    data. ``free_pages`` includes the host's heap and not the pages the host took for itself."""

    held_areas: int
    held_pages: int
    free_pages: int
    heap_free: int
    host_taken: int
    reserve_pages: int
    used_pages: int
    objects: int
    zero_pages: int  # pages of zeroes: they are used, but hold no slab memory
    ephemeral_pages: int
    total_weight: int
    operations: int
    errors: int
    evicted: int
    evict_attempts: int  # a put that fails makes ten
    relinquished: int
    relinquish_attempts: int
    relinquish_evictions_max: int
    failed_copies: int
    contents: int  # contents kept once for several pages
    shared_pages: int  # pages that have such a content
    deduped: int  # puts whose content was there already
    packed_pages: int  # compressed now, to packed_bytes, in packed_frames pages of memory
    packed_bytes: int
    packed_frames: int
    poor: int  # pages whose compression saved too little
    relocated: int  # pages moved to another area when the slab shrank
    clients: tuple[ClientStatistics, ...]
    pools: tuple[PoolStatistics, ...]


_CLIENT_FIELDS = ClientStatistics.__struct_fields__[1:]
_POOL_FIELDS = PoolStatistics.__struct_fields__[6:]
_RENAMED = {"held_pages": "held_frames", "free_pages": "free_frames", "used_pages": "pages"}
_FIELDS = Statistics.__struct_fields__[:-2]


def snapshot(state: State) -> Statistics:
    """Copy every counter. Consistent when nobody runs an operation meanwhile."""
    return Statistics(
        **{name: int(state.header[_RENAMED.get(name, name)]) for name in _FIELDS},
        clients=tuple(
            ClientStatistics(client, **_named(state.clients[client], _CLIENT_FIELDS))
            for client in np.flatnonzero(state.clients["is_open"]).tolist()
        ),
        pools=tuple(
            _pool_statistics(state, number)
            for number in np.flatnonzero(state.pools["is_open"]).tolist()
        ),
    )


def sharers(state: State, number: int) -> tuple[tuple[int, int], ...]:
    """The slots that lead to a pool, as (client, slot), in the order they joined it."""
    slots = state.clients["slots"]
    found = np.argwhere(slots["pool"] == number + 1).tolist()
    found.sort(key=lambda at: int(slots["joined"][at[0], at[1]]))
    return tuple((client, slot) for client, slot in found)


def _pool_statistics(state: State, number: int) -> PoolStatistics:
    pool = state.pools[number]
    named = _named(pool, _POOL_FIELDS)
    named["uuid_lo"] %= 2**64
    named["uuid_hi"] %= 2**64
    return PoolStatistics(
        int(pool["owner"]),
        int(pool["slot"]),
        bool(pool["is_persistent"]),
        bool(pool["is_shared"]),
        bool(pool["dedup"]),
        sharers(state, number),
        **named,
    )


def _named(record: np.void, fields: tuple[str, ...]) -> dict[str, int]:
    return {name: int(record[name]) for name in fields}
