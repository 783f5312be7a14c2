"""Reuse distances of a page stream, the miss-ratio curve they give, and its estimate by sampling.

Owns: Mattson's stack distance ("Evaluation techniques for storage hierarchies", 1970). Here the
distance of a reference is the number of other distinct pages since the last reference to its page,
so an LRU cache of c pages hits where the distance is below c. Distances are counted by the method
of Bennett and Kruskal: one bit per reference tells whether it is still the last one of its page. A
word holds 64 bits, and a Fenwick tree, small enough for the L1 cache, sums the words. When the bits
run out, the set ones are renumbered, so that memory grows with the pages, not with the references.

Also SHARDS at a fixed rate (Waldspurger et al., FAST 2015), an estimate from the references to a
hashed sample of the pages; distances are divided by the rate. Used by ``memcoord sim --trace`` and
by the sweep's best static split.
"""

# Kernel arguments are typed by their signatures.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
from numba import int64, njit, types, uint64
from numpy.typing import NDArray

from tmem.compiled_cache import cached_kernels
from tmem.raw_memory import kernel, ones

WORD_BITS = 64
ALL_ONES = 0xFFFFFFFFFFFFFFFF

#: splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
MIX_LAST_SHIFT = 31
GOLDEN = 0x9E3779B97F4A7C15


@kernel
def _above(word, bit):
    """Ones of ``word`` at places higher than ``bit``."""
    return ones(word & ~(uint64(ALL_ONES) >> uint64(WORD_BITS - 1 - bit)))


@kernel
def _add(tree, at, amount):
    """Add ``amount`` to the count of the word ``at``."""
    at += 1
    while at < len(tree):
        tree[at] += amount
        at += at & -at


@kernel
def _until(tree, at):
    """The sum of the counts of the words before ``at``."""
    total = 0
    while at > 0:
        total += tree[at]
        at &= at - 1
    return total


@kernel
def _renumber(last, owner, bits, tree):
    """Give the references that are the last ones of their pages the lowest numbers, in their order;
    their count."""
    live = 0
    for position in range(len(owner)):
        page = owner[position]
        if last[page] == position:
            last[page] = live
            owner[live] = page
            live += 1
    bits[:] = 0
    tree[:] = 0
    for position in range(live):
        bits[position // WORD_BITS] |= uint64(1) << uint64(position % WORD_BITS)
    for word in range(live // WORD_BITS):
        _add(tree, word, WORD_BITS)
    return live


def _histogram(pages, page_count):
    found = np.zeros(page_count + 1, np.int64)
    last = np.full(page_count, -1, np.int32)
    words = 2 * (page_count // WORD_BITS + 1)
    bits = np.zeros(words, np.uint64)
    tree = np.zeros(words + 1, np.int32)  # sums of the words whose 64 bits are given out
    owner = np.zeros(words * WORD_BITS, np.int32)
    now = complete = 0  # ``complete``: ones in those words
    for page in pages:
        before = last[page]
        if before < 0:
            found[page_count] += 1
        else:
            word, at = int64(before) // WORD_BITS, int64(before) % WORD_BITS
            distance = _above(bits[word], at)
            bits[word] &= ~(uint64(1) << uint64(at))
            if word < now // WORD_BITS:
                distance += complete - _until(tree, word + 1) + ones(bits[now // WORD_BITS])
                _add(tree, word, -1)
                complete -= 1
            found[distance] += 1
        last[page] = now
        owner[now] = page
        bits[now // WORD_BITS] |= uint64(1) << uint64(now % WORD_BITS)
        now += 1
        if now % WORD_BITS == 0:
            count = ones(bits[now // WORD_BITS - 1])
            _add(tree, now // WORD_BITS - 1, count)
            complete += count
            if now == len(owner):
                now = _renumber(last, owner, bits, tree)
                complete = now // WORD_BITS * WORD_BITS
    return found


with cached_kernels(__file__) as _cache:
    _compiled = njit(
        int64[::1](types.Array(types.int32, 1, "C", readonly=True), int64), cache=_cache, nogil=True
    )(_histogram)


def histogram(pages: NDArray[np.int32], page_count: int) -> NDArray[np.int64]:
    """References per reuse distance, shape (``page_count`` + 1,); the last entry counts first
    references.

    ``pages`` are dense numbers, 0 to ``page_count`` - 1, and not checked.
    """
    found: NDArray[np.int64] = _compiled(pages, page_count)
    return found


def curve(distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """LRU misses by cache size, from a ``histogram``: entry c is for a cache of c pages.

    Shape (pages + 1,).
    """
    return np.cumsum(distances[::-1])[::-1].copy()


def sampled_curve(
    pages: NDArray[np.int32], page_count: int, rate: float, seed: int = 0
) -> NDArray[np.float64]:
    """``curve`` as SHARDS estimates it from about ``rate`` of the pages.

    ValueError unless 0 < ``rate`` <= 1. A sample may have more or fewer references than its share;
    as in SHARDS-adj, the difference counts as references of distance 0. ``seed`` chooses the
    sample.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"a rate of {rate}: must be above 0 and at most 1")
    chosen = np.flatnonzero(sample(page_count, rate, seed))
    number = np.full(page_count, -1, np.int32)
    number[chosen] = np.arange(len(chosen), dtype=np.int32)
    kept = number[pages]
    distances = histogram(kept[kept >= 0], len(chosen))
    distances[0] += round(len(pages) * rate) - int(distances.sum())
    sizes = np.ceil(np.arange(page_count + 1) * rate).astype(np.int64)
    return curve(distances)[np.minimum(sizes, len(chosen))] / rate


def sample(page_count: int, rate: float, seed: int = 0) -> NDArray[np.bool_]:
    """Whether each page is in the sample of SHARDS: its hash is below ``rate`` of the range."""
    if rate >= 1:
        return np.ones(page_count, np.bool_)
    mixed = np.arange(1, page_count + 1, dtype=np.uint64) + np.uint64(seed * GOLDEN & ALL_ONES)
    mixed *= np.uint64(GOLDEN)
    for shift, factor in MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(MIX_LAST_SHIFT)
    chosen: NDArray[np.bool_] = mixed < np.uint64(int(rate * 2.0**64))
    return chosen
