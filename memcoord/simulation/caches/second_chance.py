"""Misses of one page stream under second chance (CLOCK).

Owns: the replay by Corbató's CLOCK with one bit. Pages stand in a ring in the order they came. A
page comes in with its bit clear, and a hit sets the bit. On a miss with a full cache the hand looks
at the oldest place. While the page there has its bit set, the hand clears the bit and goes on. A
page with a clear bit gives its place to the new page. libCacheSim's ``Clock`` does the same.
Used by ``memcoord sim --trace``.
"""

# Kernel arguments are typed by their signatures.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
from numba import int64, njit
from numpy.typing import NDArray

from memcoord.simulation.caches.lru import check_stream, stream_type
from tmem.compiled_cache import cached_kernels

ABSENT, CLEAR, SET = range(3)


def _clock_misses(pages, page_count, cache_pages):
    bits = np.full(page_count, ABSENT, np.uint8)
    ring = np.empty(min(cache_pages, page_count), np.int32)
    hand = held = misses = 0
    for page in pages:
        if bits[page] != ABSENT:
            bits[page] = SET
            continue
        misses += 1
        bits[page] = CLEAR
        if held < len(ring):
            ring[held] = page
            held += 1
            continue
        while bits[ring[hand]] == SET:  # ends: every turn clears a bit
            bits[ring[hand]] = CLEAR
            hand = hand + 1 if hand + 1 < held else 0
        bits[ring[hand]] = ABSENT
        ring[hand] = page
        hand = hand + 1 if hand + 1 < held else 0
    return misses


with cached_kernels(__file__) as _cache:
    clock_misses = njit(int64(stream_type, int64, int64), cache=_cache, nogil=True)(_clock_misses)


def replay(pages: NDArray[np.int32], page_count: int, cache_pages: int) -> int:
    """Misses of a cache of ``cache_pages`` that starts empty; arguments and errors as
    ``lru.replay``."""
    check_stream(pages, page_count, cache_pages)
    if cache_pages == 0:
        return len(pages)
    return int(clock_misses(pages, page_count, cache_pages))
