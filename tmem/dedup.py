"""Same-content pages: one frame for all pages of one scope with the same 4096 bytes.

Owns: the hash table of frames and the content cells. A frame of one page is known by its page; when
a second page has the same content, a content cell comes between, which counts the references. A
scope is one client's private pools, or one shared pool, and in it persistent or ephemeral pages:
content shared with a stranger would tell who else has it. ``dedup_across`` gives that up.
The hash has no secret, so a guest can make contents collide: no chain gets longer than
``CHAIN_MAX``, what would be beyond is not shared. Used by ``tmem.store``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import int64, uint64

from tmem.index import free_cell, pool_of_page, take_cell
from tmem.layout import (
    CELL_STORE,
    CONTENT_FRAME,
    CONTENT_REFS,
    CONTENT_SCOPE,
    FRAME_MASK,
    FRAME_PACKED,
    FRAME_SHARED,
    H_CONTENTS,
    H_DEDUP_ACROSS,
    H_DEDUPED,
    H_FRAMES,
    H_FREE_CELLS,
    H_SAME,
    H_SAME_BUCKET_COUNT,
    H_SAME_BUCKETS,
    H_SHARED_PAGES,
    NO_FRAME,
    NOT_HASHED,
    P_DEDUP,
    P_IS_PERSISTENT,
    P_IS_SHARED,
    P_OWNER,
    PAGE_BYTES,
    POOL_WORDS,
    POOLS,
    SAME_WORDS,
    STORE_MASK,
    STORE_SHARED,
)
from tmem.raw_memory import cells_at, field, kernel, set_field, words_at
from tmem.slab import frame_address
from tmem.xxh3 import hash_page

CHAIN_MAX = 16  # frames looked at for one content
SCOPE_MIX = 0x9E3779B97F4A7C15
PAGE_WORDS = PAGE_BYTES // 8
STEP = 8  # words compared together


@kernel
def scope_of(s, pool):
    """Whose pages may share content: a number."""
    p = POOLS + pool * POOL_WORDS
    who = int64(0)
    if not s[H_DEDUP_ACROSS]:
        who = 1 + (pool if s[p + P_IS_SHARED] else s[p + P_OWNER])
    return 2 * who + s[p + P_IS_PERSISTENT]


@kernel
def tag_of(scope, data):
    """32 bits of hash of a content in a scope."""
    mixed = hash_page(data) ^ (uint64(scope) * uint64(SCOPE_MIX))
    return int64(mixed & uint64(0xFFFFFFFF))


@kernel
def bucket_of(s, tag):
    """Where the frames of this hash are chained."""
    return (tag * s[H_SAME_BUCKET_COUNT]) >> 32


@kernel
def is_same(a, b):
    """Whether two pages have the same content."""
    left, right = words_at(a), words_at(b)
    for at in range(0, PAGE_WORDS, STEP):
        different = 0
        for word in range(at, at + STEP):
            different |= left[word] ^ right[word]
        if different != 0:
            return False
    return True


@kernel
def may_share(s, frame, scope):
    """Whether a frame holds the content of one or more pages of this scope."""
    holder = int64(cells_at(s[H_FRAMES])[frame])
    if holder & FRAME_SHARED:
        return field(s, holder & FRAME_MASK, CONTENT_SCOPE) == scope
    pool = pool_of_page(s, holder)
    return s[POOLS + pool * POOL_WORDS + P_DEDUP] != 0 and scope_of(s, pool) == scope


@kernel
def find_same(s, scope, tag, data):
    """The frame with this content in this scope; -1 when there is none, -2 when there is none and
    the chain is too long for another."""
    same = cells_at(s[H_SAME])
    link = int64(cells_at(s[H_SAME_BUCKETS])[bucket_of(s, tag)])
    for _ in range(CHAIN_MAX):
        if link == 0:
            return -1
        frame = link - 1
        if (
            int64(same[frame * SAME_WORDS + 1]) == tag
            and may_share(s, frame, scope)
            and is_same(frame_address(s, frame), data)
        ):
            return frame
        link = int64(same[frame * SAME_WORDS])
    return -2


@kernel
def remember(s, frame, tag):
    """Put a frame on its hash chain."""
    buckets, same = cells_at(s[H_SAME_BUCKETS]), cells_at(s[H_SAME])
    bucket = bucket_of(s, tag)
    same[frame * SAME_WORDS] = buckets[bucket]
    same[frame * SAME_WORDS + 1] = tag
    buckets[bucket] = frame + 1


@kernel
def do_not_hash(s, frame):
    """Mark a frame as on no hash chain."""
    if s[H_SAME_BUCKETS] != 0:
        cells_at(s[H_SAME])[frame * SAME_WORDS] = NOT_HASHED


@kernel
def forget(s, frame):
    """Take a frame off its hash chain, if it is on one."""
    if s[H_SAME_BUCKETS] == 0:
        return
    same, buckets = cells_at(s[H_SAME]), cells_at(s[H_SAME_BUCKETS])
    after = same[frame * SAME_WORDS]
    if int64(after) == NOT_HASHED:
        return
    bucket = bucket_of(s, int64(same[frame * SAME_WORDS + 1]))
    link = int64(buckets[bucket])
    if link == frame + 1:
        buckets[bucket] = after
        return
    while int64(same[(link - 1) * SAME_WORDS]) != frame + 1:
        link = int64(same[(link - 1) * SAME_WORDS])
    same[(link - 1) * SAME_WORDS] = after


@kernel
def share(s, page, frame, scope):
    """Give a page the content of a frame; False when no cell is left for that."""
    frames = cells_at(s[H_FRAMES])
    holder = int64(frames[frame])
    if not holder & FRAME_SHARED:
        if s[H_FREE_CELLS] == 0:
            return False
        cell = take_cell(s)
        set_field(s, cell, CONTENT_REFS, 1)
        set_field(s, cell, CONTENT_FRAME, frame)
        set_field(s, cell, CONTENT_SCOPE, scope)
        set_field(s, holder, CELL_STORE, STORE_SHARED | cell)
        frames[frame] = FRAME_SHARED | cell
        holder = FRAME_SHARED | cell
        s[H_CONTENTS] += 1
        s[H_SHARED_PAGES] += 1
    cell = holder & FRAME_MASK
    set_field(s, cell, CONTENT_REFS, field(s, cell, CONTENT_REFS) + 1)
    set_field(s, page, CELL_STORE, STORE_SHARED | cell)
    s[H_SHARED_PAGES] += 1
    s[H_DEDUPED] += 1
    return True


@kernel
def unshare(s, page):
    """Take a page's reference off its content: the frame that has become unused, or -1."""
    cell = field(s, page, CELL_STORE) & STORE_MASK
    refs = field(s, cell, CONTENT_REFS) - 1
    s[H_SHARED_PAGES] -= 1
    if refs != 0:
        set_field(s, cell, CONTENT_REFS, refs)
        return int64(-1)
    frame = field(s, cell, CONTENT_FRAME)
    free_cell(s, cell)
    s[H_CONTENTS] -= 1
    return frame


@kernel
def claim(s, page):
    """Make the frame of a shared content the page's own, if the page is the last that has it."""
    place = field(s, page, CELL_STORE)
    cell = place & STORE_MASK
    if place == NO_FRAME or not place & STORE_SHARED or field(s, cell, CONTENT_REFS) != 1:
        return
    frame = unshare(s, page)
    set_field(s, page, CELL_STORE, frame)
    cells_at(s[H_FRAMES])[frame] = page


@kernel
def move_same(s, old, new):
    """The content of a frame has moved, its hash chain follows."""
    if s[H_SAME_BUCKETS] == 0:
        return
    same = cells_at(s[H_SAME])
    if int64(same[old * SAME_WORDS]) == NOT_HASHED:
        same[new * SAME_WORDS] = NOT_HASHED
        return
    forget(s, old)
    remember(s, new, int64(same[old * SAME_WORDS + 1]))


@kernel
def is_packed(holder):
    """Whether a frame holds compressed pages, by its holder."""
    return holder < FRAME_SHARED and holder & FRAME_PACKED != 0
