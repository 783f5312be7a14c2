"""A client's miss-ratio curve: how many of its gets would miss with more or less tmem.

Owns: one estimator per client, SHARDS (Waldspurger, Park, Garthwaite, Ahmad, "Efficient MRC
construction with SHARDS", FAST 2015) over the keys of the client's puts and gets. The estimator is
off unless the pool was made with ``mrc``. A key that is not sampled costs its hash and one
comparison.

What is measured. The keys of a client form a stack; the key put last is on top. The distance of a
reference is the number of keys above the key it names. A tmem that drops its oldest page first must
be larger than that distance to have the page. A reference is one of

  a get            found or not. A get that takes the page out (private ephemeral pools) takes the
                   key off the stack, and so does a flush. Pages the guest has taken back are thus
                   not counted, and the stack continues the guest's own LRU list: RAM and x pages
                   of tmem together miss what one LRU list of both sizes would miss.
  a put again      of a key whose last put was refused. Frontswap asks tmem only for pages that tmem
                   took, so such a put is the only sign that a page came back from disk. The sign
                   comes late: keys put while the page was in RAM make its distance too large, never
                   too small.

A get of a key that is not on the stack misses at any size. The curve is pessimistic for persistent
pages of a guest that runs in a loop: tmem refuses new ones instead of dropping old ones.

How. The estimator keeps keys whose hash ends in ``shift`` zeroes, at most KEYS of them. When they
do not fit, the rate is halved; once KEYS keys at that rate stand for more pages than the pool has,
the oldest quarter is dropped instead. A sampled reference counts 1/rate times at distance/rate.
All gets are counted, and the difference to the sampled ones goes to distance 0 (SHARDS-adj). All
counts are halved every WINDOW references, so the curve is of the recent past.
The kernels of a pool call ``note`` by its address in the state. ``tmem.curves`` is the half that
needs no compiler: the estimators as memory, and the curve itself.
"""

from __future__ import annotations

from numba import int64, uint64

from tmem import layout
from tmem.curves import (
    BUCKETS,
    ESTIMATOR,
    KEYS,
    ONE,
    POSITIONS,
    SHIFT_MAX,
    TABLE,
    WINDOW,
    WORD_BITS,
)
from tmem.entry import entry
from tmem.index import Name, hash_page_name
from tmem.raw_memory import array_at, clear_record, kernel, ones, record_at

state_at, estimators_at = record_at(layout.STATE), array_at(ESTIMATOR)

REFUSED = 1 << 32
POOL_SHIFT = 33
MIX = 0xD6E8FEB86659FD93  # of a mixer by Pelle Evensen
HALF = 32


@kernel
def _hash(state, name):
    """A hash all of whose bits count, never 0; secret, so no guest chooses what is sampled."""
    mixed = hash_page_name(state, name)
    mixed = (mixed ^ (mixed >> uint64(HALF))) * uint64(MIX)
    mixed = (mixed ^ (mixed >> uint64(HALF))) * uint64(MIX)
    return mixed | uint64(1 << 63)


@kernel
def _is_sampled(it, mixed):
    return mixed & ((uint64(1) << uint64(it.shift)) - uint64(1)) == 0


@kernel
def _home(mixed):
    """Where a key is looked for first; these bits do not decide on sampling."""
    return int64(mixed >> uint64(SHIFT_MAX)) & (TABLE - 1)


@kernel
def _find(it, mixed):
    """The slot of a key, or the free one it belongs in."""
    slot = _home(mixed)
    while it.hash[slot] != 0 and it.hash[slot] != mixed:
        slot = (slot + 1) & (TABLE - 1)
    return slot


@kernel
def _flip(it, position):
    it.bits[position >> 6] ^= uint64(1) << uint64(position & 63)


@kernel
def _keys_below(it, position):
    """Keys at lower positions."""
    word = position >> 6
    mask = (uint64(1) << uint64(position & 63)) - uint64(1)
    total = ones(it.bits[word] & mask)
    for before in range(word):
        total += ones(it.bits[before])
    return total


@kernel
def _remove(it, slot):
    """Take a key off the stack and out of the table, closing the gap as Knuth's algorithm R."""
    _flip(it, it.place[slot])
    it.count -= 1
    free = slot
    while True:  # ends: at least half of the slots are free
        slot = (slot + 1) & (TABLE - 1)
        mixed = it.hash[slot]
        if mixed == 0:
            break
        if (slot - _home(mixed)) & (TABLE - 1) >= (slot - free) & (TABLE - 1):
            it.hash[free] = mixed
            it.name[free] = it.name[slot]
            it.place[free] = it.place[slot]
            free = slot
    it.hash[free] = uint64(0)


