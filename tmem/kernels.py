"""What put, get and flush do, on the state of a pool.

Owns: the semantics, which are Xen's (``xen/common/tmem.c``). The rules that are easily got wrong:

- A duplicate put (of a name that is there) keeps the page's place in the eviction order. It never
  fails and leaves the old data: the page is replaced or dropped.
- A get from a private ephemeral pool takes the page out; a get from a shared pool puts the page
  last in the eviction order.
- A flush succeeds whether or not the page was there.
- The reserve (``reserve_pages``) is looked at first of all, so a duplicate put may evict the very
  page it replaces.
- A new page is admitted by the limits of the pool's owner: its freeze, its ``mm_target``
  (SmarTmem), its quota of persistent pages. In a shared pool another client may put.

Words. ``state`` is the pool's ``layout.STATE``; ``pool``, ``owner`` and ``its_client`` are records
in it. ``client`` and ``slot`` are numbers as the guest gave them; ``pool_of`` turns both into the
number of a pool. ``name`` is a ``Name``: that number, oid and index. ``page`` and ``object_cell``
are numbers of cells, 0 for none. ``data`` is the host address of the guest's 4096 bytes, or 0 when
the guest's page faults. With ``may_ask``, a put that finds no free frame answers NEED_SLAB, and
nothing has changed; otherwise such a put evicts. Every argument but ``state`` may come from a
guest, so the kernels trust none of them.
"""

from __future__ import annotations

from tmem import codes, layout
from tmem.evict import evict, make_room
from tmem.index import Name, find_object, find_page, new_object, object_of
from tmem.invalidation_log import drop_and_log
from tmem.kept import keep, let_go
from tmem.pages import add_page, dequeue, drop_page, enqueue
from tmem.pools import pool_of
from tmem.raw_memory import address_of, call, kernel
from tmem.slab import write_frame
from tmem.store import discard, is_own, is_zero, load, store

# Enumerations are slow to compile; the kernels use their plain values.
DONE, ABSENT = int(codes.Code.DONE), int(codes.Code.ABSENT)
ENOMEM, EFAULT, ENODEV = int(codes.Code.ENOMEM), int(codes.Code.EFAULT), int(codes.Code.ENODEV)
ENOSPC, EEMPTY, EFROZEN = int(codes.Code.ENOSPC), int(codes.Code.EEMPTY), int(codes.Code.EFROZEN)
TARGET, NEED_SLAB = int(codes.Code.TARGET), int(codes.Code.NEED_SLAB)
EVICTED = 2  # answer of `replace` between the kernels only


@kernel
def note(state, kind, client, name):
    """Tell the miss-ratio estimator (``tmem.shards``) of an operation, if curves are wanted."""
    if state.note:
        oid = name.oid
        call(
            state.note,
            (address_of(state), kind, client, name.pool, oid[0], oid[1], oid[2], name.index),
        )


# Put


@kernel
def put_page(state, client, slot, oid, index, data, may_ask):
    """PUT."""
    number = pool_of(state, client, slot)
    if number < 0:
        return ENODEV
    name = Name(number, oid, index)
    code = put_into(state, client, name, data, may_ask)
    if code != NEED_SLAB:
        note(state, layout.NOTE_STORED if code == DONE else layout.NOTE_REFUSED, client, name)
    return code


@kernel
def put_into(state, client, name, data, may_ask):
    """PUT into a pool that exists."""
    if state.free_frames < state.reserve_pages:
        if may_ask:
            return NEED_SLAB
        if not make_room(state, client, state.reserve_pages):
            state.clients[client].puts += 1
            state.clients[client].puts_failed_nomem += 1
            return ENOMEM
    page = find_page(state, name)
    code = EVICTED
    if page != 0:
        code = replace(state, client, name, page, data, may_ask)
    if code == EVICTED:
        page = 0
        code = insert(state, client, name, data, may_ask)
    if code != NEED_SLAB:
        count_put(state, client, name, code, page != 0)
    return code


@kernel
def insert(state, client, name, data, may_ask):
    """Put of a new page."""
    pool = state.pools[name.pool]
    owner = state.clients[pool.owner]
    if owner.is_frozen:
        return EFROZEN
    if owner.mm_target >= 0 and owner.used_pages >= owner.mm_target:
        return TARGET
    if pool.is_persistent and owner.quota >= 0 and owner.persistent_pages >= owner.quota:
        return ENOMEM
    if state.free_frames == 0 and (data == 0 or not is_zero(data)):
        if may_ask:
            return NEED_SLAB
        if not make_room(state, client, 1):
            return ENOMEM
    if data == 0:
        # The copy fails after the frame was taken. The frame goes to the free list, not the heap.
        state.heap_free = min(state.heap_free, state.free_frames - 1)
        return EFAULT
    object_cell = find_object(state, name.pool, name.oid)
    # Every turn evicts a page, so this ends. An eviction may take the object's last page.
    while state.free_cells < 2 - (object_cell != 0):
        evicted = evict(state, client, layout.EVICT_ZERO)
        if not evicted and not evict(state, client, layout.EVICT_STORED):
            return ENOMEM
        object_cell = find_object(state, name.pool, name.oid)
    if object_cell == 0:
        object_cell = new_object(state, name.pool, name.oid)
    add_page(state, name, object_cell, data)
    state.cells.object[object_cell].user = client
    return DONE


