"""Pages coming and going: made, dropped, filled, put last in the eviction order.

Owns: what a page is part of (its object, its client's list, the eviction order) and the counters
that follow from it. A page of zeroes is queued apart: evicting it would free no memory.
Used by the kernels.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from tmem.index import (
    append,
    bucket_of_page,
    chain,
    free_cell,
    free_object,
    pool_of_object,
    take_cell,
    unchain,
    unlink,
)
from tmem.layout import (
    ANCHOR_PERSISTENT,
    ANCHOR_STORED,
    ANCHOR_ZERO,
    ANCHORS_PER_CLIENT,
    C_COLD,
    C_EPHEMERAL_PAGES,
    C_EPHEMERAL_PAGES_MAX,
    C_PERSISTENT_PAGES,
    C_USED_PAGES,
    CELL_EVICTION,
    CELL_INDEX,
    CELL_MATES,
    CELL_OF_CLIENT,
    CELL_OWNER,
    CELL_STORE,
    CLIENT_ANCHORS,
    CLIENT_WORDS,
    CLIENTS,
    EVICT_STORED,
    H_COLD,
    H_EPHEMERAL_PAGES,
    H_PAGE_BUCKETS,
    H_PAGES,
    NO_FRAME,
    P_IS_PERSISTENT,
    P_OWNER,
    P_PAGES,
    P_PAGES_MAX,
    POOL_WORDS,
    POOLS,
)
from tmem.raw_memory import field, kernel, set_field
from tmem.store import discard, store


@kernel
def client_anchor(client, kind):
    """The anchor of a client's pages of one kind: ``ANCHOR_STORED``, ZERO or PERSISTENT."""
    return CLIENT_ANCHORS + client * ANCHORS_PER_CLIENT + kind


@kernel
def kind_of(s, pool, page):
    """Which list of its client a page is on."""
    if s[POOLS + pool * POOL_WORDS + P_IS_PERSISTENT]:
        return ANCHOR_PERSISTENT
    return ANCHOR_ZERO if field(s, page, CELL_STORE) == NO_FRAME else ANCHOR_STORED


@kernel
def enqueue(s, pool, page):
    """Put a page at the tail of its client's list and, when ephemeral, of the eviction order."""
    kind = kind_of(s, pool, page)
    owner = s[POOLS + pool * POOL_WORDS + P_OWNER]
    append(s, client_anchor(owner, kind), page, CELL_OF_CLIENT)
    if kind != ANCHOR_PERSISTENT:
        append(s, EVICT_STORED + kind, page, CELL_EVICTION)


@kernel
def dequeue(s, pool, page):
    """Take a page out of these lists. Where the compressor stands, it steps back."""
    p = POOLS + pool * POOL_WORDS
    if s[p + P_IS_PERSISTENT]:
        cold = CLIENTS + s[p + P_OWNER] * CLIENT_WORDS + C_COLD
        if s[cold] == page:
            s[cold] = field(s, page, CELL_OF_CLIENT + 1)
    else:
        if s[H_COLD] == page:
            s[H_COLD] = field(s, page, CELL_EVICTION + 1)
        unlink(s, page, CELL_EVICTION)
    unlink(s, page, CELL_OF_CLIENT)


@kernel
def drop_page(s, page):
    """Forget a page, and its object with the last one."""
    object_cell = field(s, page, CELL_OWNER)
    pool = pool_of_object(s, object_cell)
    discard(s, pool, page)
    p = POOLS + pool * POOL_WORDS
    c = CLIENTS + s[p + P_OWNER] * CLIENT_WORDS
    if s[p + P_IS_PERSISTENT]:
        s[c + C_PERSISTENT_PAGES] -= 1
    else:
        s[c + C_EPHEMERAL_PAGES] -= 1
        s[H_EPHEMERAL_PAGES] -= 1
    s[c + C_USED_PAGES] -= 1
    s[p + P_PAGES] -= 1
    s[H_PAGES] -= 1
    dequeue(s, pool, page)
    unlink(s, page, CELL_MATES)
    unchain(s, H_PAGE_BUCKETS, bucket_of_page(s, page), page)
    free_cell(s, page)
    if field(s, object_cell, CELL_MATES) == object_cell:
        free_object(s, object_cell)


@kernel
def add_page(s, pool, object_cell, index, data):
    """Make the cell of a new page and fill it; the caller has made room."""
    page = take_cell(s)
    set_field(s, page, CELL_OWNER, object_cell)
    set_field(s, page, CELL_INDEX, index)
    store(s, pool, page, data)
    chain(s, H_PAGE_BUCKETS, bucket_of_page(s, page), page)
    append(s, object_cell, page, CELL_MATES)
    enqueue(s, pool, page)
    p = POOLS + pool * POOL_WORDS
    c = CLIENTS + s[p + P_OWNER] * CLIENT_WORDS
    if s[p + P_IS_PERSISTENT]:
        s[c + C_PERSISTENT_PAGES] += 1
    else:
        s[c + C_EPHEMERAL_PAGES] += 1
        s[c + C_EPHEMERAL_PAGES_MAX] = max(s[c + C_EPHEMERAL_PAGES_MAX], s[c + C_EPHEMERAL_PAGES])
        s[H_EPHEMERAL_PAGES] += 1
    s[c + C_USED_PAGES] += 1
    s[H_PAGES] += 1
    s[p + P_PAGES] += 1
    s[p + P_PAGES_MAX] = max(s[p + P_PAGES_MAX], s[p + P_PAGES])
