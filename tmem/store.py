"""Where the data of a page is kept: nowhere (zeroes), shared, raw, or compressed.

Owns: that choice, in this order, and the count of frames that hold ephemeral pages: of every frame,
all pages are ephemeral or all are persistent, so that it is known what eviction can give.
Used by the kernels.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import int64

from tmem.compressed import free_slot, move_packed, take_slot, unpack
from tmem.dedup import (
    claim,
    do_not_hash,
    find_same,
    forget,
    is_packed,
    move_same,
    remember,
    scope_of,
    share,
    tag_of,
    unshare,
)
from tmem.index import pool_of_page
from tmem.layout import (
    ANCHOR_PERSISTENT,
    ANCHORS_PER_CLIENT,
    C_COLD,
    C_IS_OPEN,
    CELL_EVICTION,
    CELL_OF_CLIENT,
    CELL_STORE,
    CLIENT_ANCHORS,
    CLIENT_WORDS,
    CLIENTS,
    CONTENT_FRAME,
    CONTENT_REFS,
    EVICT_STORED,
    FRAME_MASK,
    FRAME_SHARED,
    H_COLD,
    H_COMPRESSION,
    H_EPHEMERAL_STORED,
    H_PACKED_FRAMES,
    H_POOR,
    H_REWRITTEN,
    H_SCRATCH,
    H_ZERO_PAGES,
    MAX_CLIENTS,
    NO_FRAME,
    P_DEDUP,
    P_IS_PERSISTENT,
    PACKED_MAX_BYTES,
    PAGE_BYTES,
    POOL_WORDS,
    POOLS,
    STORE_MASK,
    STORE_PACKED,
    STORE_SHARED,
    STORE_SPARED,
)
from tmem.lz4 import compress
from tmem.page_copy import write_frame
from tmem.raw_memory import (
    clear_page,
    copy_bytes,
    copy_page,
    field,
    kernel,
    set_field,
    words_at,
)
from tmem.slab import frame_address, free_frame, take_frame

PAGE_WORDS = PAGE_BYTES // 8
ZERO_STEP = 8  # words looked at together: one cache line
LOOKS_PER_PAGE = 8  # pages a compressing step looks at for each it may compress


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
def store(s, pool, page, data):
    """Keep a copy of the data for a page that has none; there is a free frame."""
    if is_zero(data):
        set_field(s, page, CELL_STORE, NO_FRAME)
        s[H_ZERO_PAGES] += 1
        return
    p = POOLS + pool * POOL_WORDS
    tag = int64(-1)
    if s[p + P_DEDUP]:
        scope = scope_of(s, pool)
        tag = tag_of(scope, data)
        frame = find_same(s, scope, tag, data)
        if frame >= 0 and share(s, page, frame, scope):
            return
        if frame != -1:
            tag = int64(-1)
    frame = take_frame(s, page)
    write_frame(s, frame, data)
    set_field(s, page, CELL_STORE, frame)
    s[H_EPHEMERAL_STORED] += not s[p + P_IS_PERSISTENT]
    if tag >= 0:
        remember(s, frame, tag)
    else:
        do_not_hash(s, frame)


@kernel
def discard(s, pool, page):
    """Give up what a page keeps; the caller drops it or stores anew."""
    place = field(s, page, CELL_STORE)
    ephemeral = not s[POOLS + pool * POOL_WORDS + P_IS_PERSISTENT]
    if place == NO_FRAME:
        s[H_ZERO_PAGES] -= 1
        return
    if place & STORE_SHARED:
        place = unshare(s, page)
        if place < 0:
            return
    elif place & STORE_PACKED:
        s[H_EPHEMERAL_STORED] -= free_slot(s, page) and ephemeral
        return
    forget(s, place)
    free_frame(s, place)
    s[H_EPHEMERAL_STORED] -= ephemeral


@kernel
def load(s, page, data):
    """Copy what a page keeps."""
    place = field(s, page, CELL_STORE)
    if place < STORE_PACKED:
        copy_page(data, frame_address(s, place))
    elif place == NO_FRAME:
        clear_page(data)
    elif place & STORE_SHARED:
        copy_page(data, frame_address(s, field(s, place & STORE_MASK, CONTENT_FRAME)))
    else:
        unpack(s, page, data)


@kernel
def is_own(s, page):
    """Whether a page has a frame of its own, which new data may simply overwrite."""
    return field(s, page, CELL_STORE) < STORE_PACKED


@kernel
def spare(s, page):
    """Whether an eviction passes a page by, this once: its content would stay for others."""
    place = field(s, page, CELL_STORE)
    if place == NO_FRAME or not place & STORE_SHARED or place & STORE_SPARED:
        return False
    if field(s, place & STORE_MASK, CONTENT_REFS) < 2:
        return False
    set_field(s, page, CELL_STORE, place | STORE_SPARED)
    return True


@kernel
def move(s, old, new, holder):
    """The frame ``old`` has moved to ``new``, which ``holder`` holds: correct who points to it."""
    if is_packed(holder):
        move_packed(s, old, new)
    elif holder & FRAME_SHARED:
        set_field(s, holder & FRAME_MASK, CONTENT_FRAME, new)
        move_same(s, old, new)
    else:
        set_field(s, holder, CELL_STORE, new)
        move_same(s, old, new)


@kernel
def pack(s, page):
    """Compress a page with a frame of its own: 1, or 0 when it does not get small enough."""
    frame = field(s, page, CELL_STORE)
    length = compress(frame_address(s, frame), s[H_SCRATCH], int64(PACKED_MAX_BYTES))
    if length <= 0:
        s[H_POOR] += 1
        return 0
    pool = pool_of_page(s, page)
    persistent = s[POOLS + pool * POOL_WORDS + P_IS_PERSISTENT]
    discard(s, pool, page)
    frames = s[H_PACKED_FRAMES]
    copy_bytes(take_slot(s, page, length, persistent), s[H_SCRATCH], length)
    s[H_EPHEMERAL_STORED] += (s[H_PACKED_FRAMES] - frames) * (not persistent)
    return 1


@kernel
def pack_list(s, anchor, links, cold, budget):
    """Compress pages of one list from where the last step ended; ``cold`` is the word that says
    where that is. How many."""
    packed = 0
    for _ in range(LOOKS_PER_PAGE * budget):
        page = field(s, s[cold], links)
        if page == anchor or packed == budget:
            break
        s[cold] = page
        claim(s, page)
        if is_own(s, page):
            packed += pack(s, page)
    return packed


@kernel
def compress_step(s, budget):
    """Compress up to ``budget`` of the coldest raw pages: how many. Ephemeral pages in eviction
    order first, then each client's persistent pages in put order."""
    if not s[H_COMPRESSION]:
        return 0
    packed = pack_list(s, EVICT_STORED, CELL_EVICTION, H_COLD, budget)
    for client in range(MAX_CLIENTS):
        c = CLIENTS + client * CLIENT_WORDS
        if s[c + C_IS_OPEN] and packed < budget:
            anchor = CLIENT_ANCHORS + client * ANCHORS_PER_CLIENT + ANCHOR_PERSISTENT
            packed += pack_list(s, anchor, CELL_OF_CLIENT, c + C_COLD, budget - packed)
    if packed == 0 and s[H_REWRITTEN]:
        s[H_REWRITTEN] = 0
        s[H_COLD] = EVICT_STORED
        for client in range(MAX_CLIENTS):
            anchor = CLIENT_ANCHORS + client * ANCHORS_PER_CLIENT + ANCHOR_PERSISTENT
            s[CLIENTS + client * CLIENT_WORDS + C_COLD] = anchor
    return packed