@kernel
def replace(state, client, name, page, data, may_ask):
    """Duplicate put: new data in the old place, or neither. A page that gains or loses its storage
    goes to the tail of the other eviction order, the one case where the place changes. EVICTED
    when the page itself had to make room: a new page is put then."""
    pool = state.pools[name.pool]
    owner = state.clients[pool.owner]
    limited = pool.is_persistent and owner.quota >= 0
    if owner.is_migrating or (limited and owner.persistent_pages > owner.quota):
        drop_and_log(state, page)
        return ENOSPC
    if data == 0:
        drop_and_log(state, page)
        return EFAULT
    it, zero = state.cells.page[page], is_zero(data)
    if not zero and is_own(state, page) and not state.dedup:
        write_frame(state, it.store, data)
    else:
        if not zero and state.free_frames == 0 and not is_own(state, page):
            if may_ask:
                return NEED_SLAB
            if not make_room(state, client, 1):
                drop_page(state, page)
                return ENOSPC
            if find_page(state, name) != page:
                return EVICTED
        moves = zero != (it.store == layout.NO_FRAME)
        if moves:
            dequeue(state, name.pool, page)
        let_go(state, name.pool, page)
        discard(state, name.pool, page)
        store(state, name.pool, page, data)
        keep(state, name.pool, page)
        if moves:
            enqueue(state, name.pool, page)
    state.rewritten = 1
    object_of(state, page).user = client
    return DONE


@kernel
def count_put(state, client, name, code, replaced):
    """Count a put that was past the reserve; ``replaced`` is whether its name was there."""
    pool, its_client = state.pools[name.pool], state.clients[client]
    pool.puts += 1
    its_client.puts += 1
    if code == DONE:
        pool.puts_good += 1
        pool.puts_replaced += replaced
        its_client.puts_succ += 1
        its_client.persistent_puts_succ += pool.is_persistent
        return
    pool.puts_dropped += replaced
    pool.puts_failed += not replaced
    its_client.puts_failed_nospc += code == ENOSPC
    its_client.puts_failed_nomem += code == ENOMEM
    its_client.puts_failed_target += code == TARGET
    its_client.puts_failed_frozen += code == EFROZEN
    its_client.puts_failed_fault += code == EFAULT
    state.failed_copies += code == EFAULT


# Get


@kernel
def get_page(state, client, slot, oid, index, data):
    """GET. A miss or a fault leaves the guest's page, and ours, as they were."""
    number = pool_of(state, client, slot)
    if number < 0:
        return ENODEV
    name = Name(number, oid, index)
    pool, its_client = state.pools[number], state.clients[client]
    stays = pool.is_persistent or pool.is_shared
    note(state, layout.NOTE_GET if stays else layout.NOTE_TAKE, client, name)
    if pool.pages == 0:
        return EEMPTY
    pool.gets += 1
    its_client.gets += 1
    page = find_page(state, name)
    if page == 0:
        return ABSENT
    if data == 0:
        state.failed_copies += 1
        return EFAULT
    load(state, page, data)
    pool.gets_hit += 1
    its_client.gets_hit += 1
    if pool.is_persistent:
        its_client.persistent_gets_hit += 1
        return DONE
    its_client.ephemeral_gets_hit += 1
    if pool.is_shared:
        dequeue(state, number, page)
        enqueue(state, number, page)
        object_of(state, page).user = client
    else:
        drop_page(state, page)
    return DONE


@kernel
def peek_page(state, client, slot, oid, index, data):
    """Read a page and change nothing, not even a counter."""
    number = pool_of(state, client, slot)
    if number < 0:
        return ENODEV
    page = find_page(state, Name(number, oid, index))
    if page == 0:
        return ABSENT
    load(state, page, data)
    return DONE


# Flush


@kernel
def flushed(state, pool):
    """The answer of a flush that was carried out."""
    return EFROZEN if state.clients[pool.owner].is_frozen else DONE


@kernel
def flush_page(state, client, name):
    """FLUSH_PAGE of a pool that exists."""
    pool = state.pools[name.pool]
    pool.page_flushes += 1
    state.clients[client].flushes += 1
    note(state, layout.NOTE_FLUSH, client, name)
    page = find_page(state, name)
    if page != 0:
        drop_and_log(state, page)
        pool.page_flushes_hit += 1
    return flushed(state, pool)


@kernel
def flush_object(state, client, name):
    """FLUSH_OBJECT of a pool that exists: every page of one object; the index is not looked at."""
    pool = state.pools[name.pool]
    pool.object_flushes += 1
    state.clients[client].flushes += 1
    note(state, layout.NOTE_FLUSH_OBJECT, client, name)
    object_cell = find_object(state, name.pool, name.oid)
    if object_cell != 0:
        pool.object_flushes_hit += 1
        mates = state.cells.page.mates
        page, last = mates[object_cell].next, mates[object_cell].previous
        while page != last:
            after = mates[page].next
            drop_and_log(state, page)
            page = after
        drop_and_log(state, last)
    return flushed(state, pool)
