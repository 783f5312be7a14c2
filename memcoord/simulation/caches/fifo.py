"""Misses of one page stream under FIFO.

Owns: the replay. The page that came in first leaves first, however often it was referenced since.
libCacheSim's ``FIFO`` does the same. Used by ``memcoord sim --trace``.
"""

# Kernel arguments are typed by their signatures.
# ruff: noqa: ANN001, ANN202

import numpy as np
from numba import int64, njit
from numpy.typing import NDArray

from memcoord.simulation.caches.lru import replayed, stream_type
from tmem.compiled_cache import cached_kernels


def _fifo_misses(pages, page_count, cache_pages):
    cached = np.zeros(page_count, np.bool_)
    ring = np.empty(min(cache_pages, page_count), np.int32)
    oldest = held = misses = 0
    for page in pages:
        if cached[page]:
            continue
        misses += 1
        cached[page] = True
        if held < len(ring):
            ring[held] = page
            held += 1
            continue
        cached[ring[oldest]] = False
        ring[oldest] = page
        oldest = oldest + 1 if oldest + 1 < held else 0
    return misses


with cached_kernels(__file__) as _cache:
    fifo_misses = njit(int64(stream_type, int64, int64), cache=_cache, nogil=True)(_fifo_misses)


def replay(pages: NDArray[np.int32], page_count: int, cache_pages: int) -> int:
    """Misses of a cache of ``cache_pages`` that starts empty; arguments and errors as
    ``lru.replay``."""
    return replayed(fifo_misses, pages, page_count, cache_pages)
