"""Pages coming and going: made, dropped, evicted, moved when the slab shrinks.

Owns: what a page is part of (its object, its client's list, the eviction order, a frame of the
slab) and the counters that follow from it. A page of zeroes holds no frame and is queued apart:
evicting it would free no memory. Used by ``tmem.kernels`` and ``tmem.serve``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import int64

from tmem.index import (
    append,
    chain,
    free_cell,
    free_object,
    page_bucket,
    take_cell,
    unchain,
    unlink,
)
from tmem.layout import (
    AREA_PAGES,
    C_EPHEMERAL_PAGES,
    C_EVICTED,
    C_PERSISTENT_PAGES,
    C_USED_PAGES,
    CELL_EVICTION,
    CELL_FRAME,
    CELL_INDEX,
    CELL_MATES,
    CELL_OF_CLIENT,
    CELL_OWNER,
    CLIENT_ANCHORS,
    CLIENT_WORDS,
    CLIENTS,
    EVICT_STORED,
    EVICT_ZERO,
    FRAME_FREE,
    H_EPHEMERAL_PAGES,
    H_EPHEMERAL_STORED,
    H_EVICTED,
    H_FRAMES,
    H_FREE_FRAMES,
    H_PAGE_BUCKETS,
    H_PAGES,
    H_RELOCATED,
    H_ZERO_PAGES,
    NO_FRAME,
    P_IS_PERSISTENT,
    P_PAGES,
    P_PAGES_MAX,
    PAGE_BYTES,
    POOL_WORDS,
    POOLS,
    POOLS_PER_CLIENT,
)
from tmem.machine import cells_at, copy_page, field, kernel, set_field, words_at
from tmem.slab import close_area, emptiest_area, frame_address, free_frame, take_frame

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
def queue(s, page, stored):
    """Put an ephemeral page at the tail of the eviction order."""
    append(s, EVICT_STORED if stored else EVICT_ZERO, page, CELL_EVICTION)
    if stored:
        s[H_EPHEMERAL_STORED] += 1


@kernel
def unqueue(s, page, stored):
    """Take an ephemeral page out of the eviction order."""
    unlink(s, page, CELL_EVICTION)
    if stored:
        s[H_EPHEMERAL_STORED] -= 1


@kernel
def drop_page(s, page):
    """Forget a page, and its object with the last one."""
    object_cell = field(s, page, CELL_OWNER)
    pool = field(s, object_cell, CELL_OWNER)
    frame = field(s, page, CELL_FRAME)
    p = POOLS + pool * POOL_WORDS
    c = CLIENTS + (pool // POOLS_PER_CLIENT) * CLIENT_WORDS
    if s[p + P_IS_PERSISTENT]:
        s[c + C_PERSISTENT_PAGES] -= 1
    else:
        unqueue(s, page, frame != NO_FRAME)
        s[c + C_EPHEMERAL_PAGES] -= 1
        s[H_EPHEMERAL_PAGES] -= 1
    s[c + C_USED_PAGES] -= 1
    s[p + P_PAGES] -= 1
    s[H_PAGES] -= 1
    if frame == NO_FRAME:
        s[H_ZERO_PAGES] -= 1
    else:
        free_frame(s, frame)
    unlink(s, page, CELL_OF_CLIENT)
    unlink(s, page, CELL_MATES)
    bucket = page_bucket(s, object_cell, field(s, page, CELL_INDEX))
    unchain(s, H_PAGE_BUCKETS, bucket, page)
    free_cell(s, page)
    if field(s, object_cell, CELL_MATES) == object_cell:
        free_object(s, object_cell)


@kernel
def evict(s, order):
    """Drop the first page of an eviction order; whether there was one."""
    page = field(s, order, CELL_EVICTION)
    if page == order:
        return False
    pool = field(s, field(s, page, CELL_OWNER), CELL_OWNER)
    s[CLIENTS + (pool // POOLS_PER_CLIENT) * CLIENT_WORDS + C_EVICTED] += 1
    s[H_EVICTED] += 1
    drop_page(s, page)
    return True


@kernel
def add_page(s, pool, object_cell, index, data, stored):
    """Make the cell of a new page and fill it; the caller has made room."""
    page = take_cell(s)
    set_field(s, page, CELL_OWNER, object_cell)
    set_field(s, page, CELL_INDEX, index)
    if stored:
        frame = take_frame(s, page)
        copy_page(frame_address(s, frame), data)
        set_field(s, page, CELL_FRAME, frame)
    else:
        set_field(s, page, CELL_FRAME, NO_FRAME)
        s[H_ZERO_PAGES] += 1
    chain(s, H_PAGE_BUCKETS, page_bucket(s, object_cell, index), page)
    append(s, object_cell, page, CELL_MATES)
    client = pool // POOLS_PER_CLIENT
    p, c = POOLS + pool * POOL_WORDS, CLIENTS + client * CLIENT_WORDS
    persistent = s[p + P_IS_PERSISTENT]
    append(s, CLIENT_ANCHORS + 2 * client + persistent, page, CELL_OF_CLIENT)
    if persistent:
        s[c + C_PERSISTENT_PAGES] += 1
    else:
        queue(s, page, stored)
        s[c + C_EPHEMERAL_PAGES] += 1
        s[H_EPHEMERAL_PAGES] += 1
    s[c + C_USED_PAGES] += 1
    s[H_PAGES] += 1
    s[p + P_PAGES] += 1
    s[p + P_PAGES_MAX] = max(s[p + P_PAGES_MAX], s[p + P_PAGES])


@kernel
def shrink(s):
    """Give up one whole area: its number, or -1 when the pages that stay need it. Evicts in put
    order until an area's worth is free, then empties the area with the fewest pages."""
    if s[H_FREE_FRAMES] + s[H_EPHEMERAL_STORED] < AREA_PAGES or emptiest_area(s) < 0:
        return -1
    while s[H_FREE_FRAMES] < AREA_PAGES:
        evict(s, EVICT_STORED)
    area = emptiest_area(s)
    close_area(s, area)
    frames = cells_at(s[H_FRAMES])
    for frame in range(area * AREA_PAGES, (area + 1) * AREA_PAGES):
        page = int64(frames[frame])
        if page < FRAME_FREE:
            moved = take_frame(s, page)
            copy_page(frame_address(s, moved), frame_address(s, frame))
            set_field(s, page, CELL_FRAME, moved)
            s[H_RELOCATED] += 1
    return area