@kernel
def _renumber(it):
    """Give the keys the lowest positions, in order."""
    for slot in range(TABLE):
        if it.hash[slot] != 0:
            it.place[slot] = _keys_below(it, it.place[slot])
    for word in range(POSITIONS // WORD_BITS):
        bits = min(max(it.count - word * WORD_BITS, 0), WORD_BITS)
        it.bits[word] = uint64(-1 if bits == WORD_BITS else (int64(1) << bits) - 1)
    it.now = it.count


@kernel
def _make_room(it):
    """Halve the rate and drop the keys that are no longer sampled, or drop the oldest quarter."""
    rarer = it.shift < SHIFT_MAX and KEYS << it.shift < it.pages
    _renumber(it)
    if rarer:
        it.shift += 1
    slot = 0
    while slot < TABLE:  # a removal may put another key into the slot, so it is looked at again
        mixed = it.hash[slot]
        out = not _is_sampled(it, mixed) if rarer else it.place[slot] < KEYS // 4
        if mixed != 0 and out:
            _remove(it, slot)
        else:
            slot += 1


@kernel
def _push(it, mixed, name):
    """Put a key that is in no slot on top of the stack."""
    if it.count == KEYS:
        _make_room(it)
        if not _is_sampled(it, mixed):
            return
    if it.now == POSITIONS:
        _renumber(it)
    slot = _find(it, mixed)
    it.hash[slot] = mixed
    it.name[slot] = name
    it.place[slot] = it.now
    _flip(it, it.now)
    it.now += 1
    it.count += 1


@kernel
def _bucket(it, slot):
    """The bucket of the distance of a key."""
    above = it.count - _keys_below(it, it.place[slot]) - 1
    return min((above << it.shift) // it.width, BUCKETS)


@kernel
def _pass(it):
    """A reference has been counted: halve all counts when it is time."""
    it.wait -= 1
    if it.wait > 0:
        return
    it.wait = WINDOW // 2
    it.gets >>= 1
    it.sampled >>= 1
    for bucket in range(BUCKETS + 1):
        it.buckets[bucket] >>= 1


@kernel
def _note_put(it, mixed, name):
    """A put of a sampled key was answered; ``name`` has REFUSED when tmem refused the page."""
    slot = _find(it, mixed)
    if it.hash[slot] != 0:
        if it.name[slot] & REFUSED:
            it.buckets[_bucket(it, slot)] += ONE << it.shift
            _pass(it)
        _remove(it, slot)
    _push(it, mixed, name)


@kernel
def _note_get(it, mixed, takes):
    """A get of a sampled key is about to be answered."""
    slot = _find(it, mixed)
    found = it.hash[slot] != 0
    it.buckets[_bucket(it, slot) if found else BUCKETS] += ONE << it.shift
    it.sampled += ONE << it.shift
    if found and takes:
        _remove(it, slot)


@kernel
def _forget(state, it, kind, pool, oid):
    """Drop the keys of a pool, or of an object in it."""
    slot = 0
    while slot < TABLE:  # a removal may put another key into the slot, so it is looked at again
        mixed, name = it.hash[slot], it.name[slot]
        index = name & (REFUSED - 1)
        if (
            mixed != 0
            and name >> POOL_SHIFT == pool
            and (kind == layout.NOTE_DESTROY_POOL or mixed == _hash(state, Name(pool, oid, index)))
        ):
            _remove(it, slot)
        else:
            slot += 1


@kernel
def _reset(it):
    """Forget everything: another guest has this client's number now."""
    pages, width = it.pages, it.width
    clear_record(it)
    it.pages = pages
    it.width = width
    it.wait = WINDOW


@entry
def note(address, kind, client, pool, oid0, oid1, oid2, index):
    """Take notice of an operation: 1 when its key is sampled, else 0."""
    state, oid = state_at(address), (uint64(oid0), uint64(oid1), uint64(oid2))
    it, name = estimators_at(state.shards)[client], Name(pool, oid, index)
    if kind in (layout.NOTE_GET, layout.NOTE_TAKE):
        it.gets += ONE
        _pass(it)
    elif kind == layout.NOTE_OPEN_CLIENT:
        _reset(it)
        return 0
    elif kind in (layout.NOTE_FLUSH_OBJECT, layout.NOTE_DESTROY_POOL):
        _forget(state, it, kind, pool, name.oid)
        return 0
    mixed = _hash(state, name)
    if not _is_sampled(it, mixed):
        return 0
    if kind in (layout.NOTE_STORED, layout.NOTE_REFUSED):
        _note_put(it, mixed, pool << POOL_SHIFT | (kind == layout.NOTE_REFUSED) * REFUSED | index)
    elif kind == layout.NOTE_FLUSH:
        slot = _find(it, mixed)
        if it.hash[slot] != 0:
            _remove(it, slot)
    else:
        _note_get(it, mixed, kind == layout.NOTE_TAKE)
    return 1
