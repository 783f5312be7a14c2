"""Pages coming and going: made, dropped, filled, put last in the eviction order.

Owns: what a page is part of (its object, its client's list, the eviction order) and the counters
that follow from it. A page of zeroes is queued apart: evicting it would free no memory.
Used by the kernels.
"""

from __future__ import annotations

from tmem.index import (
    append,
    chain,
    client_anchor,
    free_cell,
    free_object,
    name_of,
    page_bucket,
    take_cell,
    unchain,
    unlink,
)
from tmem.kept import keep, let_go
from tmem.layout import ANCHOR_PERSISTENT, ANCHOR_STORED, ANCHOR_ZERO, EVICT_STORED, NO_FRAME
from tmem.raw_memory import kernel
from tmem.store import discard, store


@kernel
def kind_of(state, pool, page):
    """Which list of its client a page is on."""
    if state.pools[pool].is_persistent:
        return ANCHOR_PERSISTENT
    return ANCHOR_ZERO if state.cells.page[page].store == NO_FRAME else ANCHOR_STORED


@kernel
def enqueue(state, pool, page):
    """Put a page at the tail of its client's list and, when ephemeral, of the eviction order."""
    kind, pages = kind_of(state, pool, page), state.cells.page
    append(pages.of_client, client_anchor(state.pools[pool].owner, kind), page)
    if kind != ANCHOR_PERSISTENT:
        append(pages.eviction, EVICT_STORED + kind, page)


@kernel
def dequeue(state, pool, page):
    """Take a page out of these lists. If the compressor stands at the page, it steps back."""
    its_pool, pages = state.pools[pool], state.cells.page
    if its_pool.is_persistent:
        client = state.clients[its_pool.owner]
        if client.cold == page:
            client.cold = pages[page].of_client.previous
    else:
        if state.cold == page:
            state.cold = pages[page].eviction.previous
        unlink(pages.eviction, page)
    unlink(pages.of_client, page)


@kernel
def drop_page(state, page):
    """Forget a page, and its object with the last one."""
    pages = state.cells.page
    object_cell, name = pages[page].object, name_of(state, page)
    let_go(state, name.pool, page)
    discard(state, name.pool, page)
    pool = state.pools[name.pool]
    client = state.clients[pool.owner]
    if pool.is_persistent:
        client.persistent_pages -= 1
    else:
        client.ephemeral_pages -= 1
        state.ephemeral_pages -= 1
    client.used_pages -= 1
    pool.pages -= 1
    state.pages -= 1
    dequeue(state, name.pool, page)
    unlink(pages.mates, page)
    unchain(state, state.page_buckets, page_bucket(state, name), page)
    free_cell(state, page)
    if pages.mates[object_cell].next == object_cell:
        free_object(state, object_cell)


@kernel
def add_page(state, name, object_cell, data):
    """Make the cell of a new page and fill it from the address ``data``; the caller has made
    room."""
    page, pages = take_cell(state), state.cells.page
    pages[page].object = object_cell
    pages[page].index = name.index
    store(state, name.pool, page, data)
    keep(state, name.pool, page)
    chain(state, state.page_buckets, page_bucket(state, name), page)
    append(pages.mates, object_cell, page)
    enqueue(state, name.pool, page)
    pool = state.pools[name.pool]
    client = state.clients[pool.owner]
    if pool.is_persistent:
        client.persistent_pages += 1
    else:
        client.ephemeral_pages += 1
        client.ephemeral_pages_max = max(client.ephemeral_pages_max, client.ephemeral_pages)
        state.ephemeral_pages += 1
    client.used_pages += 1
    state.pages += 1
    pool.pages += 1
    pool.pages_max = max(pool.pages_max, pool.pages)
