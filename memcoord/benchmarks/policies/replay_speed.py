"""References per second of the simulator's replay, beside libCacheSim on the same traces.

Owns: that measurement. Both begin with the 64-bit names of the pages in memory (libCacheSim: mapped
from a file in its fastest format) and end with the count of misses. The simulator numbers the pages
densely first, libCacheSim hashes them, and both times include that step. Rounds alternate, A B A B.
libCacheSim gets the hash table that serves it best, of about as many buckets as the cache has
pages: its default of 2**24 makes it several times slower. ``libcachesim`` need not be installed.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.errors import InternalError
from memcoord.simulation.caches import lru
from memcoord.simulation.caches.trace import Trace, load, number

TRACES = ("cc1", "sort")
CACHE_SHARE = 0.3  # of a trace's pages
ROUNDS = 7
#: One request of libCacheSim's ``oracleGeneral`` format.
REQUEST = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
NEVER = -2  # referenced again


@dataclass(frozen=True)
class TraceSpeed:
    """One trace at one cache size; rates in references per second, medians over the rounds."""

    trace: str
    references: int
    cache_pages: int
    misses: int
    refs_per_s: float
    libcachesim_refs_per_s: float | None  # None: it is not installed


@dataclass(frozen=True)
class Speed:
    """``sim_refs_per_s`` is the slowest trace's; the ratio is the worst of the traces."""

    sim_refs_per_s: float
    ratio: float | None
    traces: tuple[TraceSpeed, ...]


def measure_speed(traces: tuple[str, ...] = TRACES, *, rounds: int = ROUNDS) -> Speed:
    """Replay each trace (a file or a shipped name) ``rounds`` times on both sides.

    InternalError when the two do not count the same misses; ConfigError for a trace as ``load``.
    """
    found = tuple(_measure(load(name), rounds) for name in traces)
    ratios = [t.refs_per_s / t.libcachesim_refs_per_s for t in found if t.libcachesim_refs_per_s]
    return Speed(min(t.refs_per_s for t in found), min(ratios, default=None), found)


def write_requests(ids: NDArray[np.uint64], path: Path) -> None:
    """Write a stream as libCacheSim reads it. An id of 0 is not one it may have."""
    requests = np.zeros(len(ids), REQUEST)
    requests["id"], requests["size"], requests["next"] = ids + np.uint64(1), 1, NEVER
    requests.tofile(path)


def libcachesim_misses(
    path: Path, references: int, cache_pages: int, replacement: str = "LRU"
) -> tuple[int, float]:
    """Misses of a file of ``write_requests`` as libCacheSim counts them, and its seconds."""
    module: Any = __import__("libcachesim")
    kind = module.TraceType.ORACLE_GENERAL_TRACE
    reader = module.TraceReader(str(path), kind, module.ReaderInitParam(ignore_obj_size=True))
    cache = getattr(module, replacement)(cache_size=cache_pages, hashpower=cache_pages.bit_length())
    start = time.perf_counter()
    ratio, _ = cache.process_trace(reader)
    return round(ratio * references), time.perf_counter() - start


def _measure(trace: Trace, rounds: int) -> TraceSpeed:
    cache_pages = max(int(trace.page_count * CACHE_SHARE), 1)
    theirs_s: list[float] = []
    ours_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="memcoord-") as directory:
        path = Path(directory) / "trace.oracleGeneral"
        rival = importlib.util.find_spec("libcachesim") is not None
        if rival:
            write_requests(trace.ids, path)
        misses = lru.replay(*number(trace.ids), cache_pages)  # compiles it, too
        for _ in range(rounds):
            start = time.perf_counter()
            counted = lru.replay(*number(trace.ids), cache_pages)
            ours_s.append(time.perf_counter() - start)
            _same(misses, counted)
            if rival:
                counted, taken_s = libcachesim_misses(path, len(trace), cache_pages)
                _same(misses, counted)
                theirs_s.append(taken_s)
    theirs = len(trace) / median(theirs_s) if theirs_s else None
    speed = len(trace) / median(ours_s)
    return TraceSpeed(trace.name, len(trace), cache_pages, misses, speed, theirs)


def _same(misses: int, counted: int) -> None:
    if counted != misses:
        raise InternalError(f"{misses} misses in one replay, {counted} in another")
