"""Counts of latencies taken from one another and added up.

Owns: the arithmetic of the sparse counts that the feed sends; ``hypervisor/public/latency.py`` says
what a bucket is. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypervisor.public.latency import Counts


def since(now: Counts, before: Counts) -> dict[int, int]:
    """What was counted between two states; all of ``now`` where the counting began anew."""
    if any(now.get(bucket, 0) < count for bucket, count in before.items()):
        return dict(now)
    grown = {bucket: count - before.get(bucket, 0) for bucket, count in now.items()}
    return {bucket: count for bucket, count in grown.items() if count}


def added(parts: Iterable[Counts]) -> dict[int, int]:
    """The sum of several counts."""
    total: dict[int, int] = {}
    for part in parts:
        for bucket, count in part.items():
            total[bucket] = total.get(bucket, 0) + count
    return total
