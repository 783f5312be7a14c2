"""Memory coming and going: eviction, the reserve, the host taking pages or whole areas back.

Owns: who is evicted. Ephemeral pages go in put order; a client above its share of the weights
evicts its own pages first. Every try counts, as in Xen. Used by the kernels and by ``tmem.serve``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import int64

from tmem.index import pool_of_page
from tmem.layout import (
    AREA_PAGES,
    C_EPHEMERAL_PAGES,
    C_EVICTED,
    C_WEIGHT,
    CELL_EVICTION,
    CELL_OF_CLIENT,
    CLIENT_WORDS,
    CLIENTS,
    EVICT_STORED,
    FRAME_FREE,
    H_EPHEMERAL_PAGES,
    H_EPHEMERAL_STORED,
    H_EVICT_ATTEMPTS,
    H_EVICTED,
    H_FRAMES,
    H_FREE_FRAMES,
    H_HEAP_FREE,
    H_RELINQUISH_ATTEMPTS,
    H_RELINQUISH_EVICTIONS_MAX,
    H_RELINQUISHED,
    H_RELOCATED,
    H_TOTAL_WEIGHT,
    P_OWNER,
    POOL_WORDS,
    POOLS,
)
from tmem.pages import client_anchor, dequeue, drop_page, enqueue
from tmem.raw_memory import cells_at, copy_page, field, kernel
from tmem.slab import close_area, emptiest_area, frame_address, take_frame
from tmem.store import move, spare

EVICTION_TRIES = 10  # failed evictions before a put gives up, as in Xen
RELINQUISH_EVICTIONS = 10  # evictions before the host gives up asking for one page, as in Xen
NOBODY = -1  # the host itself evicts


@kernel
def is_above_share(s, client):
    """Whether a client has a larger part of the ephemeral pages than of the weights, in Xen's
    whole percents."""
    if client == NOBODY:
        return False
    c = CLIENTS + client * CLIENT_WORDS
    own, weight = s[c + C_EPHEMERAL_PAGES], s[c + C_WEIGHT]
    if weight == 0 or own == 0:
        return False
    return s[H_EPHEMERAL_PAGES] * 100 // own < s[H_TOTAL_WEIGHT] * 100 // weight


@kernel
def evict(s, client, order):
    """Drop one ephemeral page for ``client``; whether there was one. ``order`` is EVICT_STORED or
    EVICT_ZERO. No page of another client goes for one above its share that has pages itself."""
    s[H_EVICT_ATTEMPTS] += 1
    if field(s, order, CELL_EVICTION) == order:
        return False
    anchor, links = order, CELL_EVICTION
    if is_above_share(s, client):
        own = client_anchor(client, order - EVICT_STORED)
        if field(s, own, CELL_OF_CLIENT) != own:
            anchor, links = own, CELL_OF_CLIENT
    page = field(s, anchor, links)
    while spare(s, page):  # each page at most once
        pool = pool_of_page(s, page)
        dequeue(s, pool, page)
        enqueue(s, pool, page)
        page = field(s, anchor, links)
    owner = s[POOLS + pool_of_page(s, page) * POOL_WORDS + P_OWNER]
    s[CLIENTS + owner * CLIENT_WORDS + C_EVICTED] += 1
    s[H_EVICTED] += 1
    drop_page(s, page)
    return True


@kernel
def make_room(s, client, frames):
    """Evict until so many frames are free; False when that cannot be."""
    failed = 0
    while s[H_FREE_FRAMES] < frames:
        if not evict(s, client, EVICT_STORED):
            failed += 1
            if failed == EVICTION_TRIES:
                return False
    return True


@kernel
def relinquish(s, order):
    """The host's heap wants 2^order pages: 1 when it got its page, else 0; one page only."""
    if s[H_FREE_FRAMES] == s[H_HEAP_FREE] and s[H_EPHEMERAL_PAGES] == 0:
        return 0
    s[H_RELINQUISH_ATTEMPTS] += 1
    if order > 0:
        return 0
    evictions = 0
    while s[H_FREE_FRAMES] == s[H_HEAP_FREE] and evictions < RELINQUISH_EVICTIONS:
        if not evict(s, NOBODY, EVICT_STORED):
            break
        evictions += 1
    s[H_RELINQUISH_EVICTIONS_MAX] = max(s[H_RELINQUISH_EVICTIONS_MAX], evictions)
    if s[H_FREE_FRAMES] == s[H_HEAP_FREE]:
        return 0
    s[H_HEAP_FREE] += 1
    s[H_RELINQUISHED] += 1
    return 1


@kernel
def flush_to_host(s, wanted):
    """Evict until tmem's free list has ``wanted`` pages, if it can; all of it goes to the heap:
    how many pages that were."""
    while s[H_FREE_FRAMES] - s[H_HEAP_FREE] < wanted:
        if not evict(s, NOBODY, EVICT_STORED):
            break
    pages = s[H_FREE_FRAMES] - s[H_HEAP_FREE]
    s[H_HEAP_FREE] = s[H_FREE_FRAMES]
    return pages


@kernel
def shrink(s):
    """Give up one whole area: its number, or -1 when the pages that stay need it. Evicts in put
    order until an area's worth is free, then empties the area with the fewest pages."""
    if s[H_FREE_FRAMES] + s[H_EPHEMERAL_STORED] < AREA_PAGES or emptiest_area(s) < 0:
        return -1
    while s[H_FREE_FRAMES] < AREA_PAGES:
        evict(s, NOBODY, EVICT_STORED)
    area = emptiest_area(s)
    close_area(s, area)
    frames = cells_at(s[H_FRAMES])
    for frame in range(area * AREA_PAGES, (area + 1) * AREA_PAGES):
        holder = int64(frames[frame])
        if holder < FRAME_FREE:
            moved = take_frame(s, holder)
            copy_page(frame_address(s, moved), frame_address(s, frame))
            move(s, frame, moved, holder)
            s[H_RELOCATED] += 1
    return area
