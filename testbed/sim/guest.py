"""The guest of the simulator, compiled: a resident LRU over the real tmem pool over a disk.

Owns: what a reference does. It is what ``frontend.manager`` does, step by step and in its order,
with virtual time: a page is never touched, resident, in frontswap or on disk; a page read from disk
keeps its place there until it is written; gets are exclusive; a store that is refused goes to disk
unless a clean copy is there; pages of the program's file go to cleancache. Where memory comes from
is ``testbed.sim.ledger``'s.

The pool is called through the addresses its C service uses: it is the same compiled code. A page
carries its name in its first word; a get that brings another one ends the run. Domains take turns:
the one whose clock is behind runs for SLICE_NS, so the order in which two of them meet in the pool
is off by a slice at most. Called by ``testbed.sim.host``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from __future__ import annotations

from typing import Any

from numba import int64, njit, uint32

from testbed.sim import layout as L
from testbed.sim.ledger import (
    AREA_FRAMES,
    NOBODY,
    call_5,
    grow_ram,
    grow_tmem,
    release,
    spare_areas,
)
from tmem.codes import Code
from tmem.compiled_cache import cached_kernels
from tmem.raw_memory import cells_at, kernel, words_at
from tmem.serve import FLUSH_PAGE, GET, NEED_SLAB, PUT

#: Virtual time a domain runs before the next one gets its turn.
SLICE_NS = 1_000_000
BALANCE_MASK = 1023  # references between two looks at the target, as frontend.manager
BATCH_PAGES = 64  # pages evicted between two returns of frames, RING_SLOTS
NO_MEMORY_EVICTIONS = 2  # pages evicted by a guest that gets no frame, as frontend.manager
DONE = int(Code.DONE)
FRONTSWAP, CLEANCACHE = 0, 1  # slots of a domain's pools, in the order they are made
DEVICE_OBJECTS = 16  # objects of a swap device, as frontend.frontswap
DOMAIN_SHIFT = 32  # of a domain's number in the name a page carries
LOW = L.PAGE_MASK


# What a page costs


@kernel
def wait_disk(w, d, cost_ns):
    """One transfer: after what the disk has to do already."""
    free = w[L.W_DISK_FREE_NS] if w[L.W_DISK_SHARED] else w[d + L.D_DISK_FREE_NS]
    end = max(free, w[d + L.D_CLOCK_NS]) + cost_ns
    w[d + L.D_CLOCK_NS] = end
    w[d + L.D_DISK_FREE_NS] = end
    w[L.W_DISK_FREE_NS] = max(end, w[L.W_DISK_FREE_NS])


@kernel
def name_of(d, page):
    """What the first word of a page holds, never 0."""
    return (d + 1) << DOMAIN_SHIFT | (page + 1)


@kernel
def ask(w, d, op, slot, page, data, may_ask):
    """One operation on the pool, by a record as the C service gets it."""
    record = words_at(w[L.W_RECORD])
    if slot == FRONTSWAP:
        oid, index = page % DEVICE_OBJECTS, page // DEVICE_OBJECTS
    else:
        oid, index = int64(0), page
    record[0], record[3], record[4] = op, slot | index << 32, oid
    client = (d - L.DOMAINS) // L.DOMAIN_WORDS
    state = w[L.W_TMEM_STATE]
    return call_5(w[L.W_EXECUTE], state, w[L.W_RECORD], data, client, may_ask)


@kernel
def put(w, d, slot, page):
    """Offer a page to the pool, which grows if it must and may."""
    w[d + L.D_PUTS] += 1
    w[d + L.D_CLOCK_NS] += w[L.W_TMEM_PUT_NS]
    words_at(w[L.W_PAGE_OUT])[0] = name_of(d, page)
    code = ask(w, d, PUT, slot, page, w[L.W_PAGE_OUT], int64(1))
    if code == NEED_SLAB:
        grow_tmem(w)
        code = ask(w, d, PUT, slot, page, w[L.W_PAGE_OUT], int64(0))
    return code == DONE


@kernel
def get(w, d, slot, page):
    """Take a page out of the pool; whether it was there."""
    w[d + L.D_CLOCK_NS] += w[L.W_TMEM_GET_NS]
    found = words_at(w[L.W_PAGE_IN])
    found[0] = 0
    if ask(w, d, GET, slot, page, w[L.W_PAGE_IN], int64(0)) != DONE:
        return False
    if found[0] != name_of(d, page):
        w[d + L.D_STATE] = L.WRONG_PAGE
    return True


# The LRU list


@kernel
def unlink(nodes, n):
    """Take a page out of the list."""
    after, before = nodes[n + L.NODE_NEXT], nodes[n + L.NODE_PREV]
    nodes[int64(before) * L.NODE_WORDS + L.NODE_NEXT] = after
    nodes[int64(after) * L.NODE_WORDS + L.NODE_PREV] = before


@kernel
def append(nodes, anchor, page):
    """Make a page the most recently used one."""
    n, a = page * L.NODE_WORDS, anchor * L.NODE_WORDS
    last = nodes[a + L.NODE_PREV]
    nodes[n + L.NODE_NEXT], nodes[n + L.NODE_PREV] = uint32(anchor), last
    nodes[int64(last) * L.NODE_WORDS + L.NODE_NEXT] = uint32(page)
    nodes[a + L.NODE_PREV] = uint32(page)


@kernel
def evict(w, d, page):
    """Offer a resident page to tmem, write it to disk if it must be; its frame is to spare."""
    nodes = cells_at(w[d + L.D_NODES])
    n = page * L.NODE_WORDS
    flags = int64(nodes[n + L.NODE_FLAGS])
    if flags & L.FILE:
        if w[d + L.D_HAS_CLEANCACHE]:
            put(w, d, CLEANCACHE, page)
    elif w[d + L.D_HAS_FRONTSWAP] and put(w, d, FRONTSWAP, page):
        flags = (flags & ~L.ON_DISK) | L.SWAPPED
        w[d + L.D_SWAPPED] += 1
    else:
        w[d + L.D_FAILED_PUTS] += w[d + L.D_HAS_FRONTSWAP]
        if not flags & L.ON_DISK:
            wait_disk(w, d, w[L.W_DISK_WRITE_NS])
            w[d + L.D_SWAP_OUTS] += 1
            flags |= L.ON_DISK
    nodes[n + L.NODE_FLAGS] = uint32(flags & ~L.RESIDENT)
    unlink(nodes, n)
    w[d + L.D_RESIDENT] -= 1
    w[d + L.D_SPARES] += 1


@kernel
def evict_oldest(w, d, count):
    """Evict the ``count`` least recently used pages, or all there are."""
    nodes, anchor = cells_at(w[d + L.D_NODES]), w[d + L.D_PAGES]
    for _ in range(count):
        oldest = int64(nodes[anchor * L.NODE_WORDS + L.NODE_NEXT])
        if oldest == anchor:
            return
        evict(w, d, oldest)


@kernel
def wanted_limit(w, d):
    """Pages that may be resident: what it boots with, and what its target is above that; below,
    all but the spare frame."""
    target = w[d + L.D_TARGET_AREAS] * AREA_FRAMES
    more = max(target - w[d + L.D_BOOT_FRAMES], 0)
    return max(min(w[d + L.D_RESIDENT_MAX] + more, target - 1), 1)


@kernel
def balance(w, d):
    """Follow the target: live within it, and give back the areas above it."""
    target = w[d + L.D_TARGET_AREAS]
    limit = wanted_limit(w, d)
    w[d + L.D_LIMIT] = limit
    while w[d + L.D_RESIDENT] > limit:
        evict_oldest(w, d, min(w[d + L.D_RESIDENT] - limit, BATCH_PAGES))
        w[d + L.D_SPARES] = min(w[d + L.D_SPARES], 1)
    excess = w[d + L.D_CURRENT_AREAS] - target
    if excess > 0:
        w[d + L.D_SPARES] = min(w[d + L.D_SPARES], 1)
        release(w, d, min(excess, spare_areas(w, d)))


@kernel
def free_frame(w, d):
    """A frame for the page to come; False when there is neither one nor a page to evict."""
    if w[d + L.D_SPARES] > 0:
        w[d + L.D_SPARES] -= 1
        return True
    if w[d + L.D_RESIDENT] < w[d + L.D_CURRENT_AREAS] * AREA_FRAMES or grow_ram(w, d):
        return True
    if w[d + L.D_RESIDENT] == 0:
        return False
    w[d + L.D_LIMIT] = max(w[d + L.D_RESIDENT] - 1, 1)
    evict_oldest(w, d, NO_MEMORY_EVICTIONS)
    w[d + L.D_SPARES] -= 1
    return True


@kernel
def load(w, d, page, flags):
    """Fill a frame with a page from where it is; its flags now."""
    if flags & L.FILE:
        if w[d + L.D_HAS_CLEANCACHE] and get(w, d, CLEANCACHE, page):
            w[d + L.D_TMEM_HITS] += 1
        else:
            wait_disk(w, d, w[L.W_DISK_READ_NS])
            w[d + L.D_FILE_READS] += 1
    elif flags & L.SWAPPED:
        if not get(w, d, FRONTSWAP, page):
            w[d + L.D_STATE] = L.WRONG_PAGE  # tmem may not lose it
        ask(w, d, FLUSH_PAGE, FRONTSWAP, page, int64(0), int64(0))
        w[d + L.D_TMEM_HITS] += 1
        w[d + L.D_SWAPPED] -= 1
    elif flags & L.ON_DISK:
        wait_disk(w, d, w[L.W_DISK_READ_NS])
        w[d + L.D_SWAP_INS] += 1
    else:
        w[d + L.D_CLOCK_NS] += w[L.W_FIRST_TOUCH_NS]
        w[d + L.D_FIRST_TOUCHES] += 1
    w[d + L.D_TOUCHED] += flags & L.TOUCHED == 0
    return (flags & ~L.SWAPPED) | L.TOUCHED | L.RESIDENT


@kernel
def fault(w, d, page):
    """A reference to a page that is not resident; False when there is no memory at all."""
    nodes, anchor = cells_at(w[d + L.D_NODES]), w[d + L.D_PAGES]
    n = page * L.NODE_WORDS
    begin, first_touches = w[d + L.D_CLOCK_NS], w[d + L.D_FIRST_TOUCHES]
    full = w[d + L.D_RESIDENT] >= w[d + L.D_LIMIT]
    w[d + L.D_FAULTS] += 1
    w[d + L.D_CLOCK_NS] += w[L.W_FAULT_NS]
    if not free_frame(w, d):
        return False
    victim = anchor
    if w[d + L.D_RESIDENT] >= w[d + L.D_LIMIT]:
        victim = int64(nodes[anchor * L.NODE_WORDS + L.NODE_NEXT])
    before = int64(nodes[n + L.NODE_FLAGS])
    nodes[n + L.NODE_FLAGS] = uint32(load(w, d, page, before))
    append(nodes, anchor, page)
    w[d + L.D_RESIDENT] += 1
    if victim != anchor:
        evict(w, d, victim)
    if full or w[d + L.D_FIRST_TOUCHES] == first_touches:
        w[d + L.D_STALLED_NS] += w[d + L.D_CLOCK_NS] - begin
    return True


@kernel
def promote(w, d, idle):
    """Count a reference to a page that was not referenced for ``idle`` ticks, once per age."""
    counts, edges = words_at(w[d + L.D_PROMOTIONS]), words_at(w[L.W_EDGES])
    edge = 0
    while idle >= edges[edge]:
        counts[edge] += 1
        edge += 1


# Time


@kernel
def advance(w, d, end):
    """Run a domain until its clock reaches ``end``, its references stop, or something is wrong."""
    references, nodes = cells_at(w[d + L.D_REFERENCES]), cells_at(w[d + L.D_NODES])
    pauses, anchor, hit_ns = words_at(w[d + L.D_PAUSES]), w[d + L.D_PAGES], w[d + L.D_HIT_NS]
    number, stop = w[d + L.D_NEXT], w[d + L.D_STOP]
    newest, first_edge = anchor * L.NODE_WORDS + L.NODE_PREV, words_at(w[L.W_EDGES])[0]
    while number < stop and w[d + L.D_CLOCK_NS] < end:
        if number == pauses[2 * w[d + L.D_PAUSE]]:
            w[d + L.D_CLOCK_NS] += pauses[2 * w[d + L.D_PAUSE] + 1]
            w[d + L.D_PAUSE] += 1
            continue
        word = int64(references[number])
        page = word & LOW
        n = page * L.NODE_WORDS
        number += 1
        if number & BALANCE_MASK == 0:
            balance(w, d)
        flags = int64(nodes[n + L.NODE_FLAGS])
        now = w[d + L.D_CLOCK_NS] >> L.SEEN_SHIFT
        idle = now - int64(nodes[n + L.NODE_SEEN])
        if idle >= first_edge and flags & L.TOUCHED:
            promote(w, d, idle)
        if flags & L.RESIDENT:
            if int64(nodes[newest]) != page:
                unlink(nodes, n)
                append(nodes, anchor, page)
        elif not fault(w, d, page):
            w[d + L.D_STATE] = L.OUT_OF_MEMORY
            break
        nodes[n + L.NODE_SEEN] = uint32(now)
        if word & L.WRITTEN:
            nodes[n + L.NODE_FLAGS] &= uint32(~(L.ON_DISK | L.FILE) & LOW)
        w[d + L.D_CLOCK_NS] += hit_ns
    w[d + L.D_NEXT] = number


@kernel
def whose_turn(w, until):
    """The slot whose clock is furthest behind, or NOBODY when all have reached ``until``."""
    best, earliest = int64(NOBODY), until
    for slot in range(L.SLOTS):
        d = L.DOMAINS + slot * L.DOMAIN_WORDS
        if w[d + L.D_STATE] == L.RUNNING and w[d + L.D_CLOCK_NS] < earliest:
            best, earliest = slot, w[d + L.D_CLOCK_NS]
    return best


def _run(world, until):
    """Run every domain until ``until``; the slot that came to its stop before, or NOBODY."""
    w = words_at(world)
    while True:
        slot = whose_turn(w, until)
        if slot == NOBODY:
            return slot
        d = L.DOMAINS + slot * L.DOMAIN_WORDS
        advance(w, d, min(until, w[d + L.D_CLOCK_NS] + SLICE_NS))
        if w[d + L.D_STATE] != L.RUNNING:
            return slot
        if w[d + L.D_NEXT] >= w[d + L.D_STOP]:
            w[d + L.D_STATE] = L.STOPPED
            return slot


def _balance(world, slot):
    """What a guest that stands still does by itself."""
    balance(words_at(world), L.DOMAINS + slot * L.DOMAIN_WORDS)
    return 0


def _release(world, slot, areas):
    """The host takes up to ``areas`` spare ones of a domain."""
    w, d = words_at(world), L.DOMAINS + slot * L.DOMAIN_WORDS
    release(w, d, max(min(areas, spare_areas(w, d)), 0))
    return 0


def _begin(world, slot):
    """The domain's limit before its first reference."""
    w, d = words_at(world), L.DOMAINS + slot * L.DOMAIN_WORDS
    w[d + L.D_LIMIT] = wanted_limit(w, d)
    return 0


