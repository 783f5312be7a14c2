"""What each tmem operation does, on the state of a pool.

Owns: the semantics, Xen's (``xen/common/tmem.c``), of which the rules easily got wrong are:
a duplicate put keeps the page's place in eviction order and never fails leaving the old data; a
get from a private ephemeral pool takes the page out; a flush succeeds whether or not anything was
there. A put by a client at its ``mm_target`` fails, unless it replaces a page. Ephemeral pages are
evicted in put order. Every argument but ``s`` may come from a guest. Compiled by ``tmem.serve``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from tmem import codes
from tmem.index import find_object, find_page, new_object
from tmem.layout import (
    C_FLUSHES,
    C_GETS,
    C_GETS_HIT,
    C_IS_OPEN,
    C_MM_TARGET,
    C_PUTS,
    C_PUTS_FAILED_NOMEM,
    C_PUTS_FAILED_NOSPC,
    C_PUTS_FAILED_TARGET,
    C_PUTS_SUCC,
    C_USED_PAGES,
    CELL_FRAME,
    CELL_MATES,
    CELL_OF_CLIENT,
    CELL_OWNER,
    CLIENT_ANCHORS,
    CLIENT_WORDS,
    CLIENTS,
    EVICT_STORED,
    EVICT_ZERO,
    H_FREE_CELLS,
    H_FREE_FRAMES,
    H_ZERO_PAGES,
    MAX_CLIENTS,
    NO_FRAME,
    P_GETS,
    P_GETS_HIT,
    P_IS_OPEN,
    P_IS_PERSISTENT,
    P_OBJECT_FLUSHES,
    P_OBJECT_FLUSHES_HIT,
    P_PAGE_FLUSHES,
    P_PAGE_FLUSHES_HIT,
    P_PAGES,
    P_PUTS,
    P_PUTS_DROPPED,
    P_PUTS_FAILED,
    P_PUTS_GOOD,
    P_PUTS_REPLACED,
    P_UUID_HI,
    P_UUID_LO,
    POOL_WORDS,
    POOLS,
    POOLS_PER_CLIENT,
)
from tmem.machine import clear_page, copy_page, field, kernel, set_field
from tmem.pages import add_page, drop_page, evict, is_zero, queue, unqueue
from tmem.slab import frame_address, free_frame, take_frame

# Enumerations are slow to compile; the kernels use their plain values.
DONE, ABSENT = int(codes.Code.DONE), int(codes.Code.ABSENT)
EPERM, ENOMEM, EEXIST = int(codes.Code.EPERM), int(codes.Code.ENOMEM), int(codes.Code.EEXIST)
ENODEV, ENOSPC, EEMPTY = int(codes.Code.ENODEV), int(codes.Code.ENOSPC), int(codes.Code.EEMPTY)
TARGET, NEED_SLAB = int(codes.Code.TARGET), int(codes.Code.NEED_SLAB)

FLAG_PERSISTENT, FLAG_SHARED, FLAG_PRECOMPRESSED = 1, 2, 4
FLAGS_MUST_BE_ZERO = 0xFFFFF0 | FLAG_PRECOMPRESSED  # and page size bits, reserved bits
FLAGS_VERSION_SHIFT = 24
SPEC_VERSION = 1


@kernel
def pool_of(s, client, slot):
    """The pool in a slot of a client, or -1."""
    if client < 0 or client >= MAX_CLIENTS or slot < 0 or slot >= POOLS_PER_CLIENT:
        return -1
    pool = client * POOLS_PER_CLIENT + slot
    return pool if s[POOLS + pool * POOL_WORDS + P_IS_OPEN] else -1


@kernel
def insert(s, pool, object_cell, oid0, oid1, oid2, index, data, may_ask):
    """Put of a new page."""
    c = CLIENTS + (pool // POOLS_PER_CLIENT) * CLIENT_WORDS
    target = s[c + C_MM_TARGET]
    if target >= 0 and s[c + C_USED_PAGES] >= target:
        return TARGET
    stored = not is_zero(data)
    if stored and s[H_FREE_FRAMES] == 0 and may_ask:
        return NEED_SLAB
    # Every turn evicts a page, so this ends. An eviction may take the object's last page.
    while (stored and s[H_FREE_FRAMES] == 0) or s[H_FREE_CELLS] < 2 - (object_cell != 0):
        wants_frame = stored and s[H_FREE_FRAMES] == 0
        if (wants_frame or not evict(s, EVICT_ZERO)) and not evict(s, EVICT_STORED):
            return ENOMEM
        object_cell = find_object(s, pool, oid0, oid1, oid2)
    if object_cell == 0:
        object_cell = new_object(s, pool, oid0, oid1, oid2)
    add_page(s, pool, object_cell, index, data, stored)
    return DONE


@kernel
def replace(s, pool, page, data, may_ask):
    """Duplicate put: new data in the old place. A page that gains or loses its storage goes to the
    tail of the other eviction order, which is the one case where the place changes."""
    stored = not is_zero(data)
    frame = field(s, page, CELL_FRAME)
    if stored and frame != NO_FRAME:
        copy_page(frame_address(s, frame), data)
        return DONE
    if not stored and frame == NO_FRAME:
        return DONE
    ephemeral = not s[POOLS + pool * POOL_WORDS + P_IS_PERSISTENT]
    if stored and s[H_FREE_FRAMES] == 0:
        if may_ask:
            return NEED_SLAB
        if not evict(s, EVICT_STORED):
            drop_page(s, page)
            return ENOSPC
    if ephemeral:
        unqueue(s, page, not stored)
        queue(s, page, stored)
    if stored:
        frame = take_frame(s, page)
        copy_page(frame_address(s, frame), data)
        set_field(s, page, CELL_FRAME, frame)
        s[H_ZERO_PAGES] -= 1
    else:
        free_frame(s, frame)
        set_field(s, page, CELL_FRAME, NO_FRAME)
        s[H_ZERO_PAGES] += 1
    return DONE


@kernel
def put_page(s, client, slot, oid0, oid1, oid2, index, data, may_ask):
    """PUT. ``may_ask``: answer NEED_SLAB, with nothing changed, rather than evict for a frame."""
    pool = pool_of(s, client, slot)
    if pool < 0:
        return ENODEV
    object_cell = find_object(s, pool, oid0, oid1, oid2)
    page = find_page(s, object_cell, index) if object_cell != 0 else 0
    if page != 0:
        code = replace(s, pool, page, data, may_ask)
    else:
        code = insert(s, pool, object_cell, oid0, oid1, oid2, index, data, may_ask)
    if code == NEED_SLAB:
        return code
    p, c = POOLS + pool * POOL_WORDS, CLIENTS + client * CLIENT_WORDS
    s[p + P_PUTS] += 1
    s[c + C_PUTS] += 1
    if code == DONE:
        s[p + P_PUTS_GOOD] += 1
        s[p + P_PUTS_REPLACED] += page != 0
        s[c + C_PUTS_SUCC] += 1
        return code
    s[p + P_PUTS_DROPPED] += code == ENOSPC
    s[p + P_PUTS_FAILED] += code != ENOSPC
    s[c + C_PUTS_FAILED_NOSPC] += code == ENOSPC
    s[c + C_PUTS_FAILED_NOMEM] += code == ENOMEM
    s[c + C_PUTS_FAILED_TARGET] += code == TARGET
    return code


@kernel
def get_page(s, client, slot, oid0, oid1, oid2, index, data):
    """GET. Exclusive in ephemeral pools; a miss leaves the guest's page as it was."""
    pool = pool_of(s, client, slot)
    if pool < 0:
        return ENODEV
    p, c = POOLS + pool * POOL_WORDS, CLIENTS + client * CLIENT_WORDS
    if s[p + P_PAGES] == 0:
        return EEMPTY
    s[p + P_GETS] += 1
    s[c + C_GETS] += 1
    object_cell = find_object(s, pool, oid0, oid1, oid2)
    page = find_page(s, object_cell, index) if object_cell != 0 else 0
    if page == 0:
        return ABSENT
    frame = field(s, page, CELL_FRAME)
    if frame == NO_FRAME:
        clear_page(data)
    else:
        copy_page(data, frame_address(s, frame))
    if not s[p + P_IS_PERSISTENT]:
        drop_page(s, page)
    s[p + P_GETS_HIT] += 1
    s[c + C_GETS_HIT] += 1
    return DONE


