"""Same-content pages: one frame for all pages of one scope with the same 4096 bytes.

Owns: the hash table of frames, the content cells, and the call of the content hash. A frame of one
page is known by its page. When a second page has the same content, a content cell comes between the
two pages and the frame, and counts its references. A scope is one client's private pools, or one
shared pool, and in it persistent or ephemeral pages: content shared with a stranger would tell the
stranger that somebody else has it. ``dedup_across`` gives that up.

The hash is XXH3_64bits of the xxHash library, whose address is in the state. It has no secret, so a
guest can make contents collide. Therefore contents are compared in full, no chain gets longer than
``CHAIN_MAX``, and contents that would be beyond are not shared. Used by ``tmem.store``.
"""

from __future__ import annotations

from numba import int64, uint64

from tmem import layout
from tmem.index import free_cell, object_of, take_cell
from tmem.kept import barrier
from tmem.raw_memory import call, kernel, words_at
from tmem.slab import frame_address

CHAIN_MAX = 16  # frames looked at for one content
SCOPE_MIX = 0x9E3779B97F4A7C15
PAGE_WORDS = layout.PAGE_BYTES // 8
STEP = 8  # words compared together
NONE, NO_ROOM = -1, -2  # of find_same


@kernel
def scope_of(state, pool):
    """Whose pages may share content with those of a pool: a number."""
    it = state.pools[pool]
    whose = int64(0)
    if not state.dedup_across:
        whose = 1 + (pool if it.is_shared else it.owner)
    return 2 * whose + it.is_persistent


@kernel
def tag_of(state, scope, data):
    """32 bits of hash of a content in a scope."""
    mixed = uint64(call(state.hash_page, (data, layout.PAGE_BYTES)))
    return int64((mixed ^ uint64(scope) * uint64(SCOPE_MIX)) & uint64(0xFFFFFFFF))


@kernel
def bucket_of(state, tag):
    """Where the frames of this hash are chained."""
    return (tag * state.hash_bucket_count) >> 32


@kernel
def is_same(one, other):
    """Whether two pages, given by address, have the same bytes; stops at the first difference."""
    left, right = words_at(one), words_at(other)
    for at in range(0, PAGE_WORDS, STEP):
        different = 0
        for word in range(at, at + STEP):
            different |= left[word] ^ right[word]
        if different != 0:
            return False
    return True


@kernel
def may_share(state, frame, scope):
    """Whether a frame holds the content of one or more pages of this scope."""
    holder = state.frames[frame]
    if holder & layout.FRAME_SHARED:
        return state.cells.content[holder & layout.FRAME_MASK].scope == scope
    pool = object_of(state, holder).pool
    return state.pools[pool].dedup != 0 and scope_of(state, pool) == scope


@kernel
def find_same(state, scope, tag, data):
    """The frame with this content in this scope; NONE when there is none, NO_ROOM when there is
    none and the chain is too long for another."""
    hashed = state.hashed
    link = state.hash_buckets[bucket_of(state, tag)]
    for _ in range(CHAIN_MAX):
        if link == 0:
            return NONE
        frame = link - 1
        if (
            hashed[frame].tag == tag
            and may_share(state, frame, scope)
            and is_same(frame_address(state, frame), data)
        ):
            return frame
        link = hashed[frame].chain
    return NO_ROOM


@kernel
def remember(state, frame, tag):
    """Put a frame on its hash chain."""
    bucket = bucket_of(state, tag)
    state.hashed[frame].chain = state.hash_buckets[bucket]
    state.hashed[frame].tag = tag
    state.hash_buckets[bucket] = frame + 1


@kernel
def forget(state, frame):
    """Take a frame off its hash chain, if it is on one."""
    if not state.dedup:
        return
    hashed, buckets = state.hashed, state.hash_buckets
    after = hashed[frame].chain
    if after == layout.NOT_HASHED:
        return
    bucket = bucket_of(state, hashed[frame].tag)
    link = buckets[bucket]
    if link == frame + 1:
        buckets[bucket] = after
        return
    while hashed[link - 1].chain != frame + 1:
        link = hashed[link - 1].chain
    hashed[link - 1].chain = after


@kernel
def share(state, page, frame, scope):
    """Give a page the content of a frame; False when no cell is left for that."""
    pages, contents, holder = state.cells.page, state.cells.content, state.frames[frame]
    if not holder & layout.FRAME_SHARED:
        if state.free_cells == 0:
            return False
        cell = take_cell(state)
        contents[cell].references = 1
        contents[cell].frame = frame
        contents[cell].scope = scope
        barrier()
        pages[holder].store = layout.STORE_SHARED | cell
        holder = layout.FRAME_SHARED | cell
        state.frames[frame] = holder
        state.contents += 1
        state.shared_pages += 1
    cell = holder & layout.FRAME_MASK
    contents[cell].references += 1
    pages[page].store = layout.STORE_SHARED | cell
    state.shared_pages += 1
    state.deduped += 1
    return True


@kernel
def unshare(state, cell):
    """Take a page's reference off a content: the frame that has become unused, or -1."""
    content = state.cells.content[cell]
    state.shared_pages -= 1
    content.references -= 1
    if content.references != 0:
        return -1
    frame = content.frame
    free_cell(state, cell)
    state.contents -= 1
    return frame


@kernel
def claim(state, page):
    """Make the frame of a shared content the page's own, if the page is the last that has it."""
    it = state.cells.page[page]
    place = it.store
    if place == layout.NO_FRAME or not place & layout.STORE_SHARED:
        return
    cell = place & layout.STORE_MASK
    if state.cells.content[cell].references == 1:
        frame = state.cells.content[cell].frame
        it.store = frame
        barrier()
        unshare(state, cell)
        state.frames[frame] = page


@kernel
def move_same(state, old, new):
    """The content of a frame has moved to another, its place on the hash chain follows."""
    if state.dedup and state.hashed[old].chain != layout.NOT_HASHED:
        forget(state, old)
        remember(state, new, state.hashed[old].tag)


@kernel
def is_packed(holder):
    """Whether a frame holds compressed pages, by its holder."""
    return holder < layout.FRAME_SHARED and holder & layout.FRAME_PACKED != 0
