"""What more or less memory would do for a client: its miss-ratio curve, sampled while it runs.

Owns: one estimator per client, SHARDS (Waldspurger, Park, Garthwaite, Ahmad, "Efficient MRC
construction with SHARDS", FAST 2015) over the keys of its puts and gets. Off unless the pool was
made with ``mrc``; a key that is not sampled costs its hash and one comparison.

What is measured. The keys of a client form a stack, the one put last on top; the distance of a
reference is the number of keys above the one it names, those a tmem of that many pages that drops
the oldest first would have to hold as well. A reference is

  a get            found or not. One that takes the page out (private ephemeral pools) takes the key
                   off the stack; so does a flush, hence a frontswap load of an exclusive guest. As
                   pages a guest takes back are not counted, the stack continues the guest's own LRU
                   list: its RAM and x pages of tmem together miss what one LRU of both would.
  a put again      of a key whose last put was refused. Frontswap asks tmem only for what tmem took,
                   so this is how one learns of a page that came back from disk. It is noticed late:
                   keys put while the page was in RAM make its distance too large, never too small.

A get of a key that is not on the stack misses at any size. Persistent pages are never dropped, tmem
refuses instead; for a guest that runs in a loop, x pages then do better than the curve says.

How. Keys whose hash ends in ``shift`` zeroes are kept, at most KEYS of them. When they do not fit,
the rate is halved; once KEYS keys at that rate stand for more pages than the pool has, the oldest
quarter is dropped instead. A sampled reference counts 1/rate times at distance/rate. Gets are all
counted, and what the sample has too many or too few goes to distance 0 (SHARDS-adj). Everything
is halved every WINDOW references, so the curve is of the recent past. Used by the kernels
and ``tmem.pool``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import cfunc, int64, uint64

from tmem.compiled_cache import cached_kernels
from tmem.index import hash_object
from tmem.layout import (
    H_SHARDS,
    MAX_CLIENTS,
    NOTE_DESTROY_POOL,
    NOTE_FLUSH,
    NOTE_FLUSH_OBJECT,
    NOTE_GET,
    NOTE_OPEN_CLIENT,
    NOTE_REFUSED,
    NOTE_STORED,
    NOTE_TAKE,
)
from tmem.raw_memory import kernel, key, ones, words_at

KEYS = 2048
TABLE = 2 * KEYS  # slots, a power of two
POSITIONS = 4 * KEYS
WORD_BITS = 64
WORD_BYTES = 8
BUCKETS = 1024
WINDOW = 1 << 16
SHIFT_MAX = 32
#: What a reference counts at rate 1, so that halving it a few times leaves something.
ONE = 1 << 8

# Words of an estimator.
W_PAGES = 0  # of the pool: deeper is not looked at
W_WIDTH = 1  # pages per bucket
W_SHIFT = 2  # the rate is 2 ** -shift
W_COUNT = 3  # keys
W_NOW = 4  # the next position; higher ones are higher on the stack
W_GETS = 5  # all of them, times ONE
W_SAMPLED = 6  # those sampled, times ONE / rate
W_WAIT = 7  # references until all counts are halved
W_BUCKETS = 8  # references by distance; the last is for all beyond
W_BITS = W_BUCKETS + BUCKETS + 1  # one per position: a key is there
W_HASH = W_BITS + POSITIONS // WORD_BITS  # per slot: 0 when free
W_NAME = W_HASH + TABLE  # per slot: pool, refused, index
W_PLACE = W_NAME + TABLE  # per slot: position
WORDS = W_PLACE + TABLE

REFUSED = 1 << 32
POOL_SHIFT = 33
MIX = 0xD6E8FEB86659FD93  # of a mixer by Pelle Evensen
HALF = 32


@kernel
def _hash(s, pool, oid0, oid1, oid2, index):
    """A hash all of whose bits count, never 0; secret, so no guest chooses what is sampled."""
    mixed = hash_object(s, pool, oid0, oid1, oid2) + key(s, 8) * uint64(index)
    mixed = (mixed ^ (mixed >> uint64(HALF))) * uint64(MIX)
    mixed = (mixed ^ (mixed >> uint64(HALF))) * uint64(MIX)
    return mixed | uint64(1 << 63)


@kernel
def _is_sampled(w, mixed):
    return mixed & ((uint64(1) << uint64(w[W_SHIFT])) - uint64(1)) == 0


@kernel
def _home(mixed):
    """Where a key is looked for first; these bits do not decide on sampling."""
    return int64(mixed >> uint64(SHIFT_MAX)) & (TABLE - 1)


@kernel
def _find(w, mixed):
    """The slot of a key, or the free one it belongs in."""
    slot = _home(mixed)
    while w[W_HASH + slot] != 0 and uint64(w[W_HASH + slot]) != mixed:
        slot = (slot + 1) & (TABLE - 1)
    return slot


@kernel
def _flip(w, position):
    w[W_BITS + (position >> 6)] ^= int64(1) << (position & 63)


@kernel
def _keys_below(w, position):
    """Keys at lower positions."""
    word = position >> 6
    mask = (uint64(1) << uint64(position & 63)) - uint64(1)
    total = ones(uint64(w[W_BITS + word]) & mask)
    for before in range(word):
        total += ones(uint64(w[W_BITS + before]))
    return total


@kernel
def _remove(w, slot):
    """Take a key off the stack and out of the table, closing the gap as Knuth's algorithm R."""
    _flip(w, w[W_PLACE + slot])
    w[W_COUNT] -= 1
    free = slot
    while True:  # ends: at least half of the slots are free
        slot = (slot + 1) & (TABLE - 1)
        mixed = w[W_HASH + slot]
        if mixed == 0:
            break
        if (slot - _home(uint64(mixed))) & (TABLE - 1) >= (slot - free) & (TABLE - 1):
            w[W_HASH + free] = mixed
            w[W_NAME + free] = w[W_NAME + slot]
            w[W_PLACE + free] = w[W_PLACE + slot]
            free = slot
    w[W_HASH + free] = 0


