"""Clients, pools and slots: made, joined, left, destroyed.

Owns: which pool a slot leads to. A private pool belongs to one slot and has its number. A shared
pool is led to by any slots of any clients; its owner is the sharer that joined first of those that
are left, and all the pool's pages are counted to the owner. Used by ``tmem.kernels`` and
``tmem.serve``.
"""

from __future__ import annotations

from tmem import codes, layout
from tmem.index import client_anchor, insert_first, object_of, unlink
from tmem.invalidation_log import drop_and_log, forget_gone
from tmem.kept import barrier
from tmem.raw_memory import clear_record, kernel

DONE, ABSENT = int(codes.Code.DONE), int(codes.Code.ABSENT)
EPERM, EEXIST, ENODEV = int(codes.Code.EPERM), int(codes.Code.EEXIST), int(codes.Code.ENODEV)

FLAG_PERSISTENT, FLAG_SHARED, FLAG_PRECOMPRESSED = 1, 2, 4
FLAGS_MUST_BE_ZERO = 0xFFFFF0 | FLAG_PRECOMPRESSED  # and page size bits, reserved bits
FLAGS_VERSION_SHIFT = 24
SPEC_VERSION = 1
NO_UUID = -1  # all ones
ANYBODY = -1


@kernel
def is_open(state, client):
    """Whether this is the number of an open client."""
    return 0 <= client < layout.MAX_CLIENTS and state.clients[client].is_open != 0


@kernel
def pool_of(state, client, slot):
    """The pool a slot of a client leads to, or -1."""
    if client < 0 or client >= layout.MAX_CLIENTS or slot < 0 or slot >= layout.POOLS_PER_CLIENT:
        return -1
    return state.clients[client].slots[slot].pool - 1


@kernel
def may_share(state, client, uuid_lo, uuid_hi):
    """Whether a client is authorised to share pools of this uuid."""
    if uuid_lo == NO_UUID and uuid_hi == NO_UUID:
        return False
    uuids = state.clients[client].uuids
    for place in range(layout.AUTHORISATIONS):
        if uuids[place].low == uuid_lo and uuids[place].high == uuid_hi:
            return True
    return False


@kernel
def shared_pool(state, uuid_lo, uuid_hi):
    """The shared pool of this uuid, or the place for it; -1 when all places are taken."""
    place = -1
    for number in range(layout.SLOT_COUNT + layout.SHARED_POOLS - 1, layout.SLOT_COUNT - 1, -1):
        pool = state.pools[number]
        if not pool.is_open:
            place = number
        elif pool.uuid_lo == uuid_lo and pool.uuid_hi == uuid_hi:
            return number
    return place


@kernel
def slot_made_by(state, client, seq):
    """The slot of the pool that a client made with record number ``seq``, or -1."""
    if is_open(state, client):
        for slot in range(layout.POOLS_PER_CLIENT):
            leads = state.clients[client].slots[slot]
            if leads.pool != 0 and leads.seq == seq:
                return slot
    return -1


@kernel
def new_pool(state, client, flags, uuid_lo, uuid_hi, seq):
    """NEW_POOL: the lowest free slot. A shared pool for which the client is not authorised
    silently becomes a private one, as in Xen."""
    if not is_open(state, client):
        return ENODEV
    if flags < 0 or flags >> FLAGS_VERSION_SHIFT != SPEC_VERSION or flags & FLAGS_MUST_BE_ZERO:
        return EPERM
    if flags & FLAG_PERSISTENT and flags & FLAG_SHARED:
        return EPERM
    slot = 0
    while slot < layout.POOLS_PER_CLIENT and pool_of(state, client, slot) >= 0:
        slot += 1
    if slot == layout.POOLS_PER_CLIENT:
        return EPERM
    number = client * layout.POOLS_PER_CLIENT + slot
    shared = flags & FLAG_SHARED and may_share(state, client, uuid_lo, uuid_hi)
    if shared:
        number = shared_pool(state, uuid_lo, uuid_hi)
        if number < 0:
            return EPERM
    pool = state.pools[number]
    if not pool.is_open:
        clear_record(pool)
        pool.is_open = 1
        pool.is_persistent = flags & FLAG_PERSISTENT
        pool.is_shared = shared
        pool.dedup = state.dedup
        pool.owner = client
        pool.slot = slot
        pool.uuid_lo = uuid_lo
        pool.uuid_hi = uuid_hi
    pool.sharers += 1
    state.joined += 1
    leads = state.clients[client].slots[slot]
    leads.joined = state.joined
    leads.seq = seq
    barrier()
    leads.pool = number + 1
    return slot


