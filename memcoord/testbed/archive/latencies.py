"""Latencies of grants: counts in buckets, summed, and the quantiles that they carry.

Owns: the sums and how a latency is written. Pure. Buckets are ``hypervisor.public.latency``'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from memcoord.testbed.archive.columns import Columns, in_order, length, rows_where

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True)
class Latency:
    """Grants by one path on one clock; a quantile is None where the count does not carry it."""

    path: str
    word: str
    count: int
    p50: float | None
    p99: float | None


def by_path(latencies: Columns) -> list[Latency]:
    """A line per path and clock, over all domains and seconds."""
    if not length(latencies):
        return []
    found = []
    for path in in_order(latencies["path"]):
        own = rows_where(latencies, path=path)
        for word in in_order(own["word"]):
            rows = rows_where(own, word=word)
            count = int(rows["count"].sum())
            found.append(Latency(path, word, count, quantile(rows, 0.5), quantile(rows, 0.99)))
    return found


def quantile(rows: Columns, q: float) -> float | None:
    """The quantile in seconds, in the middle of its bucket; None of fewer than 1 / (1 - q)."""
    total = rows["count"].sum()
    if total * (1 - q) < 1 - 1e-9:
        return None
    order = np.argsort(rows["low_s"], kind="stable")
    reached = np.cumsum(rows["count"][order])
    at = order[int(np.searchsorted(reached, q * total))]
    return float(rows["low_s"][at] + rows["high_s"][at]) / 2


def seconds(value_s: float | None, digits: int = 2) -> str:
    """A time with its unit: ``0.51 ms``; words where there is none."""
    if value_s is None or math.isnan(value_s):
        return "too few"
    factor, unit = next((one for one in UNITS if abs(value_s) >= one[0]), UNITS[-1])
    shown = value_s / factor
    whole = max(digits - 1 - math.floor(math.log10(abs(shown))), 0) if shown else 0
    return f"{shown:,.{whole}f} {unit}"
