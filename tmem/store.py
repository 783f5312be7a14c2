"""Where the data of a page is kept: nowhere (zeroes), shared, raw, or compressed.

Owns: ``store``, which tries the first three in this order; the step that compresses cold pages; and
the count of frames that hold ephemeral pages. All pages of one frame are ephemeral or all are
persistent, so that count says how many frames eviction can give. Used by the kernels.
"""

from __future__ import annotations

from numba import int64

from tmem import layout
from tmem.compressed import free_slot, move_packed, take_slot, unpack
from tmem.dedup import (
    NONE,
    claim,
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
from tmem.index import client_anchor, object_of
from tmem.kept import barrier
from tmem.lz4 import compress
from tmem.raw_memory import clear_page, copy_bytes, copy_page, kernel, words_at
from tmem.slab import frame_address, free_frame, take_frame, write_frame

PAGE_WORDS = layout.PAGE_BYTES // 8
ZERO_STEP = 8  # words looked at together: one cache line
LOOKS_PER_PAGE = 8  # pages a compressing step looks at for each it may compress


@kernel
def is_zero(data):
    """Whether the page at an address is all zero; one line is read when the first is not."""
    words = words_at(data)
    for at in range(0, PAGE_WORDS, ZERO_STEP):
        seen = 0
        for word in range(at, at + ZERO_STEP):
            seen |= words[word]
        if seen != 0:
            return False
    return True


@kernel
def store(state, pool, page, data):
    """Keep a copy of the data for a page that has none; there is a free frame."""
    it, its_pool = state.cells.page[page], state.pools[pool]
    if is_zero(data):
        it.store = layout.NO_FRAME
        state.zero_pages += 1
        return
    tag = int64(-1)
    if its_pool.dedup:
        scope = scope_of(state, pool)
        tag = tag_of(state, scope, data)
        same = find_same(state, scope, tag, data)
        if same >= 0 and share(state, page, same, scope):
            return
        if same != NONE:
            tag = int64(-1)
    frame = take_frame(state, page)
    write_frame(state, frame, data)
    it.store = frame
    state.ephemeral_stored += not its_pool.is_persistent
    if tag >= 0:
        remember(state, frame, tag)


@kernel
def discard(state, pool, page):
    """Give up what a page keeps; the caller drops it or stores anew."""
    frame = state.cells.page[page].store
    ephemeral = not state.pools[pool].is_persistent
    if frame == layout.NO_FRAME:
        state.zero_pages -= 1
        return
    if frame & layout.STORE_SHARED:
        frame = unshare(state, frame & layout.STORE_MASK)
        if frame < 0:
            return
    elif frame & layout.STORE_PACKED:
        state.ephemeral_stored -= free_slot(state, page) and ephemeral
        return
    forget(state, frame)
    free_frame(state, frame)
    state.ephemeral_stored -= ephemeral


@kernel
def load(state, page, data):
    """Copy what a page keeps to the address ``data``."""
    place = state.cells.page[page].store
    if place < layout.STORE_PACKED:
        copy_page(data, frame_address(state, place))
    elif place == layout.NO_FRAME:
        clear_page(data)
    elif place & layout.STORE_SHARED:
        copy_page(data, frame_address(state, state.cells.content[place & layout.STORE_MASK].frame))
    else:
        unpack(state, page, data)


@kernel
def is_own(state, page):
    """Whether a page has a frame of its own, which new data may simply overwrite."""
    return state.cells.page[page].store < layout.STORE_PACKED


@kernel
def spare(state, page):
    """Whether eviction skips this page once: its content would stay for other pages."""
    it = state.cells.page[page]
    place = it.store
    if place == layout.NO_FRAME or not place & layout.STORE_SHARED or place & layout.STORE_SPARED:
        return False
    if state.cells.content[place & layout.STORE_MASK].references < 2:
        return False
    it.store = place | layout.STORE_SPARED
    return True


@kernel
def move(state, old, new, holder):
    """The frame ``old`` has been copied to ``new``, which ``holder`` holds: correct what points to
    it."""
    if is_packed(holder):
        move_packed(state, old, new)
        return
    if holder & layout.FRAME_SHARED:
        state.cells.content[holder & layout.FRAME_MASK].frame = new
    else:
        state.cells.page[holder].store = new
    move_same(state, old, new)


@kernel
def pack(state, page):
    """Compress a page with a frame of its own: 1, or 0 when it does not get small enough."""
    source = frame_address(state, state.cells.page[page].store)
    length = compress(source, state.scratch, int64(layout.PACKED_MAX_BYTES))
    if length <= 0:
        state.poor += 1
        return 0
    pool = object_of(state, page).pool
    persistent = state.pools[pool].is_persistent
    state.packing_frame = state.cells.page[page].store
    state.packing_bytes = length
    barrier()
    state.packing = page
    barrier()
    discard(state, pool, page)
    frames = state.packed_frames
    copy_bytes(take_slot(state, page, length, persistent), state.scratch, length)
    barrier()
    state.packing = 0
    state.ephemeral_stored += (state.packed_frames - frames) * (not persistent)
    return 1


@kernel
def pack_list(state, links, anchor, cold, budget):
    """Compress pages of one list from the page ``cold``, where the last step ended, up to
    ``budget``: how many, and where this step ended."""
    packed = 0
    for _ in range(LOOKS_PER_PAGE * budget):
        page = links[cold].next
        if page == anchor or packed == budget:
            break
        cold = page
        claim(state, page)
        if is_own(state, page):
            packed += pack(state, page)
    return packed, cold


@kernel
def compress_step(state, budget):
    """Compress up to ``budget`` of the coldest raw pages: ephemeral pages in eviction order, then
    each client's persistent pages in put order. Returns how many were compressed."""
    if not state.compression:
        return 0
    pages = state.cells.page
    packed, state.cold = pack_list(state, pages.eviction, layout.EVICT_STORED, state.cold, budget)
    for number in range(layout.MAX_CLIENTS):
        client = state.clients[number]
        if client.is_open and packed < budget:
            anchor, left = client_anchor(number, layout.ANCHOR_PERSISTENT), budget - packed
            more, client.cold = pack_list(state, pages.of_client, anchor, client.cold, left)
            packed += more
    if packed == 0 and state.rewritten:
        state.rewritten = 0
        state.cold = layout.EVICT_STORED
        for number in range(layout.MAX_CLIENTS):
            state.clients[number].cold = client_anchor(number, layout.ANCHOR_PERSISTENT)
    return packed
