"""Buckets of latencies, and what can be said of times that were counted in them.

Owns: the bounds of a bucket and the rule of how many samples a quantile needs. C counts
(``hypervisor/public/abi/latency.h``); whoever shows latencies reads them with these functions.
Pure, and nothing heavy: anybody may import it.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypervisor.public.constants import LATENCY_BUCKETS, LATENCY_LOW_SHIFT

BUCKETS = LATENCY_BUCKETS
STEPS_PER_POWER = 4
LOW_NS = 1 << LATENCY_LOW_SHIFT

#: Bucket -> how many were counted in it.
Counts = Mapping[int, int]


def bucket_low_ns(bucket: int) -> int:
    """Where ``bucket`` begins; the first holds all that is shorter, the last all that is longer."""
    power, step = divmod(bucket, STEPS_PER_POWER)
    return (LOW_NS << power) * (STEPS_PER_POWER + step) // STEPS_PER_POWER


def samples_needed(q: float) -> int:
    """How many samples the quantile ``q`` needs; of fewer it is no more than their largest."""
    return round(1 / (1 - q))


def quantile_ns(counts: Counts, q: float) -> float | None:
    """The quantile ``q`` of what was counted, in the middle of its bucket; None of too few."""
    total = sum(counts.values())
    if total < samples_needed(q):
        return None
    left = q * total
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0:
            break
    return (bucket_low_ns(bucket) + bucket_low_ns(bucket + 1)) / 2
