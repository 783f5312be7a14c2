"""Pages coming and going: made, dropped, filled, put last in the eviction order.

Owns: what a page is part of (its object, its client's list, the eviction order, a frame of the
slab) and the counters that follow from it. A page of zeroes holds no frame and is queued apart:
evicting it would free no memory. Used by the kernels.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from tmem.index import (
    append,
    chain,
    free_cell,
    free_object,
    page_bucket,
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
    H_EPHEMERAL_PAGES,
    H_EPHEMERAL_STORED,
    H_PAGE_BUCKETS,
    H_PAGES,
    H_ZERO_PAGES,
    NO_FRAME,
    P_IS_PERSISTENT,
    P_OWNER,
    P_PAGES,
    P_PAGES_MAX,
    PAGE_BYTES,
    POOL_WORDS,
    POOLS,
)
from tmem.machine import clear_page, copy_page, field, kernel, set_field, words_at
from tmem.slab import frame_address, free_frame, take_frame

PAGE_WORDS = PAGE_BYTES // 8
ZERO_STEP = 8  # words looked at together: one cache line


@kernel
def is_zero(page):
    """Whether a page is all zero; looks at one line only when its first line is not."""
    words = words_at(page)
    for at in range(0, PAGE_WORDS, ZERO_STEP):
        seen = 0
        for word in range(at, at + ZERO_STEP):
            seen |= words[word]
        if seen != 0:
            return False
    return True


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
    """Take a page out of these lists."""
    unlink(s, page, CELL_OF_CLIENT)
    if not s[POOLS + pool * POOL_WORDS + P_IS_PERSISTENT]:
        unlink(s, page, CELL_EVICTION)


@kernel
def store(s, pool, page, data):
    """Keep a copy of the data for a page that has none; there is a free frame."""
    if is_zero(data):
        set_field(s, page, CELL_STORE, NO_FRAME)
        s[H_ZERO_PAGES] += 1
        return
    frame = take_frame(s, page)
    copy_page(frame_address(s, frame), data)
    set_field(s, page, CELL_STORE, frame)
    s[H_EPHEMERAL_STORED] += not s[POOLS + pool * POOL_WORDS + P_IS_PERSISTENT]


@kernel
def discard(s, pool, page):
    """Give up what a page keeps; the caller drops it or stores anew."""
    frame = field(s, page, CELL_STORE)
    if frame == NO_FRAME:
        s[H_ZERO_PAGES] -= 1
        return
    free_frame(s, frame)
    s[H_EPHEMERAL_STORED] -= not s[POOLS + pool * POOL_WORDS + P_IS_PERSISTENT]


@kernel
def load(s, page, data):
    """Copy what a page keeps."""
    frame = field(s, page, CELL_STORE)
    if frame == NO_FRAME:
        clear_page(data)
    else:
        copy_page(data, frame_address(s, frame))


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
    bucket = page_bucket(s, object_cell, field(s, page, CELL_INDEX))
    unchain(s, H_PAGE_BUCKETS, bucket, page)
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
    chain(s, H_PAGE_BUCKETS, page_bucket(s, object_cell, index), page)
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