@kernel
def _renumber(w):
    """Give the keys the lowest positions, in order."""
    for slot in range(TABLE):
        if w[W_HASH + slot] != 0:
            w[W_PLACE + slot] = _keys_below(w, w[W_PLACE + slot])
    count = w[W_COUNT]
    for word in range(POSITIONS // WORD_BITS):
        bits = min(max(count - word * WORD_BITS, 0), WORD_BITS)
        w[W_BITS + word] = -1 if bits == WORD_BITS else (int64(1) << bits) - 1
    w[W_NOW] = count


@kernel
def _make_room(w):
    """Halve the rate and drop the keys that are out; or drop the oldest quarter."""
    rarer = w[W_SHIFT] < SHIFT_MAX and KEYS << w[W_SHIFT] < w[W_PAGES]
    _renumber(w)
    if rarer:
        w[W_SHIFT] += 1
    slot = 0
    while slot < TABLE:  # a removal may put another key into the slot, so it is looked at again
        mixed = w[W_HASH + slot]
        out = not _is_sampled(w, uint64(mixed)) if rarer else w[W_PLACE + slot] < KEYS // 4
        if mixed != 0 and out:
            _remove(w, slot)
        else:
            slot += 1


@kernel
def _push(w, mixed, name):
    """Put a key that is in no slot on top of the stack."""
    if w[W_COUNT] == KEYS:
        _make_room(w)
        if not _is_sampled(w, mixed):
            return
    if w[W_NOW] == POSITIONS:
        _renumber(w)
    slot = _find(w, mixed)
    w[W_HASH + slot] = int64(mixed)
    w[W_NAME + slot] = name
    w[W_PLACE + slot] = w[W_NOW]
    _flip(w, w[W_NOW])
    w[W_NOW] += 1
    w[W_COUNT] += 1


@kernel
def _bucket(w, slot):
    """The bucket of the distance of a key."""
    above = w[W_COUNT] - _keys_below(w, w[W_PLACE + slot]) - 1
    return min((above << w[W_SHIFT]) // w[W_WIDTH], BUCKETS)


@kernel
def _pass(w):
    """A reference has been counted: halve all counts when it is time."""
    w[W_WAIT] -= 1
    if w[W_WAIT] > 0:
        return
    w[W_WAIT] = WINDOW // 2
    w[W_GETS] >>= 1
    w[W_SAMPLED] >>= 1
    for bucket in range(BUCKETS + 1):
        w[W_BUCKETS + bucket] >>= 1


@kernel
def _note_put(w, mixed, name):
    """A put of a sampled key was answered; the refused ones carry REFUSED in their name."""
    slot = _find(w, mixed)
    if w[W_HASH + slot] != 0:
        if w[W_NAME + slot] & REFUSED:
            w[W_BUCKETS + _bucket(w, slot)] += ONE << w[W_SHIFT]
            _pass(w)
        _remove(w, slot)
    _push(w, mixed, name)


@kernel
def _note_get(w, mixed, takes):
    """A get of a sampled key is about to be answered."""
    slot = _find(w, mixed)
    found = w[W_HASH + slot] != 0
    w[W_BUCKETS + (_bucket(w, slot) if found else BUCKETS)] += ONE << w[W_SHIFT]
    w[W_SAMPLED] += ONE << w[W_SHIFT]
    if found and takes:
        _remove(w, slot)


@kernel
def _forget(s, w, kind, pool, oid0, oid1, oid2):
    """Drop the keys of a pool, or of an object in it."""
    slot = 0
    while slot < TABLE:  # a removal may put another key into the slot, so it is looked at again
        mixed, name = w[W_HASH + slot], w[W_NAME + slot]
        index = name & (REFUSED - 1)
        if (
            mixed != 0
            and name >> POOL_SHIFT == pool
            and (
                kind == NOTE_DESTROY_POOL
                or uint64(mixed) == _hash(s, pool, oid0, oid1, oid2, index)
            )
        ):
            _remove(w, slot)
        else:
            slot += 1


@kernel
def _reset(w):
    """Another guest has this number now."""
    for word in range(W_SHIFT, WORDS):
        w[word] = 0
    w[W_WAIT] = WINDOW


def _note(state, kind, client, pool, oid0, oid1, oid2, index):
    s = words_at(state)
    w = words_at(s[H_SHARDS] + client * (WORDS * WORD_BYTES))
    if kind in (NOTE_GET, NOTE_TAKE):
        w[W_GETS] += ONE
        _pass(w)
    elif kind == NOTE_OPEN_CLIENT:
        _reset(w)
        return 0
    elif kind in (NOTE_FLUSH_OBJECT, NOTE_DESTROY_POOL):
        _forget(s, w, kind, pool, oid0, oid1, oid2)
        return 0
    mixed = _hash(s, pool, oid0, oid1, oid2, index)
    if not _is_sampled(w, mixed):
        return 0
    if kind in (NOTE_STORED, NOTE_REFUSED):
        _note_put(w, mixed, pool << POOL_SHIFT | (kind == NOTE_REFUSED) * REFUSED | index)
    elif kind == NOTE_FLUSH:
        slot = _find(w, mixed)
        if w[W_HASH + slot] != 0:
            _remove(w, slot)
    else:
        _note_get(w, mixed, kind == NOTE_TAKE)
    return 1


_ARGUMENTS = (*(int64,) * 4, *(uint64,) * 3, int64)
with cached_kernels() as _cache:
    #: ``machine.note`` calls it by its address: 1 when the key is sampled, else 0.
    note_pointer = cfunc(int64(*_ARGUMENTS), nopython=True, cache=_cache)(_note)

note_address = int(note_pointer.address or 0)


def estimators(pages: int) -> npt.NDArray[np.int64]:
    """Estimators for every client of a pool of ``pages``, shape (MAX_CLIENTS, WORDS)."""
    made = np.zeros((MAX_CLIENTS, WORDS), np.int64)
    made[:, W_PAGES] = pages
    made[:, W_WIDTH] = max(-(-pages // BUCKETS), 1)
    made[:, W_WAIT] = WINDOW
    return made


def miss_ratios(
    estimator: npt.NDArray[np.int64], sizes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The miss ratio at each of ``sizes`` (pages, ascending): never rises, 1 at no pages.

    Ones before the first reference. May be called while the service runs: a count that is one
    reference behind does no harm.
    """
    counts = estimator[W_BUCKETS : W_BUCKETS + BUCKETS + 1].astype(np.float64)
    counts[0] = max(counts[0] + estimator[W_GETS] - estimator[W_SAMPLED], 0.0)
    total = counts.sum()
    if total <= 0:
        return np.ones(len(sizes))
    hits = np.concatenate([[0.0], np.cumsum(counts[:BUCKETS])])
    edges = np.arange(BUCKETS + 1) * float(estimator[W_WIDTH])
    return np.clip(1.0 - np.interp(sizes, edges, hits) / total, 0.0, 1.0)


def validate(estimator: npt.NDArray[np.int64]) -> None:
    """AssertionError unless the table, the stack and the counts agree."""
    hashes = estimator[W_HASH : W_HASH + TABLE]
    used = np.flatnonzero(hashes)
    places = estimator[W_PLACE : W_PLACE + TABLE][used]
    bits = np.unpackbits(
        estimator[W_BITS : W_BITS + POSITIONS // WORD_BITS].view(np.uint8), bitorder="little"
    )
    assert len(used) == estimator[W_COUNT] <= KEYS, "the count of keys"
    assert sorted(places) == np.flatnonzero(bits).tolist(), "a bit per key"
    assert not len(places) or places.max() < estimator[W_NOW] <= POSITIONS, "positions given out"
    mask = np.uint64((1 << int(estimator[W_SHIFT])) - 1)
    assert not np.any(hashes[used].view(np.uint64) & mask), "keys are sampled"
    homes = (hashes[used].view(np.uint64) >> np.uint64(SHIFT_MAX)) & np.uint64(TABLE - 1)
    for slot, home in zip(used.tolist(), homes.tolist(), strict=True):
        gap = np.arange(home, home + (slot - home) % TABLE) % TABLE
        assert np.all(hashes[gap] != 0), "a key can be found from its home"
    assert np.all(estimator[W_BUCKETS : W_BUCKETS + BUCKETS + 1] >= 0), "counts"