def _cold(world, slot, now, idle_ticks, out):
    """Count pages by how long they were not referenced; answers the resident ones that were not
    for ``idle_ticks``."""
    w, counts = words_at(world), words_at(out)
    edges = words_at(w[L.W_EDGES])
    d = L.DOMAINS + slot * L.DOMAIN_WORDS
    nodes, idle_pages = cells_at(w[d + L.D_NODES]), 0
    for page in range(w[d + L.D_PAGES]):
        flags = int64(nodes[page * L.NODE_WORDS + L.NODE_FLAGS])
        if not flags & L.TOUCHED:
            continue
        idle = now - int64(nodes[page * L.NODE_WORDS + L.NODE_SEEN])
        idle_pages += idle >= idle_ticks and flags & L.RESIDENT != 0
        edge = 0
        while idle >= edges[edge]:
            counts[edge] += 1
            edge += 1
    return idle_pages


with cached_kernels(__file__) as _cache:

    def _entry(count: int, function: Any) -> Any:
        dispatcher = njit(int64(*(int64,) * count), cache=_cache, error_model="numpy")(function)
        return next(iter(dispatcher.overloads.values())).entry_point

    run = _entry(2, _run)
    balance_now = _entry(2, _balance)
    begin = _entry(2, _begin)
    release_now = _entry(3, _release)
    cold = _entry(5, _cold)
