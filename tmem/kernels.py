"""What put, get and flush do, on the state of a pool.

Owns: the semantics, Xen's (``xen/common/tmem.c``), of which the rules easily got wrong are:
a duplicate put keeps the page's place in eviction order and never fails leaving the old data; a
get from a private ephemeral pool takes the page out, one from a shared pool puts it last; a flush
succeeds whether or not anything was there. The reserve is looked at before anything else, so a
duplicate put may evict the very page it replaces. Admission of new pages counts against the pool's
owner: its freeze, its ``mm_target`` (SmarTmem), its quota of persistent pages. Every argument but
``s`` may come from a guest. A page address of 0 is a guest page that faults.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from tmem import codes
from tmem.evict import evict, make_room
from tmem.index import find_object, find_page, new_object, set_last_client
from tmem.invalidation_log import drop_and_log
from tmem.layout import (
    C_EPHEMERAL_GETS_HIT,
    C_FLUSHES,
    C_GETS,
    C_GETS_HIT,
    C_IS_FROZEN,
    C_IS_MIGRATING,
    C_MM_TARGET,
    C_PERSISTENT_GETS_HIT,
    C_PERSISTENT_PAGES,
    C_PERSISTENT_PUTS_SUCC,
    C_PUTS,
    C_PUTS_FAILED_FAULT,
    C_PUTS_FAILED_FROZEN,
    C_PUTS_FAILED_NOMEM,
    C_PUTS_FAILED_NOSPC,
    C_PUTS_FAILED_TARGET,
    C_PUTS_SUCC,
    C_QUOTA,
    C_USED_PAGES,
    CELL_MATES,
    CELL_OWNER,
    CELL_STORE,
    CLIENT_WORDS,
    CLIENTS,
    EVICT_STORED,
    EVICT_ZERO,
    H_FAILED_COPIES,
    H_FREE_CELLS,
    H_FREE_FRAMES,
    H_HEAP_FREE,
    H_NOTE,
    H_RESERVE_PAGES,
    H_REWRITTEN,
    H_SAME_BUCKETS,
    NO_FRAME,
    NOTE_FLUSH,
    NOTE_FLUSH_OBJECT,
    NOTE_GET,
    NOTE_REFUSED,
    NOTE_STORED,
    NOTE_TAKE,
    P_GETS,
    P_GETS_HIT,
    P_IS_PERSISTENT,
    P_IS_SHARED,
    P_OBJECT_FLUSHES,
    P_OBJECT_FLUSHES_HIT,
    P_OWNER,
    P_PAGE_FLUSHES,
    P_PAGE_FLUSHES_HIT,
    P_PAGES,
    P_PUTS,
    P_PUTS_DROPPED,
    P_PUTS_FAILED,
    P_PUTS_GOOD,
    P_PUTS_REPLACED,
    POOL_WORDS,
    POOLS,
)
from tmem.page_copy import write_frame
from tmem.pages import add_page, dequeue, drop_page, enqueue
from tmem.pools import pool_of
from tmem.raw_memory import field, kernel, note
from tmem.store import discard, is_own, is_zero, load, store

# Enumerations are slow to compile; the kernels use their plain values.
DONE, ABSENT = int(codes.Code.DONE), int(codes.Code.ABSENT)
ENOMEM, EFAULT, ENODEV = int(codes.Code.ENOMEM), int(codes.Code.EFAULT), int(codes.Code.ENODEV)
ENOSPC, EEMPTY, EFROZEN = int(codes.Code.ENOSPC), int(codes.Code.EEMPTY), int(codes.Code.EFROZEN)
TARGET, NEED_SLAB = int(codes.Code.TARGET), int(codes.Code.NEED_SLAB)
EVICTED = 2  # between the kernels only


@kernel
def insert(s, client, pool, object_cell, oid0, oid1, oid2, index, data, may_ask):
    """Put of a new page."""
    p = POOLS + pool * POOL_WORDS
    c = CLIENTS + s[p + P_OWNER] * CLIENT_WORDS
    if s[c + C_IS_FROZEN]:
        return EFROZEN
    if s[c + C_MM_TARGET] >= 0 and s[c + C_USED_PAGES] >= s[c + C_MM_TARGET]:
        return TARGET
    persistent = s[p + P_IS_PERSISTENT]
    if persistent and s[c + C_QUOTA] >= 0 and s[c + C_PERSISTENT_PAGES] >= s[c + C_QUOTA]:
        return ENOMEM
    if s[H_FREE_FRAMES] == 0 and (data == 0 or not is_zero(data)):
        if may_ask:
            return NEED_SLAB
        if not make_room(s, client, 1):
            return ENOMEM
        object_cell = find_object(s, pool, oid0, oid1, oid2)
    if data == 0:
        # The copy fails after the frame was taken: it goes to tmem's free list, not to the heap.
        s[H_HEAP_FREE] = min(s[H_HEAP_FREE], s[H_FREE_FRAMES] - 1)
        return EFAULT
    # Every turn evicts a page, so this ends. An eviction may take the object's last page.
    while s[H_FREE_CELLS] < 2 - (object_cell != 0):
        if not evict(s, client, EVICT_ZERO) and not evict(s, client, EVICT_STORED):
            return ENOMEM
        object_cell = find_object(s, pool, oid0, oid1, oid2)
    if object_cell == 0:
        object_cell = new_object(s, pool, oid0, oid1, oid2)
    add_page(s, pool, object_cell, index, data)
    set_last_client(s, object_cell, client)
    return DONE


@kernel
def replace(s, client, pool, page, oid0, oid1, oid2, index, data, may_ask):
    """Duplicate put: new data in the old place, or neither. A page that gains or loses its storage
    goes to the tail of the other eviction order, the one case where the place changes. EVICTED
    when the page itself had to make room: a new page is put then."""
    p = POOLS + pool * POOL_WORDS
    c = CLIENTS + s[p + P_OWNER] * CLIENT_WORDS
    over = s[p + P_IS_PERSISTENT] and s[c + C_QUOTA] >= 0
    if s[c + C_IS_MIGRATING] or (over and s[c + C_PERSISTENT_PAGES] > s[c + C_QUOTA]):
        drop_and_log(s, page)
        return ENOSPC
    if data == 0:
        drop_and_log(s, page)
        return EFAULT
    zero = is_zero(data)
    if not zero and is_own(s, page) and not s[H_SAME_BUCKETS]:
        write_frame(s, field(s, page, CELL_STORE), data)
    else:
        if not zero and s[H_FREE_FRAMES] == 0 and not is_own(s, page):
            if may_ask:
                return NEED_SLAB
            if not make_room(s, client, 1):
                drop_page(s, page)
                return ENOSPC
            if find_page(s, pool, oid0, oid1, oid2, index) != page:
                return EVICTED
        moves = zero != (field(s, page, CELL_STORE) == NO_FRAME)
        if moves:
            dequeue(s, pool, page)
        discard(s, pool, page)
        store(s, pool, page, data)
        if moves:
            enqueue(s, pool, page)
    s[H_REWRITTEN] = 1
    set_last_client(s, field(s, page, CELL_OWNER), client)
    return DONE


@kernel
def count_put(s, client, pool, code, replaced):
    """Count a put that was past the reserve."""
    p, c = POOLS + pool * POOL_WORDS, CLIENTS + client * CLIENT_WORDS
    s[p + P_PUTS] += 1
    s[c + C_PUTS] += 1
    if code == DONE:
        s[p + P_PUTS_GOOD] += 1
        s[p + P_PUTS_REPLACED] += replaced
        s[c + C_PUTS_SUCC] += 1
        s[c + C_PERSISTENT_PUTS_SUCC] += s[p + P_IS_PERSISTENT]
        return
    s[p + P_PUTS_DROPPED] += replaced
    s[p + P_PUTS_FAILED] += not replaced
    s[c + C_PUTS_FAILED_NOSPC] += code == ENOSPC
    s[c + C_PUTS_FAILED_NOMEM] += code == ENOMEM
    s[c + C_PUTS_FAILED_TARGET] += code == TARGET
    s[c + C_PUTS_FAILED_FROZEN] += code == EFROZEN
    s[c + C_PUTS_FAILED_FAULT] += code == EFAULT
    s[H_FAILED_COPIES] += code == EFAULT


@kernel
def put_page(s, client, slot, oid0, oid1, oid2, index, data, may_ask):
    """PUT. ``may_ask``: answer NEED_SLAB, with nothing changed, rather than evict for a frame."""
    pool = pool_of(s, client, slot)
    if pool < 0:
        return ENODEV
    code = put_into(s, client, pool, oid0, oid1, oid2, index, data, may_ask)
    if s[H_NOTE] and code != NEED_SLAB:
        kind = NOTE_STORED if code == DONE else NOTE_REFUSED
        note(s, kind, client, pool, oid0, oid1, oid2, index)
    return code


@kernel
def put_into(s, client, pool, oid0, oid1, oid2, index, data, may_ask):
    """PUT into a valid pool."""
    if s[H_FREE_FRAMES] < s[H_RESERVE_PAGES]:
        if may_ask:
            return NEED_SLAB
        if not make_room(s, client, s[H_RESERVE_PAGES]):
            s[CLIENTS + client * CLIENT_WORDS + C_PUTS] += 1
            s[CLIENTS + client * CLIENT_WORDS + C_PUTS_FAILED_NOMEM] += 1
            return ENOMEM
    page = find_page(s, pool, oid0, oid1, oid2, index)
    code = EVICTED
    if page != 0:
        code = replace(s, client, pool, page, oid0, oid1, oid2, index, data, may_ask)
    if code == EVICTED:
        page = 0
        object_cell = find_object(s, pool, oid0, oid1, oid2)
        code = insert(s, client, pool, object_cell, oid0, oid1, oid2, index, data, may_ask)
    if code != NEED_SLAB:
        count_put(s, client, pool, code, page != 0)
    return code


@kernel
def get_page(s, client, slot, oid0, oid1, oid2, index, data):
    """GET. A miss or a fault leaves the guest's page, and ours, as they were."""
    pool = pool_of(s, client, slot)
    if pool < 0:
        return ENODEV
    p, c = POOLS + pool * POOL_WORDS, CLIENTS + client * CLIENT_WORDS
    if s[H_NOTE]:
        kind = NOTE_GET if s[p + P_IS_PERSISTENT] or s[p + P_IS_SHARED] else NOTE_TAKE
        note(s, kind, client, pool, oid0, oid1, oid2, index)
    if s[p + P_PAGES] == 0:
        return EEMPTY
    s[p + P_GETS] += 1
    s[c + C_GETS] += 1
    page = find_page(s, pool, oid0, oid1, oid2, index)
    if page == 0:
        return ABSENT
    if data == 0:
        s[H_FAILED_COPIES] += 1
        return EFAULT
    load(s, page, data)
    s[p + P_GETS_HIT] += 1
    s[c + C_GETS_HIT] += 1
    if s[p + P_IS_PERSISTENT]:
        s[c + C_PERSISTENT_GETS_HIT] += 1
        return DONE
    s[c + C_EPHEMERAL_GETS_HIT] += 1
    if s[p + P_IS_SHARED]:
        dequeue(s, pool, page)
        enqueue(s, pool, page)
        set_last_client(s, field(s, page, CELL_OWNER), client)
    else:
        drop_page(s, page)
    return DONE


