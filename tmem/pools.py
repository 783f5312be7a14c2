"""Clients, pools and slots: made, joined, left, destroyed.

Owns: which pool a slot leads to. A private pool belongs to one slot and has its number. A shared
pool is led to by any slots of any clients; the owner is the first of them that is left, and all the
pool's pages are counted to it. Used by ``tmem.kernels`` and ``tmem.serve``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from tmem import codes
from tmem.index import insert_first, last_client, pool_of_page, unlink
from tmem.invalidation_log import drop_and_log, forget_gone
from tmem.layout import (
    ANCHOR_PERSISTENT,
    ANCHOR_STORED,
    AUTHORISATIONS,
    C_COLD,
    C_EPHEMERAL_PAGES,
    C_EPHEMERAL_PAGES_MAX,
    C_IS_OPEN,
    C_MM_TARGET,
    C_QUOTA,
    C_USED_PAGES,
    C_WEIGHT,
    CELL_OF_CLIENT,
    CELL_OWNER,
    CLIENT_WORDS,
    CLIENTS,
    H_JOINED,
    H_PAGES,
    H_SAME_BUCKETS,
    H_TOTAL_WEIGHT,
    MAX_CLIENTS,
    P_DEDUP,
    P_IS_OPEN,
    P_IS_PERSISTENT,
    P_IS_SHARED,
    P_OWNER,
    P_PAGES,
    P_SHARERS,
    P_SLOT,
    P_UUID_HI,
    P_UUID_LO,
    POOL_WORDS,
    POOLS,
    POOLS_PER_CLIENT,
    SHARED_POOLS,
    SLOT_COUNT,
    SLOT_JOINED,
    SLOT_POOL,
    SLOT_WORDS,
    SLOTS,
    UUID_WORDS,
    UUIDS,
)
from tmem.pages import client_anchor
from tmem.raw_memory import field, kernel

DONE, ABSENT = int(codes.Code.DONE), int(codes.Code.ABSENT)
EPERM, EEXIST, ENODEV = int(codes.Code.EPERM), int(codes.Code.EEXIST), int(codes.Code.ENODEV)

FLAG_PERSISTENT, FLAG_SHARED, FLAG_PRECOMPRESSED = 1, 2, 4
FLAGS_MUST_BE_ZERO = 0xFFFFF0 | FLAG_PRECOMPRESSED  # and page size bits, reserved bits
FLAGS_VERSION_SHIFT = 24
SPEC_VERSION = 1
NO_UUID = -1  # all ones: nobody's
ANYBODY = -1


@kernel
def is_open(s, client):
    """Whether this is the number of an open client."""
    return 0 <= client < MAX_CLIENTS and s[CLIENTS + client * CLIENT_WORDS + C_IS_OPEN] != 0


@kernel
def pool_of(s, client, slot):
    """The pool a slot of a client leads to, or -1."""
    if client < 0 or client >= MAX_CLIENTS or slot < 0 or slot >= POOLS_PER_CLIENT:
        return -1
    return s[SLOTS + (client * POOLS_PER_CLIENT + slot) * SLOT_WORDS + SLOT_POOL] - 1


@kernel
def may_share(s, client, uuid_lo, uuid_hi):
    """Whether a client is authorised to share pools of this uuid."""
    if uuid_lo == NO_UUID and uuid_hi == NO_UUID:
        return False
    u = UUIDS + client * UUID_WORDS
    for place in range(AUTHORISATIONS):
        if s[u + 2 * place] == uuid_lo and s[u + 2 * place + 1] == uuid_hi:
            return True
    return False


@kernel
def shared_pool(s, uuid_lo, uuid_hi):
    """The shared pool of this uuid, or the place for it; -1 when all places are taken."""
    place = -1
    for pool in range(SLOT_COUNT + SHARED_POOLS - 1, SLOT_COUNT - 1, -1):
        p = POOLS + pool * POOL_WORDS
        if not s[p + P_IS_OPEN]:
            place = pool
        elif s[p + P_UUID_LO] == uuid_lo and s[p + P_UUID_HI] == uuid_hi:
            return pool
    return place


@kernel
def new_pool(s, client, flags, uuid_lo, uuid_hi):
    """NEW_POOL: the lowest free slot. A shared pool for which the client is not authorised
    silently becomes a private one, as in Xen."""
    if not is_open(s, client):
        return ENODEV
    if flags < 0 or flags >> FLAGS_VERSION_SHIFT != SPEC_VERSION or flags & FLAGS_MUST_BE_ZERO:
        return EPERM
    if flags & FLAG_PERSISTENT and flags & FLAG_SHARED:
        return EPERM
    slot = 0
    while slot < POOLS_PER_CLIENT and pool_of(s, client, slot) >= 0:
        slot += 1
    if slot == POOLS_PER_CLIENT:
        return EPERM
    number = client * POOLS_PER_CLIENT + slot
    pool = number
    shared = flags & FLAG_SHARED and may_share(s, client, uuid_lo, uuid_hi)
    if shared:
        pool = shared_pool(s, uuid_lo, uuid_hi)
        if pool < 0:
            return EPERM
    p = POOLS + pool * POOL_WORDS
    if not s[p + P_IS_OPEN]:
        for word in range(POOL_WORDS):
            s[p + word] = 0
        s[p + P_IS_OPEN] = 1
        s[p + P_IS_PERSISTENT] = flags & FLAG_PERSISTENT
        s[p + P_IS_SHARED] = shared
        s[p + P_DEDUP] = s[H_SAME_BUCKETS] != 0
        s[p + P_OWNER] = client
        s[p + P_SLOT] = slot
        s[p + P_UUID_LO] = uuid_lo
        s[p + P_UUID_HI] = uuid_hi
    s[p + P_SHARERS] += 1
    s[H_JOINED] += 1
    s[SLOTS + number * SLOT_WORDS + SLOT_POOL] = pool + 1
    s[SLOTS + number * SLOT_WORDS + SLOT_JOINED] = s[H_JOINED]
    return slot


@kernel
def drop_pages(s, pool, used_by):
    """Drop the pages of a pool whose object was used last by a client, or by ANYBODY."""
    p = POOLS + pool * POOL_WORDS
    for kind in range(ANCHOR_STORED, ANCHOR_PERSISTENT + 1):
        anchor = client_anchor(s[p + P_OWNER], kind)
        page = field(s, anchor, CELL_OF_CLIENT)
        while page != anchor and s[p + P_PAGES] != 0:
            after = field(s, page, CELL_OF_CLIENT)
            if pool_of_page(s, page) == pool and (
                used_by == ANYBODY or last_client(s, field(s, page, CELL_OWNER)) == used_by
            ):
                drop_and_log(s, page)
            page = after


@kernel
def change_owner(s, pool):
    """Give a pool that its owner's slot has left to the sharer that joined first. Its pages, and
    no others, go to the head of that client's list, as old as they are."""
    p = POOLS + pool * POOL_WORDS
    old, first = s[p + P_OWNER], -1
    for number in range(SLOT_COUNT):
        at = SLOTS + number * SLOT_WORDS
        if s[at + SLOT_POOL] == pool + 1 and (
            first < 0 or s[at + SLOT_JOINED] < s[SLOTS + first * SLOT_WORDS + SLOT_JOINED]
        ):
            first = number
    new = first // POOLS_PER_CLIENT
    s[p + P_OWNER] = new
    s[p + P_SLOT] = first % POOLS_PER_CLIENT
    if new == old:
        return
    for kind in range(ANCHOR_STORED, ANCHOR_PERSISTENT):
        anchor, target = client_anchor(old, kind), client_anchor(new, kind)
        page = field(s, anchor, CELL_OF_CLIENT + 1)
        while page != anchor:
            before = field(s, page, CELL_OF_CLIENT + 1)
            if pool_of_page(s, page) == pool:
                unlink(s, page, CELL_OF_CLIENT)
                insert_first(s, target, page, CELL_OF_CLIENT)
            page = before
    a, b = CLIENTS + old * CLIENT_WORDS, CLIENTS + new * CLIENT_WORDS
    s[a + C_EPHEMERAL_PAGES] -= s[p + P_PAGES]
    s[a + C_USED_PAGES] -= s[p + P_PAGES]
    s[b + C_EPHEMERAL_PAGES] += s[p + P_PAGES]
    s[b + C_USED_PAGES] += s[p + P_PAGES]
    s[b + C_EPHEMERAL_PAGES_MAX] = max(s[b + C_EPHEMERAL_PAGES_MAX], s[b + C_EPHEMERAL_PAGES])


