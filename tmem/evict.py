"""Memory coming and going: eviction, the reserve, the host taking pages or whole areas back.

Owns: who is evicted. Ephemeral pages go in put order; a client above its share of the weights
evicts its own pages first. Every try counts, as in Xen. Used by the kernels and by ``tmem.serve``.
"""

from __future__ import annotations

from tmem.index import client_anchor, object_of
from tmem.kept import barrier
from tmem.layout import AREA_PAGES, EVICT_STORED, FRAME_FREE
from tmem.pages import dequeue, drop_page, enqueue
from tmem.raw_memory import copy_page, kernel
from tmem.slab import close_area, emptiest_area, frame_address, take_frame
from tmem.store import move, spare

EVICTION_TRIES = 10  # failed evictions before a put gives up, as in Xen
RELINQUISH_EVICTIONS = 10  # evictions before the host gives up asking for one page, as in Xen
NOBODY = -1  # instead of a client: the host itself evicts


@kernel
def is_above_share(state, client):
    """Whether a client has a larger part of the ephemeral pages than of the weights, in Xen's
    whole percents."""
    if client == NOBODY:
        return False
    its = state.clients[client]
    if its.weight == 0 or its.ephemeral_pages == 0:
        return False
    pages_ratio = state.ephemeral_pages * 100 // its.ephemeral_pages
    return pages_ratio < state.total_weight * 100 // its.weight


@kernel
def evict(state, client, order):
    """Drop one ephemeral page for ``client``; whether there was one. ``order`` is EVICT_STORED or
    EVICT_ZERO. A client above its share loses a page of its own, if it has one of that order."""
    state.evict_attempts += 1
    links, anchor = state.cells.page.eviction, order
    if links[order].next == order:
        return False
    if is_above_share(state, client):
        of_client = state.cells.page.of_client
        own = client_anchor(client, order - EVICT_STORED)
        if of_client[own].next != own:
            links, anchor = of_client, own
    page = links[anchor].next
    while spare(state, page):  # each page at most once
        pool = object_of(state, page).pool
        dequeue(state, pool, page)
        enqueue(state, pool, page)
        page = links[anchor].next
    owner = state.pools[object_of(state, page).pool].owner
    state.clients[owner].evicted += 1
    state.evicted += 1
    drop_page(state, page)
    return True


@kernel
def make_room(state, client, frames):
    """Evict until so many frames are free; False when that cannot be."""
    failed = 0
    while state.free_frames < frames:
        if not evict(state, client, EVICT_STORED):
            failed += 1
            if failed == EVICTION_TRIES:
                return False
    return True


@kernel
def own_free(state):
    """Frames on tmem's own free list, which the host's heap does not have."""
    return state.free_frames - state.heap_free


@kernel
def relinquish(state, order):
    """The host's heap wants 2^order pages: 1 when it got its page, else 0; one page only."""
    if own_free(state) == 0 and state.ephemeral_pages == 0:
        return 0
    state.relinquish_attempts += 1
    if order > 0:
        return 0
    evictions = 0
    while own_free(state) == 0 and evictions < RELINQUISH_EVICTIONS:
        if not evict(state, NOBODY, EVICT_STORED):
            break
        evictions += 1
    state.relinquish_evictions_max = max(state.relinquish_evictions_max, evictions)
    if own_free(state) == 0:
        return 0
    state.heap_free += 1
    state.relinquished += 1
    return 1


@kernel
def flush_to_host(state, wanted):
    """Evict until tmem's own free list has ``wanted`` pages, if it can; then the host's heap gets
    the whole list: how many pages."""
    while own_free(state) < wanted:
        if not evict(state, NOBODY, EVICT_STORED):
            break
    pages = own_free(state)
    state.heap_free = state.free_frames
    return pages


@kernel
def shrink(state):
    """Give up one whole area: its number, or -1 when the pages that stay need it. Evicts in put
    order until an area's worth is free, then empties the area with the fewest pages."""
    if state.free_frames + state.ephemeral_stored < AREA_PAGES or emptiest_area(state) < 0:
        return -1
    while state.free_frames < AREA_PAGES:
        evict(state, NOBODY, EVICT_STORED)
    area = emptiest_area(state)
    close_area(state, area)
    for frame in range(area * AREA_PAGES, (area + 1) * AREA_PAGES):
        holder = state.frames[frame]
        if holder < FRAME_FREE:
            moved = take_frame(state, holder)
            copy_page(frame_address(state, moved), frame_address(state, frame))
            barrier()
            move(state, frame, moved, holder)
            state.relocated += 1
    return area
