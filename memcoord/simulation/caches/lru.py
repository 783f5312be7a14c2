"""Exact LRU misses of one page stream.

Owns: the replay. At every moment an LRU cache of c pages holds the last c distinct pages of the
stream: the pages whose last reference lies in a window that ends now. So the stream itself is the
LRU list. One array says when each page was last referenced, and one number where the window begins.
A miss with a full cache moves the beginning past the first reference that is still the last one of
its page. Each end of the window passes each reference once: no list, no pointer, two loads per
reference. Used by ``memcoord sim --trace``, the bench of policies and ``second_chance``.
"""

# Kernel arguments are typed by their signatures.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
from numba import int64, njit, types
from numpy.typing import NDArray

from tmem.compiled_cache import cached_kernels

#: How the kernels take a stream of dense page numbers; the caller's array may be read-only.
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
    """Misses of an LRU cache of ``cache_pages`` that starts empty; first references are misses.

    ``pages`` has a page per reference, each 0 to ``page_count`` - 1. ValueError when a page is not,
    or when ``cache_pages`` is negative.
    """
    check_stream(pages, page_count, cache_pages)
    if cache_pages == 0:
        return len(pages)
    return int(lru_misses(pages, page_count, cache_pages))


def check_stream(pages: NDArray[np.int32], page_count: int, cache_pages: int) -> None:
    """ValueError when a page is not in 0..``page_count`` - 1, or ``cache_pages`` is negative."""
    if cache_pages < 0:
        raise ValueError(f"a cache of {cache_pages} pages cannot be")
    if len(pages) and (int(pages.min()) < 0 or int(pages.max()) >= page_count):
        raise ValueError(f"a page is not in 0..{page_count - 1}")
