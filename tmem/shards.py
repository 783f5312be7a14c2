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
Used by ``tmem.pool``; the kernels call ``_note`` by its address in the state.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import cfunc, int64, uint64

from tmem.compiled_cache import cached_kernels
from tmem.index import Name, hash_page_name
from tmem.layout import (
    I64,
    MAX_CLIENTS,
    NOTE_DESTROY_POOL,
    NOTE_FLUSH,
    NOTE_FLUSH_OBJECT,
    NOTE_GET,
    NOTE_OPEN_CLIENT,
    NOTE_REFUSED,
    NOTE_STORED,
    NOTE_TAKE,
    STATE,
    U64,
)
from tmem.raw_memory import array_at, clear_record, kernel, ones, record_at

KEYS = 2048
TABLE = 2 * KEYS  # slots, a power of two
POSITIONS = 4 * KEYS
WORD_BITS = 64
BUCKETS = 1024
WINDOW = 1 << 16
SHIFT_MAX = 32
#: What a reference counts at rate 1, so that halving it a few times leaves something.
ONE = 1 << 8

ESTIMATOR = np.dtype(
    [
        ("pages", I64),  # of the pool: deeper is not looked at
        ("width", I64),  # pages per bucket
        ("shift", I64),  # the rate is 2 ** -shift
        ("count", I64),  # keys
        ("now", I64),  # the next position; higher ones are higher on the stack
        ("gets", I64),  # all of them, times ONE
        ("sampled", I64),  # those sampled, times ONE / rate
        ("wait", I64),  # references until all counts are halved
        ("buckets", I64, BUCKETS + 1),  # references by distance; the last is for all beyond
        ("bits", U64, POSITIONS // WORD_BITS),  # one per position: a key is there
        ("hash", U64, TABLE),  # per slot: 0 when free
        ("name", I64, TABLE),  # per slot: pool, refused, index
        ("place", I64, TABLE),  # per slot: position
    ]
)
state_at, estimators_at = record_at(STATE), array_at(ESTIMATOR)

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
            and (kind == NOTE_DESTROY_POOL or mixed == _hash(state, Name(pool, oid, index)))
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


def _note(address, kind, client, pool, oid0, oid1, oid2, index):
    state = state_at(address)
    it, name = estimators_at(state.shards)[client], Name(pool, (oid0, oid1, oid2), index)
    if kind in (NOTE_GET, NOTE_TAKE):
        it.gets += ONE
        _pass(it)
    elif kind == NOTE_OPEN_CLIENT:
        _reset(it)
        return 0
    elif kind in (NOTE_FLUSH_OBJECT, NOTE_DESTROY_POOL):
        _forget(state, it, kind, pool, name.oid)
        return 0
    mixed = _hash(state, name)
    if not _is_sampled(it, mixed):
        return 0
    if kind in (NOTE_STORED, NOTE_REFUSED):
        _note_put(it, mixed, pool << POOL_SHIFT | (kind == NOTE_REFUSED) * REFUSED | index)
    elif kind == NOTE_FLUSH:
        slot = _find(it, mixed)
        if it.hash[slot] != 0:
            _remove(it, slot)
    else:
        _note_get(it, mixed, kind == NOTE_TAKE)
    return 1


_ARGUMENTS = (*(int64,) * 4, *(uint64,) * 3, int64)
with cached_kernels() as _cache:
    #: ``kernels.note`` calls it by its address: 1 when the key is sampled, else 0.
    note_pointer = cfunc(int64(*_ARGUMENTS), nopython=True, cache=_cache)(_note)

note_address = int(note_pointer.address or 0)


def estimators(pages: int) -> npt.NDArray[np.void]:
    """Estimators for every client of a pool of ``pages``: ESTIMATOR, shape (MAX_CLIENTS,)."""
    made = np.zeros(MAX_CLIENTS, ESTIMATOR)
    made["pages"] = pages
    made["width"] = max(-(-pages // BUCKETS), 1)
    made["wait"] = WINDOW
    return made


def miss_ratios(estimator: np.void, sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The miss ratio at each of ``sizes`` (pages, ascending), float64 of the same shape.

    It never rises and is 1 at no pages; ones before the first reference. May be called while the
    service thread runs: a count that is one reference behind does no harm.
    """
    counts = estimator["buckets"].astype(np.float64)
    counts[0] = max(counts[0] + estimator["gets"] - estimator["sampled"], 0.0)
    total = counts.sum()
    if total <= 0:
        return np.ones(len(sizes))
    hits = np.concatenate([[0.0], np.cumsum(counts[:BUCKETS])])
    edges = np.arange(BUCKETS + 1) * float(estimator["width"])
    return np.clip(1.0 - np.interp(sizes, edges, hits) / total, 0.0, 1.0)


def validate(estimator: np.void) -> None:
    """AssertionError unless the table, the stack and the counts agree."""
    hashes = estimator["hash"]
    used = np.flatnonzero(hashes)
    places = estimator["place"][used]
    bits = np.unpackbits(estimator["bits"].view(np.uint8), bitorder="little")
    assert len(used) == estimator["count"] <= KEYS, "the count of keys"
    assert sorted(places) == np.flatnonzero(bits).tolist(), "a bit per key"
    assert not len(places) or places.max() < estimator["now"] <= POSITIONS, "positions given out"
    mask = np.uint64((1 << int(estimator["shift"])) - 1)
    assert not np.any(hashes[used] & mask), "keys are sampled"
    homes = (hashes[used] >> np.uint64(SHIFT_MAX)) & np.uint64(TABLE - 1)
    for slot, home in zip(used.tolist(), homes.tolist(), strict=True):
        gap = np.arange(home, home + (slot - home) % TABLE) % TABLE
        assert np.all(hashes[gap] != 0), "a key can be found from its home"
    assert np.all(estimator["buckets"] >= 0), "counts"
