"""The buckets of C are those that Python reads."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hypervisor.public.constants import LATENCY_COUNTS, Path
from hypervisor.public.latency import BUCKETS, bucket_low_ns


def test_every_bucket_begins_where_python_says(loops: Any) -> None:
    for bucket in range(BUCKETS):
        low, high = bucket_low_ns(bucket), bucket_low_ns(bucket + 1)
        assert loops.lib.latency_bucket(low) == bucket
        assert loops.lib.latency_bucket(high - 1) == bucket
    assert loops.lib.latency_bucket(0) == 0
    assert loops.lib.latency_bucket((1 << 64) - 1) == BUCKETS - 1


@given(path=st.integers(0, 2**64 - 1) | st.sampled_from(Path), ns=st.integers(0, 2**64 - 1))
def test_a_grant_is_counted_once_or_not_at_all(loops: Any, path: int, ns: int) -> None:
    """A path that nobody waits for, and a number that a hostile peer made up, touch nothing."""
    counts = loops.ffi.new("uint32_t[]", LATENCY_COUNTS)
    loops.lib.latency_note(counts, path, ns)
    waited = path in (Path.RING, Path.TRANSFER)
    assert sum(counts) == waited
    if waited:
        first = (path - Path.RING) * BUCKETS
        assert counts[first + loops.lib.latency_bucket(ns)] == 1
