"""Exact LRU misses of one page stream.

Owns: the replay. A cache of c pages under LRU holds, at every moment, the last c distinct pages of
the stream: those whose last reference lies in a window that ends now. So the stream itself is the
LRU list. One array says when a page was last referenced, one number where the window begins; a miss
with a full cache moves the beginning past the first reference that is still its page's last. Each
reference is passed once at either end: no list, no pointer, two loads per reference.
Used by the simulator, ``memcoord sim`` and the benches.
"""

# Kernel arguments are typed by their signatures.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import int64, njit, types
from numpy.typing import NDArray

from tmem.compiled_cache import cached_kernels

#: From so many sizes on, one pass of reuse distances costs less than a replay of each.
MANY_SIZES = 16

#: A stream of dense page numbers as the kernels take it; the caller's may be read-only.
stream_type = types.Array(types.int32, 1, "C", readonly=True)


def _lru_misses(pages, page_count, cache_pages):
    last = np.full(page_count, -1, np.int64)
    start = held = misses = 0
    for now in range(len(pages)):
        page = pages[now]
        if last[page] < start:
            misses += 1
            if held < cache_pages:
                held += 1
            else:
                while last[pages[start]] != start:
                    start += 1
                start += 1
        last[page] = now
    return misses


with cached_kernels(__file__) as _cache:
    lru_misses = njit(int64(stream_type, int64, int64), cache=_cache, nogil=True)(_lru_misses)


def replay(pages: NDArray[np.int32], page_count: int, cache_pages: int) -> int:
    """Misses of an LRU cache of ``cache_pages`` that starts empty; first references count.

    ``pages``: one reference each, 0 to ``page_count`` - 1; ValueError when one is not, or when
    ``cache_pages`` is negative.
    """
    check_stream(pages, page_count, cache_pages)
    if cache_pages == 0:
        return len(pages)
    return int(lru_misses(pages, page_count, cache_pages))


def replay_many(pages: NDArray[np.int32], page_count: int, cache_pages: Iterable[int]) -> list[int]:
    """``replay`` for each of several sizes, in their order."""
    sizes = list(cache_pages)
    if len(sizes) < MANY_SIZES:
        return [replay(pages, page_count, size) for size in sizes]
    from testbed.sim.reuse import curve, histogram  # here only: it takes a second to compile

    check_stream(pages, page_count, min(sizes))
    misses = curve(histogram(pages, page_count))
    return [int(misses[min(size, page_count)]) for size in sizes]


def check_stream(pages: NDArray[np.int32], page_count: int, cache_pages: int) -> None:
    """ValueError unless every page is in 0..``page_count`` - 1 and the size can be."""
    if cache_pages < 0:
        raise ValueError(f"a cache of {cache_pages} pages cannot be")
    if len(pages) and (int(pages.min()) < 0 or int(pages.max()) >= page_count):
        raise ValueError(f"a page is not in 0..{page_count - 1}")