@kernel
def destroy_pool(s, client, slot):
    """DESTROY_POOL: DONE, or ABSENT when there is no such pool. A shared pool loses what the
    leaving client used last; the others keep the rest."""
    pool = pool_of(s, client, slot)
    if pool < 0:
        return ABSENT
    p = POOLS + pool * POOL_WORDS
    s[SLOTS + (client * POOLS_PER_CLIENT + slot) * SLOT_WORDS + SLOT_POOL] = 0
    s[p + P_SHARERS] -= 1
    if s[p + P_SHARERS] == 0:
        drop_pages(s, pool, ANYBODY)
        s[p + P_IS_OPEN] = 0
        return DONE
    drop_pages(s, pool, client)
    if s[p + P_OWNER] == client and s[p + P_SLOT] == slot:
        change_owner(s, pool)
    return DONE


@kernel
def open_client(s, client):
    """Make a client without pools or limit: 0; EEXIST when it is open, EPERM for a bad number."""
    if client < 0 or client >= MAX_CLIENTS:
        return EPERM
    if is_open(s, client):
        return EEXIST
    c = CLIENTS + client * CLIENT_WORDS
    for word in range(CLIENT_WORDS):
        s[c + word] = 0
    s[c + C_MM_TARGET] = -1
    s[c + C_QUOTA] = -1
    s[c + C_COLD] = client_anchor(client, ANCHOR_PERSISTENT)
    for word in range(UUID_WORDS):
        s[UUIDS + client * UUID_WORDS + word] = NO_UUID
    s[c + C_IS_OPEN] = 1
    return 0


@kernel
def close_client(s, client):
    """Forget a client with all it has: the pages freed, or ENODEV. Its counters stay readable."""
    if not is_open(s, client):
        return ENODEV
    c = CLIENTS + client * CLIENT_WORDS
    before = s[H_PAGES]
    for slot in range(POOLS_PER_CLIENT):
        destroy_pool(s, client, slot)
    forget_gone(s, client)
    s[H_TOTAL_WEIGHT] -= s[c + C_WEIGHT]
    s[c + C_WEIGHT] = 0
    s[c + C_IS_OPEN] = 0
    return before - s[H_PAGES]