@kernel
def drop_pages(state, number, used_by):
    """Drop the pages of a pool whose object was used last by a client, or by ANYBODY."""
    pool, links = state.pools[number], state.cells.page.of_client
    for kind in range(layout.ANCHOR_STORED, layout.ANCHOR_PERSISTENT + 1):
        anchor = client_anchor(pool.owner, kind)
        page = links[anchor].next
        while page != anchor and pool.pages != 0:
            after, its_object = links[page].next, object_of(state, page)
            if its_object.pool == number and (used_by == ANYBODY or its_object.user == used_by):
                drop_and_log(state, page)
            page = after


@kernel
def first_sharer(state, number):
    """The client and the slot that joined a pool before all others that lead to it."""
    first_client, first_slot, first_joined = -1, -1, -1
    for client in range(layout.MAX_CLIENTS):
        for slot in range(layout.POOLS_PER_CLIENT):
            leads = state.clients[client].slots[slot]
            if leads.pool == number + 1 and (first_client < 0 or leads.joined < first_joined):
                first_client, first_slot, first_joined = client, slot, leads.joined
    return first_client, first_slot


@kernel
def change_owner(state, number):
    """Give a pool that its owner's slot has left to the sharer that joined first. Its pages, and
    no others, go to the head of that client's list, as old as they are."""
    pool, links = state.pools[number], state.cells.page.of_client
    old = pool.owner
    new, pool.slot = first_sharer(state, number)
    pool.owner = new
    if new == old:
        return
    for kind in range(layout.ANCHOR_STORED, layout.ANCHOR_PERSISTENT):
        anchor, target = client_anchor(old, kind), client_anchor(new, kind)
        page = links[anchor].previous
        while page != anchor:
            before = links[page].previous
            if object_of(state, page).pool == number:
                unlink(links, page)
                insert_first(links, target, page)
            page = before
    giver, taker = state.clients[old], state.clients[new]
    giver.ephemeral_pages -= pool.pages
    giver.used_pages -= pool.pages
    taker.ephemeral_pages += pool.pages
    taker.used_pages += pool.pages
    taker.ephemeral_pages_max = max(taker.ephemeral_pages_max, taker.ephemeral_pages)


@kernel
def destroy_pool(state, client, slot):
    """DESTROY_POOL: DONE, or ABSENT when there is no such pool. A shared pool loses what the
    leaving client used last; the others keep the rest."""
    number = pool_of(state, client, slot)
    if number < 0:
        return ABSENT
    pool = state.pools[number]
    state.clients[client].slots[slot].pool = 0
    pool.sharers -= 1
    if pool.sharers == 0:
        drop_pages(state, number, ANYBODY)
        pool.is_open = 0
        return DONE
    drop_pages(state, number, client)
    if pool.owner == client and pool.slot == slot:
        change_owner(state, number)
    return DONE


@kernel
def open_client(state, client):
    """Make a client without pools or limit: 0; EEXIST when it is open, EPERM for a bad number."""
    if client < 0 or client >= layout.MAX_CLIENTS:
        return EPERM
    if is_open(state, client):
        return EEXIST
    its = state.clients[client]
    clear_record(its)
    its.mm_target = -1
    its.quota = -1
    its.cold = client_anchor(client, layout.ANCHOR_PERSISTENT)
    for place in range(layout.AUTHORISATIONS):
        its.uuids[place].low = NO_UUID
        its.uuids[place].high = NO_UUID
    barrier()
    its.is_open = 1
    return 0


@kernel
def close_client(state, client):
    """Forget a client with all it has: the pages freed, or ENODEV. Its counters stay readable."""
    if not is_open(state, client):
        return ENODEV
    its, before = state.clients[client], state.pages
    for slot in range(layout.POOLS_PER_CLIENT):
        destroy_pool(state, client, slot)
    forget_gone(state, client)
    state.total_weight -= its.weight
    its.weight = 0
    its.is_open = 0
    return before - state.pages
