"""A client's miss-ratio curve, as ``tmem.shards`` estimates it: its memory, and the curve itself.

Owns: the estimators' layout, the curve made from one, and its check. Used by ``tmem.pool``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tmem import layout
from tmem.compiled import load
from tmem.layout import I64, U64
from tmem.units import CURVES

KEYS = 2048
TABLE = 2 * KEYS  # slots, a power of two
POSITIONS = 4 * KEYS
WORD_BITS = 64
BUCKETS = 1024
WINDOW = 1 << 16
SHIFT_MAX = 32
#: What a reference counts at rate 1, so that halving it a few times leaves something.
ONE = 1 << 8

ESTIMATOR = layout.record(
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
)


def note_address() -> int:
    """The address of ``tmem.shards.note``, for the state of a pool."""
    return load(CURVES)["note"]


def estimators(pages: int) -> npt.NDArray[np.void]:
    """Estimators for every client of a pool of ``pages``: ESTIMATOR, shape (MAX_CLIENTS,)."""
    made = np.zeros(layout.MAX_CLIENTS, ESTIMATOR)
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