@kernel
def flush_page(s, pool, oid0, oid1, oid2, index):
    """FLUSH_PAGE of a valid pool."""
    p = POOLS + pool * POOL_WORDS
    s[p + P_PAGE_FLUSHES] += 1
    s[CLIENTS + (pool // POOLS_PER_CLIENT) * CLIENT_WORDS + C_FLUSHES] += 1
    object_cell = find_object(s, pool, oid0, oid1, oid2)
    page = find_page(s, object_cell, index) if object_cell != 0 else 0
    if page != 0:
        drop_page(s, page)
        s[p + P_PAGE_FLUSHES_HIT] += 1
    return DONE


@kernel
def flush_object(s, pool, oid0, oid1, oid2):
    """FLUSH_OBJECT of a valid pool: every page of one object."""
    p = POOLS + pool * POOL_WORDS
    s[p + P_OBJECT_FLUSHES] += 1
    s[CLIENTS + (pool // POOLS_PER_CLIENT) * CLIENT_WORDS + C_FLUSHES] += 1
    object_cell = find_object(s, pool, oid0, oid1, oid2)
    if object_cell == 0:
        return DONE
    page = field(s, object_cell, CELL_MATES)
    while page != object_cell:
        after = field(s, page, CELL_MATES)
        drop_page(s, page)
        page = after
    s[p + P_OBJECT_FLUSHES_HIT] += 1
    return DONE


@kernel
def new_pool(s, client, flags, uuid_lo, uuid_hi):
    """NEW_POOL: the lowest free slot. A shared pool, for which nobody is authorised, silently
    becomes a private one, as in Xen."""
    if client < 0 or client >= MAX_CLIENTS or not s[CLIENTS + client * CLIENT_WORDS + C_IS_OPEN]:
        return ENODEV
    if flags < 0 or flags >> FLAGS_VERSION_SHIFT != SPEC_VERSION or flags & FLAGS_MUST_BE_ZERO:
        return EPERM
    if flags & FLAG_PERSISTENT and flags & FLAG_SHARED:
        return EPERM
    for slot in range(POOLS_PER_CLIENT):
        p = POOLS + (client * POOLS_PER_CLIENT + slot) * POOL_WORDS
        if not s[p + P_IS_OPEN]:
            for word in range(POOL_WORDS):
                s[p + word] = 0
            s[p + P_IS_OPEN] = 1
            s[p + P_IS_PERSISTENT] = flags & FLAG_PERSISTENT
            s[p + P_UUID_LO] = uuid_lo
            s[p + P_UUID_HI] = uuid_hi
            return slot
    return EPERM


@kernel
def destroy_pool(s, client, slot):
    """DESTROY_POOL: DONE, or ABSENT when there is no such pool."""
    pool = pool_of(s, client, slot)
    if pool < 0:
        return ABSENT
    p = POOLS + pool * POOL_WORDS
    anchor = CLIENT_ANCHORS + 2 * client + s[p + P_IS_PERSISTENT]
    page = field(s, anchor, CELL_OF_CLIENT)
    while page != anchor and s[p + P_PAGES] != 0:
        after = field(s, page, CELL_OF_CLIENT)
        if field(s, field(s, page, CELL_OWNER), CELL_OWNER) == pool:
            drop_page(s, page)
        page = after
    s[p + P_IS_OPEN] = 0
    return DONE


@kernel
def open_client(s, client):
    """Make a client without pools or limit: 0; EEXIST when it is open, EPERM for a bad number."""
    if client < 0 or client >= MAX_CLIENTS:
        return EPERM
    c = CLIENTS + client * CLIENT_WORDS
    if s[c + C_IS_OPEN]:
        return EEXIST
    for word in range(CLIENT_WORDS):
        s[c + word] = 0
    s[c + C_MM_TARGET] = -1
    s[c + C_IS_OPEN] = 1
    return 0


@kernel
def close_client(s, client):
    """Forget a client with all it has: the pages freed, or ENODEV. Its counters stay readable."""
    if client < 0 or client >= MAX_CLIENTS or not s[CLIENTS + client * CLIENT_WORDS + C_IS_OPEN]:
        return ENODEV
    c = CLIENTS + client * CLIENT_WORDS
    freed = s[c + C_USED_PAGES]
    for slot in range(POOLS_PER_CLIENT):
        destroy_pool(s, client, slot)
    s[c + C_IS_OPEN] = 0
    return freed