@kernel
def peek_page(s, client, slot, oid0, oid1, oid2, index, data):
    """Read a page and change nothing, not even a counter."""
    pool = pool_of(s, client, slot)
    if pool < 0:
        return ENODEV
    page = find_page(s, pool, oid0, oid1, oid2, index)
    if page == 0:
        return ABSENT
    load(s, page, data)
    return DONE


@kernel
def flushed(s, pool):
    """What a flush answers once it is done."""
    owner = s[POOLS + pool * POOL_WORDS + P_OWNER]
    return EFROZEN if s[CLIENTS + owner * CLIENT_WORDS + C_IS_FROZEN] else DONE


@kernel
def flush_page(s, client, pool, oid0, oid1, oid2, index):
    """FLUSH_PAGE of a valid pool."""
    p = POOLS + pool * POOL_WORDS
    s[p + P_PAGE_FLUSHES] += 1
    s[CLIENTS + client * CLIENT_WORDS + C_FLUSHES] += 1
    if s[H_NOTE]:
        note(s, NOTE_FLUSH, client, pool, oid0, oid1, oid2, index)
    page = find_page(s, pool, oid0, oid1, oid2, index)
    if page != 0:
        drop_and_log(s, page)
        s[p + P_PAGE_FLUSHES_HIT] += 1
    return flushed(s, pool)


@kernel
def flush_object(s, client, pool, oid0, oid1, oid2):
    """FLUSH_OBJECT of a valid pool: every page of one object."""
    p = POOLS + pool * POOL_WORDS
    s[p + P_OBJECT_FLUSHES] += 1
    s[CLIENTS + client * CLIENT_WORDS + C_FLUSHES] += 1
    if s[H_NOTE]:
        note(s, NOTE_FLUSH_OBJECT, client, pool, oid0, oid1, oid2, 0)
    object_cell = find_object(s, pool, oid0, oid1, oid2)
    if object_cell != 0:
        s[p + P_OBJECT_FLUSHES_HIT] += 1
        page, last = field(s, object_cell, CELL_MATES), field(s, object_cell, CELL_MATES + 1)
        while page != last:
            after = field(s, page, CELL_MATES)
            drop_and_log(s, page)
            page = after
        drop_and_log(s, last)
    return flushed(s, pool)
